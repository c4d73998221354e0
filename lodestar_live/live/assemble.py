"""Put the parts of a run together, as the settings say."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.control import Calibration, Controller, load_calibration
from lodestar_live.data import (
    UNKNOWN_POSITION,
    Counts,
    Detections,
    Event,
    FloatArray,
    Frame,
    Pixels,
    Rows,
    StagePosition,
    Tracks,
)
from lodestar_live.detection import Detector, Follower
from lodestar_live.detection.engines.choice import EngineChoice
from lodestar_live.errors import RecordingError, SettingsError
from lodestar_live.geometry import PixelToStage
from lodestar_live.holography import HologramPreparer, ParticleRefiner
from lodestar_live.linking import Linker
from lodestar_live.microscope import (
    CoreStage,
    Microscope,
    StageWatch,
    active_core,
    has_active_core,
)
from lodestar_live.pipeline.pipeline import Sink
from lodestar_live.recording import Recorder, RegionRecorder
from lodestar_live.resources import find
from lodestar_live.settings import ControlSettings, DetectionSettings, Settings
from lodestar_live.streams import Publisher

Detect = Callable[[Pixels], Detections]
_PACKAGES = (
    "lodestar-live",
    "numpy",
    "onnxruntime",
    "pycromanager",
    "pymmcore",
    "pyzmq",
)


@dataclass
class Parts:
    """What one run is made of."""

    settings: Settings
    run_folder: Path
    linker: Linker
    detect: Detect | None = None
    model_version: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    is_field_model: bool = True
    calibration: dict[str, Any] = field(default_factory=dict)
    pixel_size_um: float = float("nan")
    publisher: Publisher | None = None
    recorder: Recorder | None = None
    region: RegionRecorder | None = None
    controller: Controller | None = None
    stage_watch: StageWatch | None = None
    prepare: HologramPreparer | None = None
    refine: ParticleRefiner | None = None
    engines: EngineChoice | None = None
    map: PixelToStage | None = None
    _follower: Follower | None = None
    _stage_start_um: FloatArray | None = None
    _view: tuple[tuple[int, ...], tuple[int, int]] | None = None

    @property
    def sinks(self) -> list[Sink]:
        """Publisher, controller, recorders: in the order they are told."""
        found = (self.publisher, self.controller, self.recorder, self.region)
        return [sink for sink in found if sink is not None]

    def target_id(self) -> int | None:
        """Return the followed track."""
        return None if self.controller is None else self.controller.target_id

    def stage_at(self, t_s: float) -> StagePosition:
        """Return the stage position at an instant.

        From the controller's log of its own moves; without a controller nobody here
        moves the stage, and readings taken meanwhile have to serve.
        """
        if self.controller is not None:
            return self.controller.stage_at(t_s)
        if self.stage_watch is not None:
            return self.stage_watch.at(t_s)
        return UNKNOWN_POSITION

    def load_detector(self, path: Path) -> Detect:
        """Use the model in `path` from the next frame on."""
        detector = open_detector(path, self.settings.detection)
        self.detect, self.model = detector, detector.facts()
        self.is_field_model = detector.card.input == "field"
        holography = self.settings.holography
        if holography is not None:
            self.refine = ParticleRefiner.from_card(holography, detector.card)
        return detector

    def detect_frame(self, frame: Frame) -> Detections:
        """Detect; a frame of another shape or place on the sensor ends all tracks."""
        view = (frame.pixels.shape, frame.origin_px)
        if self._view is not None and view != self._view:
            self.linker.end_all()
        self._view = view
        image = frame.pixels
        if self.refine is None:
            return self._find(image, frame)
        if not self.is_field_model:
            image = np.ascontiguousarray(image.real)  # trained on intensities (inline)
        return self.refine(frame, self._find(image, frame))

    def _find(self, image: Pixels, frame: Frame) -> Detections:
        """Detect everywhere, or only where tracks are expected between full passes."""
        detect, full_every = self.detect, self.settings.detection.full_every
        assert detect is not None  # noqa: S101 - a pipeline exists only with one
        if not isinstance(detect, Detector):
            return detect(image)
        if self._follower is None or self._follower.detector is not detect:
            self._follower = Follower(detect, full_every=full_every)
        if full_every == 1:
            found = detect(image)
        else:
            expected_px, reach_px = self.linker.expect(frame.index)
            expected_px = expected_px - self._stage_shift_px(frame)
            found = self._follower(image, expected_px, reach_px)
        if self.engines is not None:
            self.engines.offer(detect, image, found)
        return found

    def link_frame(self, detections: Detections, frame: Frame) -> Tracks:
        """Link in the sample's frame, so that our own moves are no motion."""
        shift_px = self._stage_shift_px(frame)
        tracks = self.linker(
            Detections(_shifted(detections.rows, shift_px)), frame.index
        )
        rows = _shifted(tracks.rows, -shift_px)
        if self.model_version:
            rows = rows.copy()
            rows["model_version"] = self.model_version
        return Tracks(rows)

    def _stage_shift_px(self, frame: Frame) -> FloatArray:
        """Return how far the stage has carried the frame since the first one, px."""
        stage_um = np.array(frame.stage_um[1:])
        if self.map is None or not np.all(np.isfinite(stage_um)):
            return np.zeros(2)
        if self._stage_start_um is None:
            self._stage_start_um = stage_um
        moved_um = stage_um - self._stage_start_um
        camera_px = np.linalg.solve(self.map.matrix_um_per_px, moved_um)
        return np.asarray(camera_px / (self.prepare.factor if self.prepare else 1))

    def take_events(self) -> tuple[Event, ...]:
        """Return what the linker noticed in this frame."""
        return self.linker.take_events()

    def versions(self) -> dict[str, str]:
        """Return the versions of everything that shaped this run."""
        found = {"python": platform.python_version()}
        for package in _PACKAGES:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "not installed"
        return found


