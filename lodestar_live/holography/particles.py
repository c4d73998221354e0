"""After detection: z, its uncertainty and the polarizability of every particle."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Self

import numpy as np

from lodestar_live.data import Detections, Flag, FloatArray, Frame, Rows
from lodestar_live.errors import InputError, ModelError
from lodestar_live.holography.background import background_noise
from lodestar_live.holography.focus import Focus, MatchedFilter
from lodestar_live.holography.inline import check_one_sided, without_twin
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.polarizability import polarizability_um3
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.holography.radial import RadialWaves
from lodestar_live.model_card import CardDraft, ReferenceField
from lodestar_live.settings import HolographySettings

_POLARIZABILITIES = (
    "polarizability_um3", "sigma_polarizability_um3", "scale_polarizability_um3",
)  # fmt: skip
_DISAGREE_SIGMAS = 3.0
_DISAGREE_SHARE = 0.25
_NEAR_UM = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The training particle, which every other particle is compared with.

    Parameters
    ----------
    field
        Square crop with background 1 and the particle at its centre.
    pixel_size_um
        Of the crop.
    """

    field: ComplexImage
    pixel_size_um: float

    def to_card(self) -> ReferenceField:
        """Return the form in which a model's card has it."""
        data = np.ascontiguousarray(self.field, "<c8")
        height, width = data.shape
        return ReferenceField(
            shape=(height, width),
            complex64=base64.b64encode(data.tobytes()).decode(),
            pixel_size_um=self.pixel_size_um,
        )

    @classmethod
    def from_card(cls, card: ReferenceField) -> Self:
        """Read the form `to_card` returns."""
        try:
            data = np.frombuffer(base64.b64decode(card.complex64), "<c8")
            return cls(data.reshape(card.shape), card.pixel_size_um)
        except ValueError as error:
            raise ModelError(
                f"model card: its reference field cannot be read ({error!r}); "
                "train the model again."
            ) from error


