"""The job: where it stands, and what each verb of the page does to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from lodestar_live.commands import NoArgs, checked
from lodestar_live.control import Calibration, load_calibration
from lodestar_live.data import Detections, Pixels
from lodestar_live.errors import InputError, LodestarError, ModelError
from lodestar_live.live.first_model import TrainingProcess
from lodestar_live.settings import Settings, parse_settings
from lodestar_live.start import verbs
from lodestar_live.start.camera import Camera, levels
from lodestar_live.start.candidates import Candidates
from lodestar_live.start.choices import look_around
from lodestar_live.start.command import Command, as_typed
from lodestar_live.start.recorded import RecordedRun, list_runs
from lodestar_live.start.run import RunningRun

_LEVELS_EVERY_S = 0.25
_USUAL_CONTROL = "tcp://127.0.0.1:5558"


class Job:
    """One user's job, from the microscope to the exported table.

    Parameters
    ----------
    folder
        Models, settings and runs are written into it.
    on_change
        Called, from any thread, whenever a page has something new to show.

    Attributes
    ----------
    settings
        What the next run does; everything chosen on the page is in here.
    run, recorded
        The run under way, or the one shown; at most one of them.
    """

    def __init__(self, folder: Path, on_change: Callable[[], None]) -> None:
        self.folder = folder
        self._on_change = on_change
        self._lock = threading.RLock()
        self.version = self.image_version = self.found_version = 0
        self.settings = parse_settings(
            {
                "name": "start",
                "microscope": {"backend": "demo"},
                "recording": {"folder": str(folder)},
                "streams": {"control": _USUAL_CONTROL},
            }
        )
        self.camera = Camera(self._show, self._fail)
        self.image: Pixels | None = None
        self.is_snapshot = False
        self.snapshot: Pixels | None = None
        self.clicks: list[dict[str, Any]] = []
        self.candidates: Candidates | None = None
        self.found: Detections | None = None
        self.calibration: Calibration | None = None
        self.run: RunningRun | None = None
        self.recorded: RecordedRun | None = None
        self._training: TrainingProcess | None = None
        self._command: Command | None = None
        self._microscope: dict[str, Any] | None = None
        self._choices: list[dict[str, Any]] = []
        self._levels: dict[str, float] = {}
        self._verdict: dict[str, Any] | None = None
        self._busy: dict[str, Any] | None = None
        self._said: dict[str, str] = {"text": "", "kind": ""}
        self._commands: list[str] = []
        self._saved = ""
        self._told_s = 0.0
        self._do: Mapping[str, Callable[[Any], None]] = {
            name: getattr(self, f"_{name}") for name in verbs.START_VERBS
            if name != "take_wheel"
        }  # fmt: skip
        self.camera.do(self._refresh_choices)

    def close(self) -> None:
        """End everything that is under way, politely."""
        with self._lock:
            training, command, run = self._training, self._command, self.run
        if training is not None:
            training.cancel()
        if command is not None:
            command.cancel()
            command.close()
        if run is not None:
            run.close()
        self.camera.close()

    def do(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a verb of `START_VERBS`.

        Raises
        ------
        LodestarError
            Wrong arguments, or it cannot be done now: with what to do first.
        """
        parsed = checked(verb, verbs.START_VERBS[verb].args, dict(args))
        with self._lock:
            self._do[verb](parsed)
        self.changed()
        return {}

    def changed(self) -> None:
        """Tell the pages."""
        with self._lock:
            self.version += 1
        self._on_change()

    def state(self) -> dict[str, Any]:
        """Return everything the page shows, JSON-safe."""
        with self._lock:
            return {
                "phase": self._phase(),
                "folder": str(self.folder),
                "busy": self._busy,
                "said": self._said,
                "choices": self._choices,
                "microscope": self._microscope,
                "is_live": self.camera.is_live,
                "levels": self._levels,
                "has_snapshot": self.snapshot is not None,
                "shape_px": None if self.image is None else list(self.image.shape),
                "clicks": self.clicks,
                "model": self.candidates and self.candidates.facts(),
                "n_found": None if self.found is None else len(self.found),
                "calibration": self._verdict,
                "settings": self.settings.model_dump(mode="json"),
                "toml": self.settings.to_toml(),
                "saved": self._saved,
                "commands": self._commands,
                "run": self.run and self.run.facts(),
                "report": self.recorded and self.recorded.facts,
                "runs": list_runs(self.folder),
            }

    def _phase(self) -> str:
        if self.run is not None:
            return "running"
        return "report" if self.recorded is not None else "prepare"

    # -- the microscope -----------------------------------------------------------

    def _look_around(self, _: NoArgs) -> None:
        self.camera.do(self._refresh_choices)

    def _refresh_choices(self) -> None:
        found = look_around(self.settings.microscope.port)
        with self._lock:
            self._choices = found
        self.changed()

    def _connect(self, args: verbs.ConnectArgs) -> None:
        self._require_idle()
        given = args.model_dump(exclude_none=True)
        if args.backend == "headless" and not args.config_file:
            raise InputError(
                "connect: an installed Micro-Manager needs its configuration; expected "
                "the path of the .cfg file that you choose when Micro-Manager starts."
            )
        changed = {"microscope": {k: v for k, v in given.items() if v != ""}}
        self.settings = self._changed_settings(changed, whole=("microscope",))
        self._begin_work("connecting", "opening the microscope…")
        self.camera.do(self._open)

    def _open(self) -> None:
        facts = self.camera.open(self.settings.microscope)
        with self._lock:
            self._microscope, self.calibration, self._verdict = facts, None, None
            self._arm(is_armed=False)
            self._end_work(f"{facts['camera']} is ready.", "good")
        self.changed()

    def _disconnect(self, _: NoArgs) -> None:
        self._require_idle()
        self._let_go()

    def _let_go(self) -> None:
        self.camera.is_live = False
        self.camera.do(self.camera.release)
        self._microscope = None

    def _expose(self, args: verbs.ExposureArgs) -> None:
        self._require_microscope()
        self._update("acquisition", exposure_ms=args.exposure_ms)

        def task() -> None:
            self.camera.expose(args.exposure_ms)
            if not self.camera.is_live:
                self.camera.snap()
            self._refresh_facts()

        self.camera.do(task)

    def _refresh_facts(self) -> None:
        facts = self.camera.facts()
        with self._lock:
            self._microscope = facts
        self.changed()

    def _snap(self, _: NoArgs) -> None:
        self._require_idle()
        self._require_microscope()
        self.camera.is_live = False
        self.camera.do(self.camera.snap)

    def _watch(self, args: verbs.OnArgs) -> None:
        self._require_idle()
        self._require_microscope()
        if self.camera.is_live and not args.on:
            self.camera.do(self.camera.snap)  # what is clicked on stands still
        self.camera.is_live = args.on
        self.camera.do(lambda: None)  # wakes it

    def _show(self, pixels: Pixels, is_snapshot: bool) -> None:
        with self._lock:
            self.image, self.is_snapshot = pixels, is_snapshot
            self.image_version += 1
            self._levels = levels(pixels)
            if is_snapshot:
                self.snapshot = pixels
                self._forget_model()
                self.clicks = []
            is_due = time.monotonic() - self._told_s > _LEVELS_EVERY_S
        if is_snapshot or is_due:  # the state is long; a live image comes often
            self._told_s = time.monotonic()
            self.changed()
        else:
            self._on_change()

    def _fail(self, why: str) -> None:
        with self._lock:
            self._end_work(why, "bad")
        self.changed()

    # -- the particle --------------------------------------------------------------

    def _click(self, args: verbs.ClickArgs) -> None:
        if self.snapshot is None or self.camera.is_live:
            raise InputError("click: take a snapshot first (Snap); it holds still.")
        self._require_idle()
        height, width = self.snapshot.shape
        if not (0 <= args.y_px < height and 0 <= args.x_px < width):
            raise InputError(
                f"click: ({args.y_px:g}, {args.x_px:g}) is outside the snapshot of "
                f"{height} x {width} px."
            )
        if len(self.clicks) >= 64:
            raise InputError("click: 64 are enough; take some back first.")
        self.clicks = [*self.clicks, args.model_dump()]

    def _unclick(self, _: NoArgs) -> None:
        self._require_idle()
        self.clicks = self.clicks[:-1]

    def _clear_clicks(self, _: NoArgs) -> None:
        self._require_idle()
        self.clicks = []

    def _train(self, args: verbs.TrainArgs) -> None:
        self._require_idle()
        if self.snapshot is None:
            raise InputError("train: take a snapshot first (Snap).")
        wanted = [(c["y_px"], c["x_px"]) for c in self.clicks if c["wanted"]]
        lures = [(c["y_px"], c["x_px"]) for c in self.clicks if not c["wanted"]]
        if not wanted and lures:
            raise InputError('train: click a particle too, beside what is "not this".')
        self._update(
            "training",
            at_px=tuple(wanted) or None,
            not_at_px=tuple(lures) or None,
            **args.model_dump(),
        )
        self.camera.is_live = False
        self._forget_model()
        folder = self._new_folder("model")
        self._begin_work("training", "starting (loading the libraries)…")
        self._training = TrainingProcess(
            self.snapshot,
            self.settings.training,
            folder,
            detection=self.settings.detection,
            on_ready=self._on_model,
            on_failure=self._on_no_model,
            on_progress=self._on_step,
            gives_way=False,
        )
        self._note(self._training.command)

    def _on_step(self, step: Mapping[str, float]) -> None:
        with self._lock:
            if self._busy is None:
                return
            self._busy |= {
                "fraction": step["step"] / step["steps"],
                "left_s": step["left_s"],
                "text": f"step {step['step']:.0f} of {step['steps']:.0f}, loss "
                f"{step['loss']:.3f}, positions agree to {step['consistency_px']:.2f} "
                "px",
            }
        self.changed()

    def _on_model(self, path: Path) -> None:
        snapshot = self.snapshot
        if snapshot is None:
            return
        try:
            candidates = Candidates.of(path, snapshot)
            found = candidates.found(None)
        except LodestarError as error:
            self._on_no_model(ModelError(str(error)))
            return
        with self._lock:
            self._training = None
            self.candidates, self.found = candidates, found
            self.found_version += 1
            self._update("detection", model=str(path), threshold=None)
            self._end_work(f"The model finds {len(found)} particles here.", "good")
        self.changed()

    def _on_no_model(self, error: ModelError) -> None:
        with self._lock:
            self._training = None
            self._end_work(str(error), "bad")
        self.changed()

    def _forget_model(self) -> None:
        if self.candidates is not None:
            self.candidates = self.found = None
            self.found_version += 1
            self._update("detection", model=None, threshold=None)

    def _threshold(self, args: verbs.ThresholdArgs) -> None:
        if self.candidates is None:
            raise InputError("threshold: train a model first; it scores the snapshot.")
        self.found = self.candidates.found(args.threshold)
        self.found_version += 1
        self._update("detection", threshold=args.threshold)

    # -- the stage -------------------------------------------------------------------

    def _calibrate(self, _: NoArgs) -> None:
        self._require_idle()
        microscope = self._require_microscope()
        if microscope["stage_um"] is None:
            raise InputError("calibrate: this microscope has no XY stage.")
        size_um = self.settings.microscope.pixel_size_um or microscope["pixel_size_um"]
        if size_um is None or self.image is None:
            raise InputError(
                "calibrate: the microscope does not know its pixel size; set it below "
                "(pixel size), about what the objective gives."
            )
        out = self._new_folder("calibration") / "calibration.toml"
        step_um = round(min(self.image.shape) * size_um / 16, 3)
        words = ["calibrate", str(self._write_settings(out.parent)), "-o", str(out)]
        words += ["--step", f"{step_um:g}", "--travel", f"{7 * step_um:g}", "--json"]
        self._begin_work("calibrating", "the stage moves some steps and comes back…")
        lines: list[str] = []
        self._run_apart(
            words, lines.append, lambda why: self._on_calibrated(out, lines, why)
        )

    def _on_calibrated(self, out: Path, lines: list[str], why: str | None) -> None:
        facts = next((json.loads(x) for x in lines if x.startswith("{")), None)
        if why is None and facts is not None:
            calibration = load_calibration(out)
            with self._lock:
                self.calibration = calibration
                self._update("control", calibration=str(out))
        with self._lock:
            self._verdict = None if facts is None else {**facts, "refused": why}
            said = why or "The image follows the stage as it should."
            self._command = None
            self._end_work(said, "bad" if why else "good")
        self._take_back()

    def _box(self, args: verbs.BoxArgs) -> None:
        self._require_idle()
        self._arm(is_armed=False)
        limits = {"y_um": args.y_um, "x_um": args.x_um}
        self.settings = self._changed_settings({"control": {"limits": limits}})

    def _draw_box(self, args: verbs.DrawnBoxArgs) -> None:
        stage_um = (self._microscope or {}).get("stage_um")
        if self.calibration is None or stage_um is None or self.image is None:
            raise InputError(
                "draw_box: calibrate first; until then nobody knows where the picture "
                "lies on the stage."
            )
        centre = (np.array(self.image.shape) - 1) / 2
        corners = np.column_stack([args.y_px, args.x_px]) - centre
        here = np.array([stage_um["y"], stage_um["x"]])
        # all four corners: the picture may be turned against the stage
        four = np.array([[y, x] for y in corners[:, 0] for x in corners[:, 1]])
        places = here + four @ self.calibration.map.matrix_um_per_px.T
        (y0, x0), (y1, x1) = places.min(axis=0), places.max(axis=0)
        box = {"y_um": [y0, y1], "x_um": [x0, x1]}
        self._box(
            verbs.BoxArgs(
                **{k: [round(float(v), 3) for v in b] for k, b in box.items()}
            )
        )

    def _arm_stage(self, args: verbs.OnArgs) -> None:
        if self.run is not None:
            raise InputError(
                "arm_stage: a run is armed before it begins; end this one first, or "
                "press STOP to hold the stage."
            )
        if args.on and self.calibration is None:
            raise InputError(
                "arm_stage: calibrate first, so that moves go the right way."
            )
        if args.on and self.settings.control.limits is None:
            raise InputError("arm_stage: draw the travel box first.")
        self._arm(is_armed=args.on)

    def _arm(self, *, is_armed: bool) -> None:
        self._update("control", armed=is_armed)

    # -- the run ---------------------------------------------------------------------

    def _set_up(self, args: verbs.RunArgs) -> None:
        self._require_idle()
        given = {name: getattr(args, name) for name in args.model_fields_set}
        changed: dict[str, Any] = {
            "control": {
                k: given[k]
                for k in ("follow", "lost", "max_step_um", "focus", "rules")
                if given.get(k) is not None
            }
        }
        if "n_frames" in given:
            changed["acquisition"] = {"n_frames": given["n_frames"]}
        if "pixel_size_um" in given:
            changed["microscope"] = {"pixel_size_um": given["pixel_size_um"]}
        if given.get("name"):
            changed["name"] = given["name"]
        self.settings = self._changed_settings(changed)

    def _begin(self, _: NoArgs) -> None:
        self._require_idle()
        if self.candidates is None:
            raise InputError(
                "begin: train a model first: click a particle, then Train."
            )
        folder = self._new_folder("settings")
        path = self._write_settings(folder)
        self._let_go()
        self._begin_work("starting", "handing the microscope to the run…")
        self._note(["run", str(path)])
        self.camera.do(lambda: self._start_run(path))

    def _start_run(self, path: Path) -> None:
        run = RunningRun(
            path,
            on_ready=self._on_run,
            on_end=self._on_run_end,
            on_news=self._on_change,
        )
        with self._lock:
            self.run = run

    def _on_run(self) -> None:
        with self._lock:
            self._end_work("The run goes on.", "good")
        self.changed()

    def _end(self, _: NoArgs) -> None:
        if self.run is None:
            raise InputError("end: no run is under way.")
        self._begin_work("ending", "the run ends; everything recorded is kept…")
        self.run.end()

    def _on_run_end(self, why: str | None) -> None:
        with self._lock:
            run, self.run = self.run, None
            folder = None if run is None else run.folder
            self._end_work(why or "The run has ended.", "bad" if why else "good")
            self._arm(is_armed=False)  # each run is armed by a deliberate act
        try:
            if folder is not None:
                self._open_folder(folder)
        except LodestarError as error:
            self._fail(str(error))
        if self.recorded is None:
            self._take_back()
        self.changed()

    def _open_folder(self, folder: Path) -> None:
        snapshot = folder / "snapshot.tif"
        if self.snapshot is not None and not snapshot.exists():
            tifffile.imwrite(snapshot, self.snapshot, photometric="minisblack")
        self.recorded = RecordedRun(folder)
        self._plot()

    # -- afterwards --------------------------------------------------------------------

    def _plot(self) -> None:
        recorded = self.recorded
        if recorded is None or not recorded.facts["n_tracks"]:
            return
        self._begin_work("drawing", "drawing the report…")

        def on_end(why: str | None) -> None:
            recorded.read_picture()
            with self._lock:
                self._command = None
                self._end_work(why or "The run has ended; here is its report.",
                               "bad" if why else "good")  # fmt: skip
            self.changed()

        self._start(["plot", str(recorded.folder)], lambda line: None, on_end)

    def _export(self, args: verbs.ExportArgs) -> None:
        self._require_idle()
        recorded = self.recorded
        if recorded is None:
            raise InputError("export: no run is open; end one, or open an earlier one.")
        words = ["export", str(recorded.folder), "--to", args.to]
        if args.min_frames is not None:
            words += ["--min-frames", str(args.min_frames)]
        self._begin_work("exporting", f"writing {args.to}…")
        lines: list[str] = []

        def on_end(why: str | None) -> None:
            with self._lock:
                self._command = None
                if why is None and lines:
                    recorded.exports.append(lines[-1])
                said = why or (lines[-1] if lines else "exported")
                self._end_work(said, "bad" if why else "good")
            self.changed()

        self._start(words, lines.append, on_end)

    def _open_run(self, args: verbs.RunNameArgs) -> None:
        self._require_idle()
        if args.run not in list_runs(self.folder):
            raise InputError(f"open_run: {args.run}: no such run in {self.folder}.")
        self._let_go()
        self.recorded = RecordedRun(self.folder / args.run)
        self._plot()

    def _again(self, _: NoArgs) -> None:
        self._require_idle()
        self.recorded = None
        self._take_back()

    def _save(self, _: NoArgs) -> None:
        self._saved = str(self._write_settings(self._new_folder("settings")))

    def _cancel(self, _: NoArgs) -> None:
        if self._training is not None:
            training, self._training = self._training, None
            self._end_work("Training cancelled.", "")
            threading.Thread(target=training.cancel, daemon=True).start()
        elif self._command is not None:
            self._command.cancel()

    # -- helpers -----------------------------------------------------------------------

    def _run_apart(
        self,
        words: list[str],
        on_line: Callable[[str], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        """Let go of the microscope, then run a command that takes it."""
        self.camera.is_live = False
        self.camera.do(self.camera.release)
        self.camera.do(lambda: self._start(words, on_line, on_end))

    def _start(
        self,
        words: list[str],
        on_line: Callable[[str], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        with self._lock:
            self._note(words)
            self._command = Command(words, on_line=on_line, on_end=on_end)

    def _take_back(self) -> None:
        """Open the microscope again after another process had it."""

        def reopen() -> None:
            held = self.snapshot, self.clicks, self.candidates, self.found
            detection = self.settings.detection
            facts = self.camera.open(self.settings.microscope)
            if self.settings.acquisition.exposure_ms is not None:
                self.camera.expose(self.settings.acquisition.exposure_ms)
                facts = self.camera.facts()
            with self._lock:
                self._microscope = facts
                if held[0] is not None:  # what was learnt stays
                    self.snapshot, self.clicks, self.candidates, self.found = held
                    self.image = held[0]
                    self.settings = self.settings.model_copy(
                        update={"detection": detection}
                    )
                    self.image_version += 1
                    self.found_version += 1
            self.changed()

        self.camera.do(reopen)

    def _require_idle(self) -> None:
        if self._busy is not None:
            raise InputError(
                f"{self._busy['what']}: still going on; wait or cancel it."
            )
        if self.run is not None:
            raise InputError("a run is under way; end it first.")

    def _require_microscope(self) -> dict[str, Any]:
        if self._microscope is None:
            raise InputError("no microscope is connected; connect one first.")
        return self._microscope

    def _begin_work(self, what: str, text: str) -> None:
        self._busy = {"what": what, "text": text, "fraction": None, "left_s": None}
        self._said = {"text": "", "kind": ""}

    def _end_work(self, text: str, kind: str) -> None:
        self._busy, self._said = None, {"text": text, "kind": kind}

    def _note(self, words: list[str]) -> None:
        """Remember what was run, as it would be typed."""
        self._commands = [*self._commands[-19:], as_typed(words)]

    def _new_folder(self, kind: str) -> Path:
        stem = f"{datetime.now():%Y%m%d_%H%M%S}"
        for k in range(1000):
            path = self.folder / kind / (f"{stem}_{k}" if k else stem)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(
                    f"{self.folder}: cannot be written ({error.strerror}); start with "
                    "--out and a folder of yours."
                ) from error
            return path
        raise InputError(f"{self.folder}: too many folders in one second.")

    def _write_settings(self, folder: Path) -> Path:
        path = folder / "settings.toml"
        path.write_text(self.settings.to_toml(), encoding="utf-8")
        return path

    def _update(self, section: str, **values: Any) -> None:
        self.settings = self._changed_settings({section: values})

    def _changed_settings(
        self, changes: Mapping[str, Any], *, whole: tuple[str, ...] = ()
    ) -> Settings:
        """Return the settings with `changes`; sections in `whole` begin anew."""
        data = self.settings.model_dump(exclude_defaults=True)
        for name, change in changes.items():
            if isinstance(change, Mapping) and name not in whole:
                change = {**data.get(name, {}), **change}
            data[name] = change
        return parse_settings(data, source="the page")
