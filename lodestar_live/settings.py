"""Settings: frozen, validated, unknown keys refused with a suggestion; TOML on disk."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lodestar_live.errors import SettingsError


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MicroscopeSettings(Section):
    """How to reach Micro-Manager."""

    backend: Literal["running", "headless", "demo"] = Field(
        "running",
        description="running: attach to an open Micro-Manager (Java backend); "
        "headless: start MMCore in this process from `config_file`; "
        "demo: the built-in demo microscope.",
    )
    config_file: str | None = Field(
        None, description="Micro-Manager .cfg, for `headless`."
    )
    app_path: str | None = Field(
        None, description="Folder with Micro-Manager's device adapters, for `headless`."
    )
    port: PositiveInt = Field(4827, description="Port of the running Micro-Manager.")
    buffer_mb: PositiveInt = Field(
        128, description="MMCore's circular buffer, for `headless`; all of it resident."
    )
    pixel_size_um: PositiveFloat | None = Field(
        None, description="Overrides what Micro-Manager reports, e.g. 0.108."
    )


class AcquisitionSettings(Section):
    """What pycro-manager is asked to acquire."""

    n_frames: PositiveInt | None = Field(
        None, description="Frames to take. None: until stopped."
    )
    exposure_ms: PositiveFloat | None = Field(None, description="None: as it is set.")
    sequence: bool = Field(
        False,
        description="Hardware-timed sequences (faster); off: single events, which "
        "stop sooner and suit feedback.",
    )
    events_in_flight: PositiveInt = Field(
        2, description="Events handed to the engine ahead of the frames seen."
    )
    save_folder: str | None = Field(
        None, description="Where pycro-manager stores the frames. None: not stored."
    )


class LiveSettings(Section):
    """How frames wait for the detector."""

    mode: Literal["latest", "every"] = Field(
        "latest",
        description="latest: newest frame first, older ones dropped and counted; "
        "every: first in, first out, up to `queue_frames`.",
    )
    queue_frames: PositiveInt = Field(64, description="Queue length of `every`.")
    max_failures: PositiveInt = Field(
        20, description="Failures in a row after which the run is called degraded."
    )
    hand_on_frames: bool = Field(
        True,
        description="Hand every frame on, unchanged, to pycro-manager's storage; off: "
        "nothing is stored and memory stays flat.",
    )


class TrainingSettings(Section):
    """How a detector is trained on one crop."""

    at_px: tuple[float, float] | None = Field(
        None, description="(y, x) of the particle. None: a good one is chosen."
    )
    size_px: PositiveInt | None = Field(
        None, description="Side of the crop. None: estimated from the particle."
    )
    downsample: PositiveInt | None = Field(
        None,
        description="The scale of tracking: blocks of so many pixels a side count as "
        "one. None: 1, or more for crops from 128 px on.",
    )
    pick: bool = Field(
        False, description="Open the first frame in the browser to click the particle."
    )
    network: Literal["live", "quick", "paper"] = "live"
    quality: Literal["fast", "best"] = "fast"
    steps: PositiveInt | None = Field(None, description="None: the network's default.")
    seed: NonNegativeInt = 0


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
        False, description="Drop detections whose votes disagree (other shapes)."
    )
    least_contrast: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Drop detections fainter than this share of the frame's median one "
        "(background texture). 0: off.",
    )
    engine: str = Field("auto", description="auto, cpu, openvino, cuda, tensorrt.")
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


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] >= limits[1]:
        raise ValueError("expected [lowest, highest] with lowest < highest")
    return limits


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]


class TravelLimits(Section):
    """The box the stage may never leave, in stage coordinates."""

    y_um: Range
    x_um: Range
    z_um: Range | None = Field(None, description="None: the focus drive never moves.")


class ControlSettings(Section):
    """What may move, and how far. Nothing moves unless `armed` and `limits` are set."""

    follow: bool = Field(False, description="Keep one particle centred with the stage.")
    armed: bool = Field(False, description="False: dry run, commands only recorded.")
    limits: TravelLimits | None = None
    calibration: str | None = Field(None, description="File made by `calibrate`.")
    max_calibration_age_days: PositiveFloat = Field(
        30.0, description="An older calibration is refused."
    )
    move_by: Literal["stage", "events"] = Field(
        "stage",
        description="stage: command it at once; events: the next acquisition event "
        "carries the predicted position (adaptive acquisition): the engine moves, "
        "waits and then exposes.",
    )
    target: Literal["nearest", "brightest", "fastest"] = Field(
        "nearest", description="Which track is chosen when none is named."
    )
    mode: Literal["one", "centroid", "visit"] = Field(
        "one",
        description="one: a single target; centroid: the middle of a set stays in "
        "view; visit: the members of a set in turn.",
    )
    dwell_s: PositiveFloat = Field(2.0, description="Time per target of `visit`.")
    lost: Literal["search", "hold", "stop"] = Field(
        "search",
        description="What follows `coast_frames` without the target: search: look "
        "where it can be by now, the stage at rest; hold: wait for the same track; "
        "stop: end control.",
    )
    coast_frames: NonNegativeInt = Field(
        5, description="Frames a lost target is followed on its prediction."
    )
    reacquire_frames: PositiveInt = Field(
        3, description="Consistent frames before a found target counts as the same."
    )
    max_step_um: PositiveFloat = Field(50.0, description="Longest move in the plane.")
    max_rate_hz: PositiveFloat = Field(100.0, description="Most moves per second.")
    max_age_s: PositiveFloat = Field(
        0.5, description="Commands from older frames are refused."
    )
    deadband_um: NonNegativeFloat = Field(
        0.4, description="Smaller corrections are not worth a move."
    )
    focus: Literal["off", "z", "sharpness"] = Field(
        "off",
        description="z: keep the target's measured z at zero; sharpness: keep a "
        "focus measure at its maximum by a two-sided search.",
    )
    z_deadband_um: NonNegativeFloat = 0.3
    max_z_step_um: PositiveFloat = Field(2.0, description="Longest focus move.")
    max_z_rate_hz: PositiveFloat = Field(10.0, description="Most focus moves a second.")
    rules: tuple[str, ...] = Field(
        (), description='E.g. "when n_tracks > 20: set Camera Exposure 5".'
    )
    properties: dict[str, Range | tuple[str, ...]] = Field(
        {},
        description="What rules may set and within which limits: "
        '"Camera Exposure" = [1, 50], or a list of allowed words.',
    )


class StreamSettings(Section):
    """ZeroMQ endpoints."""

    enabled: bool = True
    stream: str = "tcp://127.0.0.1:5556"
    latest: str = "tcp://127.0.0.1:5557"
    control: str | None = Field(
        None, description="Command endpoint, e.g. tcp://127.0.0.1:5558. None: off."
    )
    keys: str | None = Field(
        None,
        description="This side's NAME.key_secret; needed for addresses that other "
        "machines can reach. Made by `lodestar-live keys new NAME`.",
    )
    clients: str | None = Field(
        None, description="Folder with the NAME.key of each client let in."
    )

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> StreamSettings:
        if (self.keys is None) != (self.clients is None):
            raise ValueError("keys and clients belong together; set both or neither")
        return self


class RecordingSettings(Section):
    """The run file."""

    enabled: bool = True
    folder: str = Field("runs", description="Each run gets a folder of its own here.")
    roi_px: PositiveInt | None = Field(
        None,
        description="Keep a window of this side around the followed particle (without "
        "one: the oldest track) in roi.tif.",
    )


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


class Settings(Section):
    """Everything a run needs; each section has defaults."""

    name: str = "run"
    microscope: MicroscopeSettings = MicroscopeSettings()
    acquisition: AcquisitionSettings = AcquisitionSettings()
    live: LiveSettings = LiveSettings()
    training: TrainingSettings = TrainingSettings()
    detection: DetectionSettings = DetectionSettings()
    linking: LinkingSettings = LinkingSettings()
    control: ControlSettings = ControlSettings()
    streams: StreamSettings = StreamSettings()
    recording: RecordingSettings = RecordingSettings()
    holography: HolographySettings | None = None


def load_settings(path: str | Path) -> Settings:
    """Read settings from a TOML file.

    Raises
    ------
    SettingsError
        The file is missing, not TOML, or has unknown keys or impossible values.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); expected a TOML settings file "
            "such as those in config/."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}.") from error
    return parse_settings(data, source=str(path))


def parse_settings(data: dict[str, Any], *, source: str = "settings") -> Settings:
    """Validate settings given as a nested dictionary; errors as `load_settings`."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        problems = [_explain(dict(problem)) for problem in error.errors()]
        raise SettingsError("\n".join(f"{source}: {p}" for p in problems)) from error


def _explain(problem: dict[str, Any]) -> str:
    place = [str(part) for part in problem["loc"]]
    name = ".".join(place)
    if problem["type"] != "extra_forbidden":
        return f"{name} = {problem['input']!r}: {problem['msg']}."
    known = _fields_at(place[:-1])
    close = difflib.get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
    return f"{name}: unknown key; {hint}"


def _fields_at(place: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in place:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(
            c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)
        )
    return sorted(model.model_fields)
