"""Train a model while the acquisition goes on: in a process of its own.

A process rather than a thread: the live process never imports torch, the camera's
thread keeps its interpreter to itself, and a stop can end the training at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile

from lodestar_live.data import Pixels
from lodestar_live.errors import ModelError
from lodestar_live.priority import BESIDE, lower_process
from lodestar_live.settings import DetectionSettings, TrainingSettings


class TrainingProcess:
    """One training run of ``lodestar-live train`` beside a live acquisition.

    Parameters
    ----------
    snapshot
        The frame to train on, shape (y, x).
    settings
        Where the particle is and how to train.
    folder
        Receives ``snapshot.tif``, ``model.onnx``, ``training.png`` and the log.
    detection
        The part of the frame that counts, and whether bad pixels are corrected.
    on_ready
        Called on this object's thread with the path of the finished model.
    on_failure
        Called with a readable reason instead.
    show
        Let the training draw its progress bar on this terminal. It always may when the
        user is to click the particle: it tells the page's address there.
    on_progress
        Called on this object's thread with what `TrainingStep` holds, by name, and
        `left_s`: step by step.
    gives_way
        It runs beside an acquisition, at a lower priority. One that is shown does not.

    Attributes
    ----------
    command
        What is run, as words after ``lodestar-live``.
    """

    def __init__(
        self,
        snapshot: Pixels,
        settings: TrainingSettings,
        folder: Path,
        *,
        detection: DetectionSettings | None = None,
        on_ready: Callable[[Path], None],
        on_failure: Callable[[ModelError], None],
        show: bool = False,
        on_progress: Callable[[Mapping[str, float]], None] | None = None,
        gives_way: bool = True,
    ) -> None:
        self.model_path = folder / "model.onnx"
        self._log_path = folder / "training.log"
        image_path = folder / "snapshot.tif"
        tifffile.imwrite(image_path, snapshot, photometric="minisblack")
        self._on_ready, self._on_failure = on_ready, on_failure
        self._on_progress = on_progress
        self._cancelled = False
        command = _command(image_path, self.model_path, settings, detection)
        self.command = command[3:]
        if on_progress is not None:
            command += ["--progress-lines"]
        self._process = self._start(
            command, on_terminal=show or settings.pick, is_alone=show or not gives_way
        )
        self._thread = threading.Thread(
            target=self._wait, name="lodestar-training", daemon=True
        )
        self._thread.start()

    def cancel(self, timeout_s: float = 2.0) -> bool:
        """End the training; nothing is called back afterwards.

        Returns
        -------
        True if it was still under way.
        """
        self._cancelled = True
        is_under_way = self._process.poll() is None
        if is_under_way:
            self._process.kill()
        self._thread.join(timeout_s)
        return is_under_way

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the training is over and has called back."""
        self._thread.join(timeout_s)

    def _start(
        self, command: list[str], *, on_terminal: bool, is_alone: bool
    ) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        environment = {**os.environ, "PYTHONPATH": path}
        if not is_alone:  # beside an acquisition: idle threads must not spin
            environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        log = None if on_terminal else self._log_path.open("wb")
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                stdout=log if self._on_progress is None else subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        finally:
            if log is not None:
                log.close()
        if not is_alone:
            lower_process(process.pid, BESIDE)
        return process

    def _wait(self) -> None:
        if self._process.stdout is not None:
            self._hear(self._process.stdout)
        status = self._process.wait()
        if self._cancelled:
            return
        if status == 0 and self.model_path.is_file():
            self._on_ready(self.model_path)
        else:
            self._on_failure(ModelError(self._reason(status)))

    def _hear(self, lines: IO[bytes]) -> None:
        """Pass on what the training says of each step, until it ends."""
        with lines:
            for line in lines:
                if self._on_progress is not None and line.startswith(b"{"):
                    self._on_progress(json.loads(line))

    def _reason(self, status: int) -> str:
        log = (
            self._log_path.read_text(errors="replace")
            if self._log_path.exists()
            else ""
        )
        said = " ".join(log.rpartition("error:")[2].split()[-60:])
        return f"training ended with status {status}: {said or 'see above'}"


def train_and_wait(
    snapshot: Pixels,
    settings: TrainingSettings,
    folder: Path,
    *,
    detection: DetectionSettings | None = None,
    show: bool,
) -> Path:
    """Train on `snapshot` and return the model's path; see `TrainingProcess`.

    Raises
    ------
    ModelError
        The training failed; the reason names the remedy.
    """
    ready: list[Path] = []
    failed: list[ModelError] = []
    training = TrainingProcess(
        snapshot,
        settings,
        folder,
        detection=detection,
        on_ready=ready.append,
        on_failure=failed.append,
        show=show,
    )
    try:
        training.join()
    except BaseException:
        training.cancel()
        raise
    if failed:
        raise failed[0]
    return ready[0]


def _command(
    image: Path,
    model: Path,
    settings: TrainingSettings,
    detection: DetectionSettings | None = None,
) -> list[str]:
    command = [sys.executable, "-m", "lodestar_live", "train", str(image)]
    command += ["-o", str(model), "--seed", str(settings.seed)]
    command += ["--network", settings.network, "--quality", settings.quality]
    command += ["--start", settings.start]
    if settings.pick:
        command += ["--pick"]
    elif settings.at_px is not None:
        command += _positions("--at", settings.at_px)
    if settings.not_at_px is not None:
        command += _positions("--not-at", settings.not_at_px)
    if settings.size_px is not None and not settings.pick:
        command += ["--size", str(settings.size_px)]
    if settings.downsample is not None:
        command += ["--downsample", str(settings.downsample)]
    if settings.angle:
        command += ["--angle"]
    if settings.steps is not None:
        command += ["--steps", str(settings.steps)]
    if detection is not None and not detection.correct_pixels:
        command += ["--raw-pixels"]
    if detection is not None and detection.mask is not None:
        command += ["--mask", detection.mask]
    if detection is not None and detection.region_px is not None:
        command += ["--region", ",".join(str(v) for v in detection.region_px)]
    return command


def _positions(option: str, at_px: Any) -> list[str]:
    pairs = np.reshape(at_px, (-1, 2))
    return [word for y, x in pairs for word in (option, f"{y},{x}")]
