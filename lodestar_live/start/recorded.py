"""A run that has ended: its report, and its frames for the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.recording import Recording
from lodestar_live.view.figures import run_data
from lodestar_live.view.figures.run_files import snapshot_of
from lodestar_live.view.web.recorded_feed import RecordedFeed

_MOST_RUNS = 50


class RecordedRun:
    """One run's folder, opened.

    Attributes
    ----------
    facts
        What the report says in numbers.
    feed
        Its frames, for the page.
    picture
        PNG of its plots; empty until they are drawn.
    exports
        What each export said.

    Raises
    ------
    RecordingError
        The folder holds no run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with Recording(folder) as recording:
            self._source = run_data.loaded(recording)
            status, reason = recording.end.status, recording.end.reason
        self.feed = RecordedFeed(
            self._source, source=str(folder), snapshot=snapshot_of(folder)
        )
        self.picture = b""
        self.exports: list[str] = []
        self.facts: dict[str, Any] = {**self._numbers(), "exports": self.exports,
                                      "status": status, "reason": reason}  # fmt: skip

    def read_picture(self) -> None:
        """Take the plots that `lodestar-live plot` has drawn."""
        path = self.folder / "plots.png"
        if path.is_file():
            self.picture = path.read_bytes()

    def _numbers(self) -> dict[str, Any]:
        source = self._source
        tracks = source.tracks()
        _, lengths = np.unique(tracks["track_id"], return_counts=True)
        least = int(source.info.settings.get("linking", {}).get("min_track_frames", 40))
        fps = run_data.frame_rate_hz(source)
        return {
            "folder": str(self.folder),
            "counts": run_data.frame_counts(source),
            "fps": fps if np.isfinite(fps) else None,
            "n_tracks": len(lengths),
            "n_long": int((lengths >= least).sum()),
            "min_frames": least,
        }


def list_runs(folder: Path) -> list[str]:
    """Return the runs in a folder by name, the newest first."""
    found = sorted((p.parent.name for p in folder.glob("*/run.sqlite")), reverse=True)
    return found[:_MOST_RUNS]
