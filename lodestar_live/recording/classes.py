"""The classes of a run's tracks, in a table beside its run file.

The run file itself stays as it was recorded.
"""

from __future__ import annotations

import csv
from pathlib import Path

from lodestar_live.data import Rows
from lodestar_live.errors import RecordingError

FILE_NAME = "track_classes.csv"
_COLUMNS = ("track_id", "class", "share", "n_frames")


def write_classes(path: Path, rows: Rows) -> Path:
    """Write one line per track; columns as in `lodestar_live.analysis.TrackClasses`."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            table.writerows([row[name] for name in _COLUMNS] for row in rows)
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be written ({error.strerror})."
        ) from error
    return path


def read_classes(run: Path) -> dict[int, int]:
    """Return the class by track of a run's folder; empty if it was not classified."""
    path = run / FILE_NAME
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {int(r["track_id"]): int(r["class"]) for r in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"{path}: not a table of classes ({error}); run `classify` again."
        ) from error
