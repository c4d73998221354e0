"""The folder of a run, and the versions of what shaped it."""

from __future__ import annotations

import contextlib
import platform
import re
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lodestar_live.errors import RecordingError
from lodestar_live.settings import Settings

_PACKAGES = (
    "lodestar-live",
    "numpy",
    "onnxruntime",
    "pycromanager",
    "pymmcore",
    "pyzmq",
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


def package_versions() -> dict[str, str]:
    """Return the versions of everything that shapes a run."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def discard_if_empty(run_folder: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything."""
    with contextlib.suppress(OSError):
        run_folder.rmdir()
