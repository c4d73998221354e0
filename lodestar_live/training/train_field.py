"""`train_field`: one particle in one field gives y, x, z and polarizability of all.

The loop is LodeSTAR's with two more symmetries. z is learnt last and least willingly,
so its range grows during training; and because a network whose z channel is dead still
has a low loss, a gate measures the slope of every channel before anything is exported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from lodestar_live.channels import by_name
from lodestar_live.data import Pixels
from lodestar_live.detection import Detector
from lodestar_live.detection.model.weights import NetworkWeights
from lodestar_live.detection.model.writer import write_model
from lodestar_live.errors import InputError, ModelError
from lodestar_live.holography.background import background_noise
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.particles import Reference
from lodestar_live.holography.polarizability import polarizability_um3
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.holography.radial import RadialWaves
from lodestar_live.model_card import (
    CardDraft,
    ChannelGate,
    CropPlace,
    OpticsFacts,
    TrainingFacts,
)
from lodestar_live.training.augment.field_views import (
    FieldViewMaker,
    FieldViewSettings,
    locate_in_crop,
)
from lodestar_live.training.fit import Fit, Progress, Recipe, fit
from lodestar_live.training.losses import (
    Reach,
    kept_cells,
    normalised_weights,
    pool,
    territory,
)
from lodestar_live.training.model import Model
from lodestar_live.training.network.equivariant import SymmetricStack
from lodestar_live.training.network.network import (
    Network,
    export_weights,
    initialise,
    live_network,
)
from lodestar_live.training.particle.crops import Place, as_places
from lodestar_live.training.particle.measure import measure_particle
from lodestar_live.training.prefetch import Lesson, cell_positions

CHANNELS = ("y", "x", "z", "scale")
IMAGE_CHANNELS = ("angle",)  # that images teach beside y and x, if asked for
OUTPUTS = (*(by_name(name).output or "" for name in CHANNELS), "rho")
CROP_PX = 64
_GAIN = 4.0  # brings E - 1 to about 1
_Z_WEIGHT = 2.0  # 0.5 µm counts as much as 1 px or a factor e
_REACH = Reach(near_px=10.0, far_px=14.0, here_px=3.0)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FieldRecipe:
    """How a field network is trained; see `training.Recipe`."""

    steps: int = 6000
    batch: int = 8
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    curriculum: float = 0.4  # share of the steps in which the z range grows from 10 %
    within: float = 0.05
    near: float = 0.5
    weight_penalty: float = 0.05
    groups: int = 5  # of eight channels each

    def loop(self) -> Recipe:
        """Return what the loop of all trainings is told."""
        return Recipe(
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            within=self.within,
            near=self.near,
            weight_penalty=self.weight_penalty,
            anchor_rest=1.0,
            channel_weights=(1.0, 1.0, _Z_WEIGHT, 1.0),
            near_everywhere=True,
            warm_up=self.warm_up,
            betas=(0.9, 0.99),
            weight_decay=0.01,
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """What unseen propagated and rescaled views of the crop say about each channel.

    `slope` is that of the found against the true value; `rmse` the error after it, in
    the channel's unit, over `low` to `high`.
    """

    channel: str
    slope: float
    rmse: float
    low: float
    high: float

    @property
    def problem(self) -> str:
        """Why this channel must not be used; empty if it may."""
        spread = (self.high - self.low) / math.sqrt(12)
        if abs(self.slope - 1) <= 0.1 and self.rmse <= 0.25 * spread:
            return ""
        return (
            f"channel {self.channel}: slope {self.slope:.3f} (expected 0.9 to 1.1), "
            f"error {self.rmse:.3g} over {self.low:.3g} to {self.high:.3g}"
        )


def learns_field(
    image: Pixels, channels: Sequence[str] | None, optics: Optics | None
) -> bool:
    """Tell whether the channels are those of a field; refuse what no image teaches.

    Raises
    ------
    InputError
        The image has not these channels, or the field's optics are missing.
    """
    is_field = np.iscomplexobj(image)
    usual = CHANNELS if is_field else CHANNELS[:2]
    more = set() if is_field else {*IMAGE_CHANNELS}
    if channels is not None and {*channels} - more != {*usual}:
        what = "a complex field" if is_field else "a camera image"
        also = "" if is_field else f", and {' and '.join(IMAGE_CHANNELS)} if asked for"
        raise InputError(
            f"channels = {tuple(channels)}: {what} teaches {usual}{also}; leave it "
            "out, or retrieve the field from the hologram first (`OffAxis`)."
        )
    if is_field and optics is None:
        raise InputError(
            "optics = None: expected the `Optics` of the field, whose wavelength and "
            "pixel size say how it propagates."
        )
    return is_field


def learn_field(
    field: ComplexImage,
    optics: Optics | None,
    at: Place | Sequence[Place] | None = None,
    size: int | None = None,
    *,
    seed: int = 0,
    recipe: FieldRecipe | None = None,
    views: FieldViewSettings | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a field detector on one particle; see `train` and `train_field`."""
    if optics is None:
        raise InputError("optics = None: expected the `Optics` of the field.")
    recipe = recipe or FieldRecipe()
    size = CROP_PX if size is None else size
    crop = _cut(np.asarray(field), at, size)
    noise = max(background_noise(np.asarray(field)), 1e-3)
    views = views or FieldViewSettings(side_px=size, noise=3 * noise)
    generator = torch.Generator().manual_seed(seed)
    centre_px = locate_in_crop(crop, optics)
    maker = FieldViewMaker(
        crop, optics, centre_px=centre_px, settings=views, generator=generator
    )
    network, fitted = fit_field(maker, recipe, progress)
    gates = examine_channels(network, maker, noise=noise)
    _require_passed(gates, size)
    facts = TrainingFacts(
        seed=seed,
        steps=recipe.steps,
        batch=recipe.batch,
        seconds=round(fitted.seconds, 1),
        noise=noise,
    )
    card = _make_card(crop, optics, centre_px, maker, gates).updated(training=facts)
    weights = export_weights(_without_gain(network))
    card = card.updated(**_choose_threshold(weights, card, maker))
    particle = measure_particle(np.abs(crop - 1).astype(float))
    return Model(weights, card, (particle,), fitted.history)


