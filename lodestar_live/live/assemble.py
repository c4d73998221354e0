"""Put the parts of a run together, as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.control import Calibration, Controller, load_calibration
from lodestar_live.data import (
    UNKNOWN_POSITION,
    Counts,
    Event,
    FloatArray,
    Rows,
    StagePosition,
)
from lodestar_live.detection import Detector
from lodestar_live.detection.engines.choice import EngineChoice
from lodestar_live.errors import SettingsError
from lodestar_live.geometry import PixelToStage
from lodestar_live.health import Health
from lodestar_live.holography import HologramPreparer, ParticleRefiner
from lodestar_live.linking import Linker
from lodestar_live.microscope import (
    Access,
    CoreStage,
    Microscope,
    MicroscopeError,
    StageWatch,
    reach,
)
from lodestar_live.pipeline import DetectStep, LinkStep
from lodestar_live.pipeline.detect import PixelDetector
from lodestar_live.pipeline.modulation import ModulatedBackground
from lodestar_live.pipeline.pipeline import Prepare
from lodestar_live.pipeline.series import SeriesLink
from lodestar_live.recording import Recorder, RegionRecorder
from lodestar_live.resources import find
from lodestar_live.settings import ControlSettings, DetectionSettings, Settings
from lodestar_live.sinks import Sink
from lodestar_live.streams import Publisher


@dataclass
class Parts:
    """What one run is made of; each part does its own work."""

    settings: Settings
    run_folder: Path
    link: LinkStep
    source: dict[str, Any] = field(default_factory=dict)
    detector: PixelDetector | None = None
    model: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    pixel_size_um: float = float("nan")
    publisher: Publisher | None = None
    recorder: Recorder | None = None
    region: RegionRecorder | None = None
    controller: Controller | None = None
    access: Access | None = None
    stage_watch: StageWatch | None = None
    prepare: HologramPreparer | None = None
    refine: ParticleRefiner | None = None
    engines: EngineChoice | None = None
    modulation: ModulatedBackground | None = None

    def prepare_step(self) -> Prepare | None:
        """Return what frames go through before detection; None: nothing."""
        prepare, modulation = self.prepare, self.modulation
        if modulation is None or prepare is None:
            return modulation or prepare
        return lambda frame: modulation(prepare(frame))

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

    def load_detector(self, path: Path) -> Detector:
        """Use the model in `path` from the next frame on."""
        detector = open_detector(path, self.settings.detection)
        self.detector, self.model = detector, detector.facts()
        holography = self.settings.holography
        if holography is not None:
            self.refine = ParticleRefiner.from_card(holography, detector.card)
        return detector

    def detect_step(self, detector: PixelDetector) -> DetectStep:
        """Put a detector into the frame's way."""
        return DetectStep(
            detector,
            self.link.expect,
            full_every=self.settings.detection.full_every,
            refine=self.refine,
            engines=self.engines,
        )


def assemble(
    settings: Settings,
    run_folder: Path,
    *,
    microscope: Microscope | None,
    calibration: Calibration | None,
    detect: PixelDetector | None,
    clock: Callable[[], float],
    counts: Callable[[], Counts],
    tell: Callable[[Event], None],
    commands: Mapping[str, Callable[[Mapping[str, Any]], Any]],
    health: Health,
    source: Mapping[str, Any] | None = None,
) -> Parts:
    """Build the parts; everything that can be refused is refused here.

    Raises
    ------
    LodestarError
        A model, port, calibration, limit or folder cannot be used.
    """
    parts = Parts(
        settings=settings,
        run_folder=run_folder,
        link=SeriesLink(lambda: make_linker(settings, clock)),
        source=dict(source or {}),
        detector=detect,
        engines=EngineChoice(tell, clock) if _may_try_engines(settings) else None,
    )
    if settings.holography is not None:
        _require_field_model(settings, detect)
        if is_controlling(settings.control):
            _require_camera_pixels(settings)
        parts.prepare = HologramPreparer(settings.holography)
        parts.link.pixel_factor = parts.prepare.factor
    if settings.modulation is not None:
        _require_offsets(settings, detect, source)
        parts.modulation = ModulatedBackground(settings.modulation)
    if detect is None and settings.detection.model is not None:
        parts.load_detector(find("models", settings.detection.model))
    # A recording's frames bring their own facts: no microscope is asked.
    parts.access = None if source else reach_microscope(settings, microscope)
    if parts.access is not None:
        stage = parts.access.stage
        parts.pixel_size_um = parts.access.microscope.pixel_size_um
        if not is_controlling(settings.control):
            parts.stage_watch = StageWatch(
                stage.position_um, clock, is_remote=stage.is_remote
            )
    if settings.microscope.pixel_size_um is not None:
        parts.pixel_size_um = settings.microscope.pixel_size_um
    if parts.prepare is not None:  # positions are in pixels of the field
        parts.pixel_size_um = parts.prepare.field_pixel_size_um(parts.pixel_size_um)
    if is_controlling(settings.control):
        parts.controller = _make_controller(
            parts, _stage_of(parts.access), calibration, clock=clock, tell=tell
        )
    parts.link.pixel_size_um = parts.pixel_size_um
    parts.link.knows_stage = bool(parts.controller or parts.stage_watch)
    if source:
        _take_recorded(parts, source, calibration)
    if settings.recording.enabled:
        parts.recorder = Recorder(
            parts.run_folder,
            tell=tell,
            clock=clock,
            queue_bytes=settings.recording.queue_mib * 2**20,
        )
        if settings.recording.roi_px is not None:
            parts.region = RegionRecorder(
                parts.run_folder, settings.recording.roi_px, parts.target_id
            )
    if settings.streams.enabled:
        parts.publisher = _make_publisher(parts, clock, counts, commands, health)
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
        parts.calibration = _facts(calibration)
        parts.link.stage_map = calibration.map
    return Controller(
        control,
        stage,
        clock=clock,
        tell=tell,
        properties=stage,
        calibration=calibration,
        pixel_size_um=parts.pixel_size_um,
    )


