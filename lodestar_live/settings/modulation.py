"""Taking out a still background by moving the stage to and fro."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from lodestar_live.settings.section import Section


class ModulationSettings(Section):
    """Frames of offset stage positions are paired; what does not move is taken out."""

    least_offset_um: PositiveFloat = Field(
        0.7,
        le=10_000,
        description="Frames at least so far apart are paired; more than a particle's "
        "width, less than the stage's swing.",
    )
    n_frames: int = Field(
        32,
        ge=5,
        le=256,
        description="Frames whose median is the background; noise grows by 1 / n.",
    )
    period_s: PositiveFloat = Field(
        4.0, le=3600, description="Of the stage's motion; frames kept span it."
    )