def train_field(
    field: ComplexImage,
    optics: Optics,
    at: tuple[float, float] | None = None,
    size: int = 64,
    *,
    seed: int = 0,
    recipe: FieldRecipe | None = None,
    views: FieldViewSettings | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a field detector on one particle: `train` with the channels of a field.

    Parameters
    ----------
    field
        Shape (y, x), complex, background 1 (from `OffAxis`).
    optics
        Of the field.
    at
        (y, x) of the particle, px; None: the field is the crop itself.
    size
        Side of the crop, px; a multiple of 4.
    seed
        Same seed, same machine: same model.
    recipe, views
        Left out: 6000 steps, z to ±5.5 µm, scale from 0.1 to 3, noise up to three
        times the field's own.
    progress
        Called every ten steps.

    Raises
    ------
    ModelError
        The z or the scale channel did not learn; nothing is exported silently.
    """
    return learn_field(
        field,
        optics,
        at,
        size,
        seed=seed,
        recipe=recipe,
        views=views,
        progress=progress,
    )


def _require_passed(gates: list[Gate], size_px: int) -> None:
    problems = [gate.problem for gate in gates if gate.problem]
    if problems:
        raise ModelError(
            f"training on a field crop of {size_px} px: {'; '.join(problems)}. Train "
            "longer, or on a brighter particle; a dead channel is not exported."
        )


@torch.no_grad()
def examine_channels(
    network: Network, maker: FieldViewMaker, *, noise: float, n: int = 256
) -> list[Gate]:
    """Measure slope and error of z and ln(scale) on fresh views at the crop's noise."""
    settings = maker.settings
    maker.settings = replace(settings, crowded=0.0, noise=2 * noise)
    views = maker.draw(n)
    maker.settings = settings
    votes, rho = network.votes(_GAIN * views.images)
    found = pool(votes, normalised_weights(rho)).positions[:, 2:].numpy()
    truth = views.additive.numpy()
    # A particle scaled to a tenth 5 µm away is below the noise: judged is what shows.
    bright = truth[:, 1] > math.log(0.3)
    gates = []
    for index, name in enumerate(OUTPUTS[2:-1]):
        x, y = truth[bright, index], found[bright, index]
        slope = np.polyfit(x, y, 1)[0]
        rmse = float(np.sqrt(np.mean((y - x) ** 2)))
        gates.append(Gate(name, float(slope), rmse, float(x.min()), float(x.max())))
    return gates


def fit_field(
    maker: FieldViewMaker, recipe: FieldRecipe, progress: Progress | None = None
) -> tuple[Network, Fit]:
    """Train a network on a field's views with the loop of all trainings."""
    layers = live_network(
        None,
        fields=recipe.groups,
        dilations=(1, 1, 2, 2, 1, 1),
        in_channels=2,
        n_extra=2,
    )
    network = Network(layers, stride=4, channels=OUTPUTS)
    initialise(network, maker.generator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = _draw_batches(network, maker, recipe)
    # The views' own labels are exact: the point that they agree on is known and rests.
    anchor = torch.zeros(1, 4)
    loop = recipe.loop()
    return network, fit(network, batches, loop, anchor=anchor, progress=progress)


def _draw_batches(
    network: Network, maker: FieldViewMaker, recipe: FieldRecipe
) -> Generator[Lesson]:
    """Yield one mini-batch per step; the range of z grows meanwhile."""
    cells_px = cell_positions(maker.settings.side_px, network.stride)
    for step in range(recipe.steps):
        done = step / recipe.steps
        share = min(1.0, 0.1 + 0.9 * done / recipe.curriculum)
        views = maker.draw(recipe.batch, share=share)
        images = network.prepare(_GAIN * views.images)
        placed = views.shift_px
        shared = territory(placed, views, cells_px, _REACH)
        kept = shared.own * kept_cells(shared.own.shape, maker.generator)
        inside = ((placed >= 0) & (placed < maker.settings.side_px)).all(1)
        yield Lesson(images, views, shared, kept, inside / inside.sum())


def _cut(
    field: ComplexImage, at: Place | Sequence[Place] | None, size: int
) -> ComplexImage:
    if not np.iscomplexobj(field) or field.ndim != 2:
        raise InputError(
            f"field of shape {field.shape} and type {field.dtype}: expected a complex "
            "(y, x) field; retrieve it from the hologram first (`OffAxis`)."
        )
    if size % 4 or size > min(field.shape):
        raise InputError(
            f"size = {size}: expected a multiple of 4, at most {min(field.shape)} px."
        )
    if at is not None and np.shape(at) != (2,):
        raise InputError(
            f"at = {at!r}: expected (y, x) of one particle in px; a field detector "
            "learns from one crop only."
        )
    middle = ((field.shape[0] - 1) / 2, (field.shape[1] - 1) / 2)
    ((y, x),) = as_places(middle if at is None else at)
    top, left = (
        int(np.clip(round(c - (size - 1) / 2), 0, side - size))
        for c, side in zip((y, x), field.shape, strict=True)
    )
    return field[top : top + size, left : left + size]


def _make_card(
    crop: ComplexImage,
    optics: Optics,
    centre_px: tuple[float, float],
    maker: FieldViewMaker,
    gates: list[Gate],
) -> CardDraft:
    waves = RadialWaves(optics, (-10, 10))
    alpha, _ = polarizability_um3(
        waves, waves.spectra(crop, [centre_px]), np.array([maker.z_um])
    )
    centred = Reference(_centred(crop, centre_px), optics.pixel_size_um)
    return CardDraft(
        network="live",
        input="field",
        optics=OpticsFacts(**asdict(optics)),
        crop=CropPlace(size_px=len(crop)),
        centre_px=centre_px,
        z_um=0.0,
        polarizability_um3=float(alpha[0]),
        reference_z_um=maker.z_um,
        reference_field=centred.to_card(),
        gate=tuple(ChannelGate(**asdict(gate)) for gate in gates),
    )


def _centred(crop: ComplexImage, centre_px: tuple[float, float]) -> ComplexImage:
    """Move the particle to the exact centre of the crop."""
    spectrum = np.fft.fft2(crop - 1)
    for axis, c in enumerate(centre_px):
        shift = (crop.shape[axis] - 1) / 2 - c
        ramp = np.exp(-2j * np.pi * np.fft.fftfreq(crop.shape[axis]) * shift)
        spectrum = spectrum * (ramp[:, None] if axis == 0 else ramp)
    result: ComplexImage = (1 + np.fft.ifft2(spectrum)).astype(np.complex64)
    return result


def _without_gain(network: Network) -> Network:
    """Fold the input gain into the first convolution."""
    stack = next(m for m in network.layers if isinstance(m, SymmetricStack))
    stack.scale_input(_GAIN)
    return network


def _choose_threshold(
    weights: NetworkWeights, card: CardDraft, maker: FieldViewMaker
) -> dict[str, Any]:
    """Put the threshold between the scores of noise and those of dim particles."""
    detector = Detector(write_model(weights, card), threshold=-1e3, n_threads=1)
    settings = maker.settings
    low, high = settings.log10_scale
    maker.settings = replace(settings, crowded=0.0, log10_scale=(low / 2, high))
    views = maker.draw(64)
    maker.settings = settings
    particles: list[float] = []
    noise: list[float] = []
    grain = torch.randn(views.images.shape, generator=maker.generator)
    blank = grain * views.noise[:, None, None, None]
    for image, empty in zip(views.images.numpy(), blank.numpy(), strict=True):
        for pixels, scores in ((image, particles), (empty, noise)):
            found = detector(1 + pixels[0] + 1j * pixels[1]).rows["score"]
            scores.append(found.max(initial=-30.0))
    dim, loud = np.quantile(particles, 0.05), np.quantile(noise, 0.98)
    if dim <= loud:
        _LOG.warning("dim particles score no higher than noise: %.2f, %.2f", dim, loud)
    return {
        "threshold": float(max(loud, 0.5 * (dim + loud))),
        "threshold_scores": {"dim_particles": float(dim), "noise": float(loud)},
    }
