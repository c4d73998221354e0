"""Training on one field crop: its views against the simulator, its gate, its model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lodestar_live import train
from lodestar_live.errors import InputError, ModelError
from lodestar_live.holography import Optics
from lodestar_live.holography.propagation import transfer_function
from lodestar_live.simulation.holograms import Sphere, complex_noise, render_field
from lodestar_live.training.augment.field_views import (
    FieldViewMaker,
    FieldViewSettings,
    TorchPropagator,
    locate_in_crop,
)
from lodestar_live.training.train_field import (
    FieldRecipe,
    Gate,
    fit_field,
    train_field,
)

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)
CENTRE = (31.8, 31.1)


def crop_at(z_um: float = 0.0, *, noise: float = 0.005) -> np.ndarray:
    rng = np.random.default_rng(3)
    field = render_field([Sphere(*CENTRE, z_um)], (64, 64), OPTICS)
    return field + complex_noise((64, 64), OPTICS, rng, std=noise)


def make_views(z_um: float = 0.0) -> FieldViewMaker:
    return FieldViewMaker(
        crop_at(z_um, noise=0.0),
        OPTICS,
        centre_px=CENTRE,
        settings=FieldViewSettings(noise=0.0, crowded=0.0),
        generator=torch.Generator().manual_seed(0),
    )


def test_torch_propagator_gives_the_numbers_of_numpy() -> None:
    propagator = TorchPropagator(96, OPTICS)
    for distance_um in (-4.0, 0.0, 2.5):
        ours = propagator.kernel(torch.tensor([distance_um]))[0].numpy()
        expected = transfer_function((96, 96), distance_um, OPTICS)
        assert np.abs(ours - expected).max() < 1e-5


@pytest.mark.parametrize(("crop_z_um", "bound"), [(0.0, 0.12), (1.5, 0.2)])
def test_views_look_as_the_simulator_says(crop_z_um: float, bound: float) -> None:
    """A view at (y, x, z, s) is the particle rendered there, scaled by s.

    What is left is the light that had left the crop; it grows with z.
    """
    maker = make_views(crop_z_um)
    assert maker.z_um == pytest.approx(crop_z_um, abs=0.05)
    views = maker.draw(24)
    errors = []
    for image, shift, (z_um, ln_scale) in zip(
        views.images.numpy(),
        views.shift_px.numpy(),
        views.additive.numpy(),
        strict=True,
    ):
        if abs(z_um) > 2:
            continue
        truth = render_field([Sphere(*shift, z_um)], (64, 64), OPTICS) - 1
        view = (image[0] + 1j * image[1]) * np.exp(-ln_scale)
        mirrored = -view.conj()
        # Half of the views are mirrored in z: another phase, the same place.
        misfit = min(np.linalg.norm(v - truth) for v in (view, mirrored))
        errors.append(misfit / np.linalg.norm(truth))
    assert len(errors) >= 6
    assert np.median(errors) < bound


def test_no_ghost_enters_a_view_from_the_crops_edge() -> None:
    """Reflecting padding would: light comes in that the particle never sent."""
    maker = make_views()
    sent = np.sum(np.abs(crop_at(noise=0.0) - 1) ** 2)
    views = maker.draw(48)
    for image, (_, ln_scale) in zip(
        views.images.numpy(), views.additive.numpy(), strict=True
    ):
        energy = np.sum(image**2) * np.exp(-2 * ln_scale)
        assert energy <= 1.02 * sent  # propagation keeps energy, windows lose it


def test_half_of_the_views_are_mirrored_along_the_light() -> None:
    views = make_views().draw(64)
    sign = [np.sign(image[1].sum()) for image in views.images.numpy()]
    assert all(sign)  # Im integrates to the polarizability in both
    assert views.additive[:, 0].abs().max() > 4


def test_range_grows_with_the_curriculum() -> None:
    views = make_views().draw(64, share=0.1)
    assert views.additive[:, 0].abs().max() <= 0.55


@pytest.mark.parametrize("z_um", [-2.0, 0.0, 1.5])
def test_particle_is_located_in_its_crop(z_um: float) -> None:
    found = locate_in_crop(crop_at(z_um), OPTICS)
    assert found == pytest.approx(CENTRE, abs=0.03)


def test_a_dead_channel_is_never_exported() -> None:
    with pytest.raises(ModelError, match="channel z_um"):
        train_field(crop_at(), OPTICS, recipe=FieldRecipe(steps=3, groups=1))
    assert Gate("z_um", 1.0, 0.1, -5, 5).problem == ""
    assert "slope 0.000" in Gate("z_um", 0.0, 3.0, -5, 5).problem
    assert Gate("z_um", 1.0, 2.0, -5, 5).problem


def test_train_takes_fields_with_their_channels() -> None:
    """The same trainer: a field's network that did not learn z is refused by it."""
    for channels in (None, ("y", "x", "z", "scale")):
        with pytest.raises(ModelError, match="channel z_um"):
            train(crop_at(), steps=3, channels=channels, optics=OPTICS)
    with pytest.raises(InputError, match="optics = None: expected"):
        train(crop_at())
    with pytest.raises(InputError, match="a complex field teaches"):
        train(crop_at(), channels=("y", "x"), optics=OPTICS)
    with pytest.raises(InputError, match="a camera image teaches"):
        train(np.ones((64, 64)), channels=("y", "x", "z"))
    with pytest.raises(InputError, match="one recipe; leave them out"):
        train(crop_at(), optics=OPTICS, quality="best")


def test_crops_that_are_no_fields_are_refused() -> None:
    with pytest.raises(InputError, match="complex"):
        train_field(np.ones((64, 64)), OPTICS)
    with pytest.raises(InputError, match="multiple of 4"):
        train_field(crop_at(), OPTICS, size=65)
    with pytest.raises(InputError, match="one crop only"):
        train_field(crop_at(), OPTICS, [(30.0, 30.0), (34.0, 31.0)])


def test_same_seed_gives_the_same_training() -> None:
    losses = []
    for _ in range(2):
        maker = make_views()
        _, fitted = fit_field(maker, FieldRecipe(steps=3, groups=1))
        losses.append(fitted.loss)
    assert losses[0] == losses[1]