def _take_recorded(
    parts: Parts, source: Mapping[str, Any], calibration: Calibration | None
) -> None:
    """Take space from a recording: pixel size, stage and the map between them."""
    size_um = float(source.get("pixel_size_um") or "nan")
    parts.pixel_size_um = parts.link.pixel_size_um = size_um
    parts.link.knows_stage = bool(source.get("knows_stage"))
    if calibration is not None:
        parts.calibration = _facts(calibration)
        parts.link.stage_map = calibration.map
    elif parts.link.knows_stage and source.get("affine_um_per_px") is not None:
        matrix = np.array(source["affine_um_per_px"], dtype=float)
        parts.calibration = {"matrix_um_per_px": matrix.tolist()}
        parts.link.stage_map = PixelToStage(matrix)
    elif parts.link.knows_stage and np.isfinite(size_um):
        parts.link.stage_map = PixelToStage.from_pixel_size(size_um)


def _may_try_engines(settings: Settings) -> bool:
    """Not beside what steers the stage: that needs its first frames on time."""
    return settings.detection.engine == "auto" and not settings.control.armed


def is_controlling(control: ControlSettings) -> bool:
    """Tell whether anything may be asked of the stage, its focus or a device."""
    return control.follow or control.focus != "off" or bool(control.rules)


def _require_field_model(settings: Settings, detect: PixelDetector | None) -> None:
    holography = settings.holography
    needs_model = holography is not None and holography.mode == "offaxis"
    if needs_model and settings.detection.model is None and detect is None:
        raise SettingsError(
            "detection.model is not set: off-axis holograms need a model of fields, "
            "trained beforehand; name one, such as the shipped one in "
            "config/offaxis_hologram.toml."
        )


def _require_offsets(
    settings: Settings, detect: PixelDetector | None, source: Mapping[str, Any] | None
) -> None:
    """Refuse a modulation without positions, or without a model for what is left."""
    modulation, control = settings.modulation, settings.control
    if settings.detection.model is None and detect is None:
        raise SettingsError(
            "detection.model is not set: with [modulation] a model is wanted that was "
            "trained on a frame without its background; make one with "
            "`lodestar-live train RECORDING --subtract-moved UM`."
        )
    if source and not source.get("knows_stage"):
        raise SettingsError(
            f"[modulation]: {source.get('path')} does not say where the stage stood; "
            "expected stage positions in its metadata."
        )
    is_swinging = not source and control.mode == "oscillate"
    if modulation and is_swinging and control.swing_um < modulation.least_offset_um:
        raise SettingsError(
            f"modulation.least_offset_um = {modulation.least_offset_um}: the stage "
            f"swings by control.swing_um = {control.swing_um}; expected less than that."
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
    from lodestar_live.recording.movies import read_image  # only for masks: it is large

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
        correct_pixels=settings.correct_pixels,
        mask=None if settings.mask is None else read_image(Path(settings.mask)),
        region_px=settings.region_px,
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


def reach_microscope(settings: Settings, given: Microscope | None) -> Access | None:
    """Take hold of the microscope of a run, if it has one."""
    is_needed = is_controlling(settings.control)
    try:
        return reach(settings.microscope, given, is_needed=is_needed)
    except MicroscopeError as error:
        raise SettingsError(
            "[control] is set, but no microscope is reachable. Start Micro-Manager or "
            f"pass LiveTracker(..., microscope=...). {error}"
        ) from error


def _stage_of(access: Access | None) -> CoreStage:
    if access is None:
        raise SettingsError(
            "[control] is set, but no microscope is reachable. Start "
            "Micro-Manager or pass LiveTracker(..., microscope=...)."
        )
    return access.stage


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
    health: Health,
) -> Publisher:
    controller, recorder = parts.controller, parts.recorder
    verbs = dict(commands)
    if controller is not None:
        verbs |= controller.verbs()
    return Publisher.from_settings(
        parts.settings.streams,
        commands=verbs,
        target_id=None if controller is None else lambda: controller.target_id,
        control_status=None if controller is None else controller.status,
        health=health,
        durable_frame=None if recorder is None else lambda: recorder.durable_frame,
        counts=counts,
        clock=clock,
    )