class ParticleRefiner:
    """Measures z and polarizability at detected positions.

    Parameters
    ----------
    settings
        Optics, z range and calibration.
    reference
        The training particle; None: an ideal point.
    scale_error
        Relative error of the network's scale channel on its training particle.

    Notes
    -----
    ``z_um = z_scale * (distance that makes the particle sharp) + z_offset_um``. The
    distance is in the medium; the focus drive's travel differs by about
    n_immersion / n_medium and is never applied unasked.

    Examples
    --------
    >>> refine = ParticleRefiner(settings, reference=None)   # doctest: +SKIP
    >>> detections = refine(frame, detector(frame.pixels))   # doctest: +SKIP
    """

    def __init__(
        self,
        settings: HolographySettings,
        *,
        reference: Reference | None = None,
        scale_error: float = 0.0,
    ) -> None:
        if settings.mode == "inline":
            check_one_sided(settings.z_range_um)
        self.settings, self.reference = settings, reference
        self._scale_error = scale_error
        self._pixel_size_um = float("nan")
        self.waves: RadialWaves
        self._match: MatchedFilter

    @classmethod
    def from_card(cls, settings: HolographySettings, card: CardDraft) -> Self:
        """Return the refiner of a model: its training particle is the reference."""
        field = card.reference_field
        reference = None if field is None else Reference.from_card(field)
        if settings.reference_z_um is None and card.reference_z_um is not None:
            z_um = card.reference_z_um
            settings = settings.model_copy(update={"reference_z_um": z_um})
        errors = {gate.channel: gate.rmse for gate in card.gate}
        scale_error = errors.get("ln_scale", 0.0)
        return cls(settings, reference=reference, scale_error=scale_error)

    def __call__(self, frame: Frame, detections: Detections) -> Detections:
        """Return the detections with z_um, polarizability and flags filled in.

        A z the detector brought narrows the search. `polarizability_um3` becomes that
        of the integrated phase where the field has one; the network's own stays in
        `scale_polarizability_um3`, and a flag says where the two disagree.
        """
        field = frame.pixels
        if not np.iscomplexobj(field):
            raise InputError(
                f"frame {frame.index} holds {field.dtype} counts: expected a field. "
                "Put HologramPreparer in front."
            )
        if not len(detections):
            return detections
        self._adapt_to(frame.pixel_size_um)
        noise = background_noise(field)
        spectra = self.waves.spectra(field, detections.positions_px)
        rows = detections.rows.copy()
        focus = self._match(
            spectra, noise=noise, near_um=self._coarse(rows), reach_um=_NEAR_UM
        )
        _write_z(rows, focus, self.settings)
        if self.settings.mode == "offaxis":
            alpha, sigma = polarizability_um3(
                self.waves, spectra, focus.z_um, noise=noise
            )
            _write_polarizability(
                rows, alpha, sigma * focus.excess, scale_error=self._scale_error
            )
            for name in _POLARIZABILITIES:
                rows[name] *= self.settings.polarizability_scale
        return Detections(rows)

    def _adapt_to(self, pixel_size_um: float) -> None:
        """Build the filters for fields of this pixel size, once."""
        if pixel_size_um == self._pixel_size_um:
            return
        settings = self.settings
        optics = Optics(
            settings.wavelength_um, pixel_size_um, settings.n_medium, settings.na
        )
        self.waves = RadialWaves(
            optics, settings.z_range_um, radius_px=settings.radius_px
        )
        self._match = self._filter(optics)
        self._pixel_size_um = pixel_size_um

    def _filter(self, optics: Optics) -> MatchedFilter:
        z_range_um, reference = self.settings.z_range_um, self.reference
        point = MatchedFilter(self.waves, z_range_um)
        if reference is None:
            return point
        if not np.isclose(reference.pixel_size_um, optics.pixel_size_um, rtol=0.02):
            raise ModelError(
                f"the model's particle was recorded at {reference.pixel_size_um:.4g} "
                f"µm per pixel, these fields have {optics.pixel_size_um:.4g}. "
                "Train on a snapshot of this set-up."
            )
        centre = [[(side - 1) / 2 for side in reference.field.shape]]
        spectrum = self.waves.spectra(reference.field, centre)
        z_um = self.settings.reference_z_um
        if z_um is None:
            z_um = float(point(spectrum).z_um[0])
        if self.settings.mode == "inline":
            sharp = without_twin(reference.field, z_um, optics)
            spectrum, z_um = self.waves.spectra(sharp, centre), 0.0
        return MatchedFilter(
            self.waves, z_range_um, reference=spectrum[0], reference_z_um=z_um
        )

    def _coarse(self, rows: Rows) -> FloatArray | None:
        if not np.isfinite(rows["z_um"]).any():
            return None
        coarse = (rows["z_um"] - self.settings.z_offset_um) / self.settings.z_scale
        low, high = self.settings.z_range_um
        inside = (coarse > low) & (coarse < high)
        # Unknown or impossible: search everywhere.
        return np.where(inside, coarse, np.nan)


def _write_z(rows: Rows, focus: Focus, settings: HolographySettings) -> None:
    z_um = settings.z_scale * focus.z_um + settings.z_offset_um
    rows["z_um"] = np.where(focus.at_edge, np.nan, z_um)
    rows["sigma_z_um"] = abs(settings.z_scale) * focus.sigma_um
    rows["flags"] |= np.where(focus.at_edge, int(Flag.Z_AT_EDGE), 0).astype("i4")


def _write_polarizability(
    rows: Rows, alpha: FloatArray, sigma: FloatArray, *, scale_error: float
) -> None:
    by_scale = rows["scale_polarizability_um3"]
    error = np.hypot(sigma, scale_error * by_scale)
    limit = np.maximum(_DISAGREE_SIGMAS * error, _DISAGREE_SHARE * np.abs(alpha))
    disagrees = np.abs(by_scale - alpha) > limit  # False where NaN
    rows["flags"] |= np.where(disagrees, int(Flag.POLARIZABILITY_DISAGREES), 0).astype(
        "i4"
    )
    rows["polarizability_um3"] = alpha
    rows["sigma_polarizability_um3"] = sigma