def assemble(
    settings: Settings,
    *,
    microscope: Microscope | None,
    calibration: Calibration | None,
    detect: Detect | None,
    clock: Callable[[], float],
    counts: Callable[[], Counts],
    tell: Callable[[Event], None],
    commands: Mapping[str, Callable[[Mapping[str, Any]], Any]],
) -> Parts:
    """Build the parts; everything that can be refused is refused here.

    Raises
    ------
    LodestarError
        A model, port, calibration, limit or folder cannot be used.
    """
    parts = Parts(
        settings=settings,
        run_folder=new_run_folder(settings),
        linker=make_linker(settings, clock),
        detect=detect,
        engines=EngineChoice(tell, clock) if _may_try_engines(settings) else None,
    )
    if settings.holography is not None:
        _require_field_model(settings, detect)
        parts.prepare = HologramPreparer(settings.holography)
    if detect is None and settings.detection.model is not None:
        parts.load_detector(find("models", settings.detection.model))
    if microscope is None and has_active_core():
        microscope = active_core()
    if microscope is not None:
        parts.pixel_size_um = microscope.pixel_size_um
        if microscope.is_python and not is_controlling(settings.control):
            parts.stage_watch = StageWatch(CoreStage(microscope).position_um, clock)
    if settings.microscope.pixel_size_um is not None:
        parts.pixel_size_um = settings.microscope.pixel_size_um
    if parts.prepare is not None:  # positions are in pixels of the field
        parts.pixel_size_um = parts.prepare.field_pixel_size_um(parts.pixel_size_um)
    if is_controlling(settings.control):
        _require_camera_pixels(settings)
        parts.controller = _make_controller(
            parts, _stage_of(microscope), calibration, clock=clock, tell=tell
        )
    if settings.streams.enabled:
        parts.publisher = _make_publisher(parts, clock, counts, commands)
    if settings.recording.enabled:
        parts.recorder = Recorder(parts.run_folder)
        if settings.recording.roi_px is not None:
            parts.region = RegionRecorder(
                parts.run_folder, settings.recording.roi_px, parts.target_id
            )
    return parts


def _make_controller(
    parts: Parts,
    stage: CoreStage,
    calibration: Calibration | None,
    *,
    clock: Callable[[], float],
    tell: Callable[[Event], None],
) -> Controller:
    control = parts.settings.control
    if calibration is None and control.calibration is not None:
        calibration = load_calibration(control.calibration)
    if calibration is not None:
        parts.calibration, parts.map = _facts(calibration), calibration.map
    return Controller(
        control,
        stage,
        clock=clock,
        tell=tell,
        properties=stage,
        calibration=calibration,
        pixel_size_um=parts.pixel_size_um,
    )


