"""Optics and retrieval of the field."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from lodestar_live.settings.section import Section


class HolographySettings(Section):
    """Optics and retrieval of the field; only for holograms."""

    mode: Literal["offaxis", "inline"] = Field(
        "offaxis",
        description="offaxis: tilted reference wave, the whole field; inline: "
        "intensity only, so z_range_um must lie on one side of 0.",
    )
    wavelength_um: PositiveFloat = Field(description="Vacuum wavelength, e.g. 0.633.")
    n_medium: PositiveFloat = Field(1.33, description="Refractive index of the medium.")
    na: PositiveFloat = Field(1.3, description="Numerical aperture of the objective.")
    pixel_size_um: PositiveFloat | None = Field(
        None, description="Camera pixel in the sample. None: what Micro-Manager says."
    )
    carrier: tuple[float, float] | None = Field(
        None,
        description="Fringes, cycles per camera pixel (y, x), towards the sideband "
        "that holds the field. None: found on the first frame.",
    )
    correct_drift: bool = Field(
        True, description="Remove piston, tilt and gain of every frame."
    )
    background_file: str | None = Field(
        None, description="Holograms of an empty region, averaged (.tif, .npy)."
    )
    background_frames: NonNegativeInt = Field(
        0, description="Average the first frames of the run instead, e.g. 16."
    )
    background_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each frame worked into the background, e.g. 0.02; "
        "0: it stays as learnt.",
    )
    z_range_um: tuple[float, float] = Field(
        (-5.0, 5.0), description="Planes searched for particles, along the light."
    )
    z_scale: float = Field(
        1.0,
        description="µm reported per µm refocused, with sign; measured by "
        "`calibrate --z`. 1: true distance in the medium.",
    )
    z_offset_um: float = Field(0.0, description="Added to z after scaling.")
    polarizability_scale: PositiveFloat = Field(
        1.0,
        description="By which polarizabilities are multiplied; measured on known "
        "particles by `calibrate --polarizability`.",
    )
    reference_z_um: float | None = Field(
        None, description="z of the training particle. None: measured on its crop."
    )
    radius_px: PositiveInt = Field(
        32, description="Of the window around a particle, field pixels."
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        low, high = self.z_range_um
        if not low < high:
            raise ValueError(f"z_range_um = {self.z_range_um}: expected low < high")
        if self.mode == "inline" and low < 0 < high:
            raise ValueError(
                f"z_range_um = {self.z_range_um}: an inline hologram refocuses "
                "equally sharply at +z and -z (twin image); expected both ends on "
                f"one side of 0, e.g. (0, {high})"
            )
        if self.z_scale == 0:
            raise ValueError("z_scale = 0: expected the factor calibrate --z measured")
        return self
