"""How a detector is trained and used, and how detections become tracks."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from lodestar_live.settings.section import Section

Place = tuple[FiniteFloat, FiniteFloat]
_Region = tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt]
_PLACES = TypeAdapter(tuple[Place, ...])


class TrainingSettings(Section):
    """How a detector is trained on one crop, or on several."""

    at_px: Place | tuple[Place, ...] | None = Field(
        None,
        description="(y, x) of the particle, or a list of such pairs: particles of "
        "varying shape or brightness. None: a good one is chosen.",
    )
    not_at_px: Place | tuple[Place, ...] | None = Field(
        None,
        description="(y, x) of something that is not wanted, or a list of such pairs.",
    )
    size_px: PositiveInt | None = Field(
        None, description="Side of the crop. None: estimated from the particle."
    )
    downsample: PositiveInt | None = Field(
        None,
        description="The scale of tracking: blocks of so many pixels a side count as "
        "one. None: 1, or more for crops from 128 px on.",
    )
    angle: bool = Field(
        False, description="Also measure which way particles point (`angle_deg`)."
    )
    pick: bool = Field(
        False, description="Open the first frame in the browser to click the particle."
    )
    network: Literal["live", "paper"] = "live"
    quality: Literal["fast", "best"] = "fast"
    start: Literal["warm", "scratch"] = Field(
        "scratch",
        description="warm: from generic weights, in a third of the time; less exact.",
    )
    steps: PositiveInt | None = Field(None, description="None: the network's default.")
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _has_starting_weights(self) -> Self:
        if self.start == "warm" and self.network != "live":
            raise ValueError(
                f"start = 'warm' with network = {self.network!r}: only 'live' has "
                "generic weights; leave out `start`, or take the live network"
            )
        return self

    @field_validator("at_px", "not_at_px", mode="before")
    @classmethod
    def _is_pair_or_pairs(cls, value: Any) -> Any:
        """Explain in one sentence what a union explains in four."""
        if value is None:
            return None
        is_list = isinstance(value, list | tuple) and len(value) > 0
        pairs = value if is_list and isinstance(value[0], list | tuple) else [value]
        try:
            _PLACES.validate_python(pairs)
        except ValidationError:
            raise ValueError(
                "expected (y, x) of one particle in px, or a list of such pairs, for "
                "example [[120, 88], [40, 210]]"
            ) from None
        return value


class DetectionSettings(Section):
    """How the model's maps become detections."""

    model: str | None = Field(
        None, description="Trained .onnx. None: train on the first frame."
    )
    threshold: float | None = Field(
        None,
        description="Absolute log score. None: the model's own, from its snapshot.",
    )
    alpha: NonNegativeFloat | None = Field(None, description="Exponent of the weight.")
    beta: NonNegativeFloat | None = Field(
        None, description="Exponent of the clustering metric."
    )
    quantile: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="The paper's per-frame quantile threshold instead.",
    )
    h_maxima: bool = Field(
        False,
        description="With `quantile`: the paper's h-maxima, the quantile being h.",
    )
    full_every: PositiveInt = Field(
        1,
        description="Look at the whole frame every n-th frame, and only around the "
        "live tracks between; pays for few particles on large sensors. 1: always.",
    )
    max_detections: PositiveInt = Field(
        5000, description="The best by score are kept; the rest is counted."
    )
    only_like_training: bool = Field(
        False, description="Drop detections that look unlike the training particle."
    )
    least_contrast: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Drop detections fainter than this share of the frame's upper "
        "quartile (background texture). 0: off.",
    )
    correct_pixels: bool = Field(
        True,
        description="Interpolate hot and dead pixels, which differ from all around "
        "them by more than a spot of sigma 0.8 px can.",
    )
    mask: str | None = Field(
        None,
        description="Image file as large as a frame, not 0 where particles are wanted; "
        "nothing else is learnt from, or found.",
    )
    region_px: _Region | None = Field(
        None,
        description="First row, first column, row and column after the last of the "
        "part of the frame that counts. None: all of it.",
    )
    engine: str = Field(
        "auto", description="auto, cpu, openvino, cuda, cuda-float32, tensorrt."
    )
    n_threads: PositiveInt | None = None


class LinkingSettings(Section):
    """How detections become tracks."""

    method: Literal["motion", "nearest"] = Field(
        "motion", description="nearest: plain linear sum assignment with a distance."
    )
    search_radius_px: PositiveFloat | None = Field(
        None, description="Largest step between two frames. None: learnt from the data."
    )
    max_gap_frames: NonNegativeInt | None = Field(
        None, description="Frames a track may be missed, e.g. 3. None: learnt."
    )
    min_track_frames: PositiveInt = Field(
        40, description="Length at which a trajectory counts as long (the paper's 40)."
    )