def _may_try_engines(settings: Settings) -> bool:
    """Not beside what steers the stage: that needs its first frames on time."""
    return settings.detection.engine == "auto" and not settings.control.armed


def is_controlling(control: ControlSettings) -> bool:
    """Tell whether anything may be asked of the stage, its focus or a device."""
    return control.follow or control.focus != "off" or bool(control.rules)


def _require_field_model(settings: Settings, detect: Detect | None) -> None:
    holography = settings.holography
    needs_model = holography is not None and holography.mode == "offaxis"
    if needs_model and settings.detection.model is None and detect is None:
        raise SettingsError(
            "detection.model is not set: off-axis holograms need a model of fields, "
            "trained beforehand; name one, such as the shipped one in "
            "config/offaxis_hologram.toml."
        )


def _require_camera_pixels(settings: Settings) -> None:
    if settings.holography is not None and settings.holography.mode == "offaxis":
        raise SettingsError(
            "[control] with off-axis holograms: their fields have pixels of another "
            "size than the calibration's; expected camera images or inline holograms."
        )


def _shifted(rows: Rows, shift_px: FloatArray) -> Rows:
    if not shift_px.any():
        return rows
    rows = rows.copy()
    rows["y_px"] += shift_px[0]
    rows["x_px"] += shift_px[1]
    return rows


def open_detector(path: Path, settings: DetectionSettings) -> Detector:
    """Open a model with the user's detection settings."""
    return Detector(
        path,
        threshold=settings.threshold,
        alpha=settings.alpha,
        beta=settings.beta,
        quantile=settings.quantile,
        h_maxima=settings.h_maxima,
        max_detections=settings.max_detections,
        only_like_training=settings.only_like_training,
        least_contrast=settings.least_contrast,
        engine=settings.engine,
        n_threads=settings.n_threads,
    )


def make_linker(settings: Settings, clock: Callable[[], float]) -> Linker:
    """Make the linker the settings describe."""
    linking = settings.linking
    return Linker(
        search_radius_px=linking.search_radius_px,
        max_gap_frames=linking.max_gap_frames,
        method=linking.method,
        clock=clock,
    )


def new_run_folder(settings: Settings) -> Path:
    """Make a fresh folder for a run: ``<recording.folder>/<time>_<name>``."""
    name = re.sub(r"[^\w.-]+", "_", settings.name) or "run"
    stem = f"{datetime.now():%Y%m%d_%H%M%S}_{name}"
    root = Path(settings.recording.folder)
    for attempt in range(1000):
        folder = root / (f"{stem}_{attempt}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RecordingError(
                f"recording.folder = {root}: a run folder cannot be made there "
                f"({error.strerror}). Choose a folder you may write to."
            ) from error
        return folder
    raise RecordingError(f"recording.folder = {root}: too many runs in one second.")


def _stage_of(microscope: Microscope | None) -> CoreStage:
    if microscope is None:
        raise SettingsError(
            "[control] is set, but no microscope is reachable. Start "
            "Micro-Manager or pass LiveTracker(..., microscope=...)."
        )
    return CoreStage(microscope)


def _facts(calibration: Calibration) -> dict[str, Any]:
    return {
        "matrix_um_per_px": calibration.map.matrix_um_per_px.tolist(),
        "residual_px": calibration.residual_px,
        "measured": calibration.measured.isoformat(),
        "objective": calibration.objective,
    }


def _make_publisher(
    parts: Parts,
    clock: Callable[[], float],
    counts: Callable[[], Counts],
    commands: Mapping[str, Callable[[Mapping[str, Any]], Any]],
) -> Publisher:
    controller = parts.controller
    verbs = dict(commands)
    if controller is not None:
        verbs |= controller.verbs()
    return Publisher.from_settings(
        parts.settings.streams,
        commands=verbs,
        target_id=None if controller is None else lambda: controller.target_id,
        control_status=None if controller is None else controller.status,
        counts=counts,
        clock=clock,
    )
