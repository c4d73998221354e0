"""What the start page may ask: each verb once, with its arguments and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from lodestar_live.commands import Args, Coordinate, NoArgs, Verb

_Path = Annotated[str, Field(max_length=1024)]
_Name = Annotated[str, Field(max_length=128)]
_Um = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class ConnectArgs(Args):
    """Which microscope; `port` for a running one, the paths for an installed one."""

    backend: Literal["demo", "running", "headless"]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    config_file: _Path | None = None
    app_path: _Path | None = None


class ExposureArgs(Args):
    """The camera's exposure."""

    exposure_ms: Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


class OnArgs(Args):
    """Whether something goes on."""

    on: bool


class ClickArgs(Args):
    """A click on the snapshot."""

    y_px: Coordinate
    x_px: Coordinate
    wanted: bool = True


class TrainArgs(Args):
    """How to train on what was clicked."""

    size_px: Annotated[int, Field(ge=5, le=1024)] | None = None
    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    quality: Literal["fast", "best"] = "fast"


class ThresholdArgs(Args):
    """Least score of a detection; left out: the model's own."""

    threshold: Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)] | None = (
        None
    )


class BoxArgs(Args):
    """The box the stage may never leave, in stage coordinates."""

    y_um: Annotated[list[_Um], Field(min_length=2, max_length=2)]
    x_um: Annotated[list[_Um], Field(min_length=2, max_length=2)]


class DrawnBoxArgs(Args):
    """Two opposite corners of the box, drawn on the picture."""

    y_px: Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
    x_px: Annotated[list[Coordinate], Field(min_length=2, max_length=2)]


class RunArgs(Args):
    """How the run goes."""

    name: _Name | None = None
    n_frames: Annotated[int, Field(ge=1, le=10**9)] | None = None
    follow: bool | None = None
    lost: Literal["search", "hold", "stop"] | None = None
    max_step_um: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)] | None = (
        None
    )
    focus: Literal["off", "z", "sharpness"] | None = None
    rules: (
        Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=8)]
        | None
    ) = None
    pixel_size_um: Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)] | None = (
        None
    )


class ExportArgs(Args):
    """Into which format."""

    to: Literal["csv", "trackmate", "trackmate-csv", "napari", "summary"] = "csv"
    min_frames: Annotated[int, Field(ge=0, le=10**9)] | None = None


class RunNameArgs(Args):
    """One of the runs listed."""

    run: _Name


class WheelArgs(Args):
    """What the others shall see."""

    name: _Name = ""


#: Asked by the start page, beside the verbs of a run (`lodestar_live.commands.VERBS`).
START_VERBS: Mapping[str, Verb] = {
    "take_wheel": Verb(WheelArgs, "Takes the wheel: only this page steers."),
    "look_around": Verb(NoArgs, "Looks again for microscopes on this machine."),
    "connect": Verb(ConnectArgs, "Opens a microscope and takes a first image."),
    "disconnect": Verb(NoArgs, "Lets go of the microscope."),
    "expose": Verb(ExposureArgs, "Sets the camera's exposure."),
    "snap": Verb(NoArgs, "Takes one image: the snapshot to train on."),
    "watch": Verb(OnArgs, "Shows the camera's live image, or stops it."),
    "click": Verb(ClickArgs, 'Adds a particle, or with wanted = false a "not this".'),
    "unclick": Verb(NoArgs, "Takes back the last click."),
    "clear_clicks": Verb(NoArgs, "Takes back all clicks."),
    "train": Verb(TrainArgs, "Trains a detector on the particles clicked."),
    "cancel": Verb(NoArgs, "Ends the training, calibration or export under way."),
    "threshold": Verb(ThresholdArgs, "Chooses the threshold of the run."),
    "calibrate": Verb(NoArgs, "Measures how the image follows the stage; it moves."),
    "box": Verb(BoxArgs, "Sets the travel box."),
    "draw_box": Verb(DrawnBoxArgs, "Sets the travel box to one drawn on the picture."),
    "arm_stage": Verb(OnArgs, "Lets the next run move the stage, or no more."),
    "set_up": Verb(RunArgs, "Changes how the run goes."),
    "begin": Verb(NoArgs, "Starts the run."),
    "end": Verb(NoArgs, "Ends the run."),
    "export": Verb(ExportArgs, "Exports the trajectories of the run that ended."),
    "again": Verb(NoArgs, "Goes back to the microscope, all settings kept."),
    "open_run": Verb(RunNameArgs, "Opens an earlier run of the folder."),
    "save": Verb(NoArgs, "Writes the settings as a TOML file into the folder."),
}
