"""The first step of the live pipeline for holograms: camera counts in, field out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lodestar_live.data import Frame, Pixels
from lodestar_live.errors import InputError, SettingsError
from lodestar_live.holography.background import Background
from lodestar_live.holography.inline import Inline
from lodestar_live.holography.offaxis import OffAxis, sampling_factor
from lodestar_live.holography.optics import Optics
from lodestar_live.settings import HolographySettings

Retrieval = OffAxis | Inline


class HologramPreparer:
    """Turns frames of camera counts into frames of fields.

    Parameters
    ----------
    settings
        Optics, kind of hologram and background.

    Attributes
    ----------
    retrieval
        None before the first frame. A change of the camera's ROI or binning starts a
        new one: carrier and background are then learnt again.

    Notes
    -----
    The field of an off-axis hologram is `factor` times smaller than the camera frame;
    its frame carries the field's pixel size, and field pixel j lies at camera pixel
    factor * j.

    Examples
    --------
    >>> prepare = HologramPreparer(HolographySettings(wavelength_um=0.633))
    >>> pipeline = Pipeline(detect, link, prepare=prepare)   # doctest: +SKIP
    """

    def __init__(self, settings: HolographySettings) -> None:
        self.settings = settings
        self.retrieval: Retrieval | None = None
        self._pixel_size_um = math.nan
        self._first: list[Pixels] = []
        self._n_first = 0

    def __call__(self, frame: Frame) -> Frame:
        """Return the same frame with the complex64 field as its pixels."""
        retrieval = self._retrieval_for(frame)
        if self._n_first < self.settings.background_frames:
            self._collect(retrieval, frame.pixels)
        return replace(
            frame,
            pixels=retrieval(frame.pixels),
            pixel_size_um=retrieval.optics.pixel_size_um,
        )

    @property
    def factor(self) -> int:
        """Camera pixels per field pixel; 1 before the first frame."""
        return 1 if self.retrieval is None else self.retrieval.factor

    @property
    def has_background(self) -> bool:
        """Whether the background asked for has been learnt."""
        is_learnt = self._n_first >= self.settings.background_frames
        return self.retrieval is not None and is_learnt

    def field_pixel_size_um(self, pixel_size_um: float) -> float:
        """Return the field's pixel size, given the camera's; NaN when unknown."""
        pixel_size_um = self.settings.pixel_size_um or pixel_size_um
        if self.settings.mode == "inline" or not math.isfinite(pixel_size_um):
            return pixel_size_um
        return pixel_size_um * sampling_factor(_optics(self.settings, pixel_size_um))

    def fingerprint(self) -> bytes:
        """Return what later fields depend on, beside a background that follows them."""
        made = self.retrieval
        if made is None:
            return b""
        facts = (made.shape, self._pixel_size_um, self._n_first)
        side = (made.carrier, made.is_sure) if isinstance(made, OffAxis) else ()
        return repr((*facts, *side)).encode()

    @property
    def optics(self) -> Optics:
        """Optics of the field; known from the first frame on."""
        if self.retrieval is None:
            raise InputError("no frame has been prepared yet: the optics are unknown.")
        return self.retrieval.optics

    def _retrieval_for(self, frame: Frame) -> Retrieval:
        pixel_size_um = self.settings.pixel_size_um or frame.pixel_size_um
        same_size = pixel_size_um == self._pixel_size_um
        if (
            self.retrieval is None
            or self.retrieval.shape != frame.pixels.shape
            or not same_size
        ):
            self.retrieval = make_retrieval(
                self.settings, frame.pixels.shape, pixel_size_um=pixel_size_um
            )
            self._pixel_size_um = pixel_size_um
            self._first, self._n_first = [], 0
        return self.retrieval

    def _collect(self, retrieval: Retrieval, hologram: Pixels) -> None:
        self._first.append(np.array(hologram))
        self._n_first += 1
        if self._n_first == self.settings.background_frames:
            retrieval.learn_background(self._first)
            self._first = []


def make_retrieval(
    settings: HolographySettings, shape: tuple[int, ...], *, pixel_size_um: float
) -> Retrieval:
    """Build the retrieval of holograms of one shape.

    Raises
    ------
    SettingsError
        The camera's pixel size is not known.
    """
    if not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise SettingsError(
            f"pixel_size_um = {pixel_size_um}: holograms need the camera's pixel size "
            "in the sample plane. Set it in Micro-Manager or as "
            "holography.pixel_size_um."
        )
    optics = _optics(settings, pixel_size_um)
    background = Background(
        correct_drift=settings.correct_drift, running_rate=settings.background_rate
    )
    height, width = shape
    retrieval: Retrieval
    if settings.mode == "inline":
        retrieval = Inline(optics, (height, width), background=background)
    else:
        retrieval = OffAxis(
            optics, (height, width), carrier=settings.carrier, background=background
        )
    if settings.background_file is not None:
        retrieval.learn_background(read_holograms(settings.background_file))
    return retrieval


def _optics(settings: HolographySettings, pixel_size_um: float) -> Optics:
    return Optics(settings.wavelength_um, pixel_size_um, settings.n_medium, settings.na)


def read_holograms(path: str | Path) -> Pixels:
    """Return holograms on disk as (n, y, x): .npy, .npz (first array) or TIFF.

    Raises
    ------
    InputError
        The file cannot be read or does not hold images.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            stack = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                stack = archive[archive.files[0]]
        elif path.suffix in (".tif", ".tiff"):
            import tifffile

            stack = tifffile.imread(path)
        else:
            import imageio.v3

            stack = imageio.v3.imread(path)
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as holograms ({error}).") from error
    stack = np.asarray(stack)
    if stack.ndim not in (2, 3) or 0 in stack.shape:
        raise InputError(f"{path}: shape {stack.shape}; expected (y, x) or (n, y, x).")
    return stack.reshape(-1, *stack.shape[-2:])
