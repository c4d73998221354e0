"""Where the crops are: of one particle, or of several that do not look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.frame.prepare import Mask
from lodestar_live.detection.model.scale import Scale
from lodestar_live.errors import InputError, ModelError
from lodestar_live.model_card import LARGEST_FACTOR, CropFacts
from lodestar_live.training.calibrate.report import TrainingReport
from lodestar_live.training.particle.choose import choose_particle, estimate_size
from lodestar_live.training.particle.measure import Particle, cut_crop, measure_particle

LARGEST_CROP_IMAGE_PX = 128
FULL_SCALE_CROP_PX = 64  # of twice that side on, an automatic scale leaves pixels out

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Crops:
    """Which parts of an image are learnt from.

    `scale`: of what the network sees. `places_px`: (y, x) of each particle, and
    `size_px`: side of all crops, both in pixels of the image.
    """

    scale: Scale
    places_px: tuple[Place, ...]
    size_px: int

    def names(self) -> list[str]:
        """Return what to call each crop in a message."""
        places = [f"at (y, x) = ({y:.0f}, {x:.0f})" for y, x in self.places_px]
        if len(places) == 1:
            return [f"the crop {places[0]}"]
        return [f"crop {number} {place}" for number, place in enumerate(places, 1)]


def choose_crops(
    image: Pixels,
    at: Place | Sequence[Place] | None,
    size: int | None,
    downsample: int | None,
    wanted: Mask | None = None,
) -> Crops:
    """Choose what was left out; everything in pixels of `image`.

    With a given scale the particle is looked for at that scale, and where it is
    `wanted`, (y, x).
    """
    scale = Scale(_checked_factor(downsample))
    if at is not None:
        places = as_places(at)
        size = _largest_size(image, places, scale) if size is None else size
    elif max(image.shape) <= LARGEST_CROP_IMAGE_PX:
        places = (((image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2),)
        size = min(image.shape) if size is None else size
    else:
        proposal = choose_particle(scale.shrink(image), scale.shrink_mask(wanted))
        places = (_pair(scale.to_camera(proposal.at_px)),)
        size = proposal.size_px * scale.factor if size is None else size
    if downsample is None:
        scale = Scale(max(1, size // FULL_SCALE_CROP_PX))
    return Crops(scale, places, size)


def as_places(at: Place | Sequence[Place]) -> tuple[Place, ...]:
    """Return one (y, x) pair, or several, as a tuple of pairs.

    Raises
    ------
    InputError
        It is neither, or a number is not finite.
    """
    try:
        values = np.asarray(at, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise InputError(
            f"at = {at!r}: expected (y, x) of one particle in px, or a list of such "
            "pairs, for example [(120, 88), (40, 210)]."
        )
    return tuple(_pair(place) for place in values)


def _largest_size(image: Pixels, places: tuple[Place, ...], scale: Scale) -> int:
    """Return the side that holds the largest of the particles, px."""
    small = scale.shrink(image)
    sizes = [estimate_size(small, _pair(scale.to_small(at))) for at in places]
    return max(sizes) * scale.factor


def _checked_factor(downsample: int | None) -> int:
    factor = 1 if downsample is None else downsample
    if not 1 <= factor <= LARGEST_FACTOR:
        raise InputError(
            f"downsample = {factor}: expected 1 (full resolution) to "
            f"{LARGEST_FACTOR}; leave it out and the crop's size decides."
        )
    return factor


def _pair(values: FloatArray) -> Place:
    return float(values[0]), float(values[1])


def measure_crops(small: Pixels, crops: Crops) -> tuple[Particle, ...]:
    """Cut and measure the particle of each crop.

    One camera took them, so they share the medians of noise and gain; contrasts stay
    as recorded, and each keeps the background of its place.

    Parameters
    ----------
    small
        The image at the scale of `crops`, (y, x).

    Raises
    ------
    InputError
        A crop lies outside the image or is too large.
    ModelError
        A crop holds no particle; the message says which.
    """
    particles = [_measure(small, crops, index) for index in range(len(crops.places_px))]
    noise = float(np.median([p.noise for p in particles]))
    gain = float(np.median([p.gain for p in particles]))
    return tuple(replace(p, noise=noise, gain=gain) for p in particles)


def _measure(small: Pixels, crops: Crops, index: int) -> Particle:
    scale = crops.scale
    place = _pair(scale.to_small(crops.places_px[index]))
    crop = cut_crop(small, place, crops.size_px // scale.factor)
    try:
        return measure_particle(crop)
    except ModelError as error:
        if len(crops.places_px) == 1:
            raise
        raise ModelError(f"{crops.names()[index]}: {error}") from error


def hardest(particles: Sequence[Particle]) -> Particle:
    """Return the first particle with the largest radius and the least contrast of all.

    The network and its views are laid out for that one; the others are easier.
    """
    return replace(
        particles[0],
        radius_px=max(p.radius_px for p in particles),
        contrast=min(p.contrast for p in particles),
    )


def crop_cards(
    crops: Crops, particles: Sequence[Particle], report: TrainingReport
) -> tuple[CropFacts, ...]:
    """Return what a model's card says of each crop.

    `at_px`, `size_px` and `error_px` in camera pixels; `centre_px` (the tracked point
    in the crop) and `radius_px` at the network's scale.
    """
    errors_px = [error * crops.scale.factor for error in report.crop_error_px]
    return tuple(
        CropFacts(
            at_px=place,
            size_px=crops.size_px,
            centre_px=centre,
            radius_px=particle.radius_px,
            snr=particle.snr,
            contrast=particle.contrast,
            error_px=error,
        )
        for place, particle, centre, error in zip(
            crops.places_px, particles, report.crop_centre_px, errors_px, strict=True
        )
    )
