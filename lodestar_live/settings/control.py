"""What may move: stage, focus drive and device properties."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lodestar_live.settings.section import Range, Section, Travel

Choice = Literal["nearest", "brightest", "fastest"]


class TravelLimits(Section):
    """The box the stage may never leave, in stage coordinates."""

    y_um: Travel
    x_um: Travel
    z_um: Travel | None = Field(None, description="None: the focus drive never moves.")


class ControlSettings(Section):
    """What may move, and how far. Nothing moves unless `armed` and `limits` are set."""

    follow: bool = Field(False, description="Keep one particle centred with the stage.")
    armed: bool = Field(False, description="False: dry run, commands only recorded.")
    limits: TravelLimits | None = None
    calibration: str | None = Field(None, description="File made by `calibrate`.")
    max_calibration_age_days: PositiveFloat = Field(
        30.0, le=36_500, description="An older calibration is refused."
    )
    move_by: Literal["stage", "events"] = Field(
        "stage",
        description="stage: command it at once; events: the next acquisition event "
        "carries the predicted position (adaptive acquisition): the engine moves, "
        "waits and then exposes.",
    )
    target: Choice = Field(
        "nearest", description="Which track is chosen when none is named."
    )
    mode: Literal["one", "centroid", "visit", "oscillate"] = Field(
        "one",
        description="one: a single target; centroid: the middle of a set stays in "
        "view; visit: the members of a set in turn; oscillate: the stage goes to and "
        "fro about where it stands, for [modulation].",
    )
    dwell_s: PositiveFloat = Field(
        2.0, le=86_400, description="Time per target of `visit`."
    )
    swing_um: PositiveFloat = Field(
        1.1, le=1000, description="Way between the two ends of `oscillate`, along x."
    )
    swing_s: PositiveFloat = Field(
        4.0, le=3600, description="Time to and fro of `oscillate`."
    )
    lost: Literal["search", "hold", "stop"] = Field(
        "search",
        description="What follows `coast_frames` without the target: search: look "
        "where it can be by now, the stage at rest; hold: wait for the same track; "
        "stop: end control.",
    )
    coast_frames: NonNegativeInt = Field(
        5, le=100_000, description="Frames a lost target is followed on its prediction."
    )
    reacquire_frames: PositiveInt = Field(
        3,
        le=100_000,
        description="Consistent frames before a found target counts as the same.",
    )
    # Upper ends: a number no stage needs is a slip that would switch the check off.
    max_step_um: PositiveFloat = Field(
        50.0, le=100_000, description="Longest move in the plane."
    )
    max_rate_hz: PositiveFloat = Field(
        100.0, le=10_000, description="Most moves per second."
    )
    max_age_s: PositiveFloat = Field(
        0.5,
        le=600,
        description="Commands from older frames are refused; counted beside three "
        "times exposure and readout, so that long exposures are followed.",
    )
    confirm_s: PositiveFloat = Field(
        1.0,
        le=600,
        description="A stage that gets no nearer to where it was sent for so long is "
        "stopped; three times as long while it calls itself busy.",
    )
    confirm_um: PositiveFloat = Field(
        1.0,
        le=1000,
        description="A move has arrived when the stage reads this near to it.",
    )
    confirm_z_um: PositiveFloat = Field(
        0.5, le=1000, description="The same of the focus drive."
    )
    deadband_um: NonNegativeFloat = Field(
        0.4, le=10_000, description="Smaller corrections are not worth a move."
    )
    focus: Literal["off", "z", "sharpness"] = Field(
        "off",
        description="z: keep the target's measured z at zero; sharpness: keep a "
        "focus measure at its maximum by a two-sided search.",
    )
    z_deadband_um: NonNegativeFloat = Field(0.3, le=1000)
    max_z_step_um: PositiveFloat = Field(
        2.0, le=1000, description="Longest focus move."
    )
    max_z_travel_um: PositiveFloat = Field(
        1000.0,
        le=1_000_000,
        description="The focus drive is held after this way, to and fro, since arming.",
    )
    max_z_rate_hz: PositiveFloat = Field(
        10.0, le=10_000, description="Most focus moves a second."
    )
    rules: tuple[str, ...] = Field(
        (), description='E.g. "when n_tracks > 20: set Camera Exposure 5".'
    )
    properties: dict[str, Range | tuple[str, ...]] = Field(
        {},
        description="What rules may set and within which limits: "
        '"Camera Exposure" = [1, 50], or a list of allowed words.',
    )
