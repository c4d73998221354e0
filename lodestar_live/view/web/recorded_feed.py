"""RecordedFeed: a recorded run for the page, any frame at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from lodestar_live.data import Event, Pixels
from lodestar_live.errors import StreamError
from lodestar_live.streams.image import encode_image
from lodestar_live.view.figures import run_data
from lodestar_live.view.figures.run_data import RunSource
from lodestar_live.view.web.bundle import TRACK_COLUMNS, Part, rows_part
from lodestar_live.view.web.live_feed import Cursor

_TAIL_FRAMES = 40  # sent along after a jump, so that tails are whole at once
_HISTORY_POINTS = 1500


class Images(Protocol):
    """Images by frame index, e.g. a `Movie`."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> Pixels:
        """Return one image, shape (y, x)."""


class RecordedFeed:
    """Hand pages the frames of a recorded run they ask for.

    Parameters
    ----------
    recording
        A `Recording`, or `RunArrays`.
    source
        What the page calls it, e.g. the run's folder.
    movie
        Images by frame index; empty: only the snapshot is shown.
    snapshot
        Shown where the movie has no frame.
    """

    kind = "recorded"

    def __init__(
        self,
        recording: RunSource,
        *,
        source: str,
        movie: Images = (),
        snapshot: Pixels | None = None,
    ) -> None:
        self._source, self._movie, self._snapshot = source, movie, snapshot
        self._recording = run_data.loaded(recording)
        tracks = self._recording.track_rows
        self._tracks = tracks[np.argsort(tracks["frame"], kind="stable")]
        frames, self._t_s = run_data.frame_times_s(self._recording)
        self._frames = frames.astype(int)

    def on_news(self, tell_pages: Callable[[], None]) -> None:
        """Do nothing: a recorded run has no news."""

    def enter(self) -> Cursor:
        """Count one page more."""
        return Cursor()

    def leave(self) -> None:
        """Count one page less."""

    def close(self) -> None:
        """Nothing to let go of."""

    def silent_s(self) -> float | None:
        """Return 0: a recorded run is never silent."""
        return 0.0

    def command(
        self, verb: str, args: Mapping[str, Any], page: str = ""
    ) -> dict[str, Any]:
        """Refuse: nothing moves in a recorded run."""
        raise StreamError(f"{verb}: a recorded run takes no commands.")

    def hello(self) -> dict[str, Any]:
        """Return what a page must know first."""
        info = self._recording.info
        return {
            "kind": self.kind,
            "source": self._source,
            "verbs": [],
            "run": info.run,
            "started": info.started,
            "settings": dict(info.settings),
            "calibration": dict(info.calibration),
            "pixel_size_um": info.pixel_size_um,
            "frames": self._frames.tolist(),
            "t_s": self._t_s.tolist(),
            "target_id": run_data.followed_id(self._recording),
            "counts": run_data.frame_counts(self._recording),
            "fps": run_data.frame_rate_hz(self._recording),
            "stage_um": self._stage_um(),
            "history": self._history(),
        }

    def news(self, cursor: Cursor, wish: Mapping[str, Any]) -> list[Part]:
        """Return the frame the page wishes: its number, and the one it shows now."""
        parts = [] if cursor.has_run else [Part("run", self.hello())]
        cursor.has_run = True
        if not len(self._frames):
            return parts
        frame = int(wish.get("frame", self._frames[0]))
        shown = int(wish.get("since", -1))
        if frame == shown and not parts:
            return parts
        first = (
            shown + 1 if 0 <= frame - shown <= _TAIL_FRAMES else frame - _TAIL_FRAMES
        )
        return parts + self._image(cursor, frame) + self._rows(first, frame)

    def _rows(self, first: int, last: int) -> list[Part]:
        """Return the rows of several frames; the page makes tails of the earlier."""
        low, high = np.searchsorted(self._tracks["frame"], [first, last + 1])
        rows = self._tracks[low:high]
        facts = {"frame": last, "first": first, **self._facts(last)}
        return [rows_part("tracks", facts, rows, ("frame", *TRACK_COLUMNS))]

    def _facts(self, frame: int) -> dict[str, Any]:
        told = [e for e in self._recording.event_list if e.frame == frame]
        facts: dict[str, Any] = {"events": [_event_json(e) for e in told[:20]]}
        frames = self._recording.frame_rows
        row = frames[frames["frame"] == frame]
        if len(row) and np.isfinite(run_data.column(row, "height_px")[0]):
            facts["shape_px"] = [int(row[f"{s}_px"][0]) for s in ("height", "width")]
        return facts

    def _image(self, cursor: Cursor, frame: int) -> list[Part]:
        in_movie = 0 <= frame < len(self._movie)
        key = frame if in_movie else -2
        pixels = self._movie[frame] if in_movie else self._snapshot
        if pixels is None or cursor.image == key:
            return []
        cursor.image = key
        header, encoded = encode_image(pixels)
        is_snapshot = not in_movie
        return [
            Part("image", {**header, "frame": frame, "snapshot": is_snapshot}, encoded)
        ]

    def _stage_um(self) -> list[dict[str, float]]:
        """Return the stage position of every frame; empty when unknown."""
        rows = self._recording.frame_rows
        y_um, x_um = (run_data.column(rows, f"stage_{a}_um") for a in "yx")
        if not np.isfinite(y_um).any():
            return []
        frame = rows["frame"]
        good = np.isfinite(y_um) & np.isfinite(x_um)
        y_um, x_um = (
            np.interp(self._frames, frame[good], v[good]) for v in (y_um, x_um)
        )
        return [
            {"y": y, "x": x} for y, x in zip(y_um.tolist(), x_um.tolist(), strict=True)
        ]

    def _history(self) -> dict[str, Any]:
        """Return columns for the plots: time, latency, frames lost."""
        frames = self._recording.frames()
        step = max(1, -(-len(frames) // _HISTORY_POINTS))
        lost = np.zeros(len(frames))
        if "state" in (frames.dtype.names or ()):
            lost = np.cumsum(
                np.isin(frames["state"].astype(str), ("dropped", "failed"))
            )
        return {
            "t_s": run_data.column(frames, "t_exposure_s")[::step].tolist(),
            "latency_ms": run_data.column(frames, "latency_ms")[::step].tolist(),
            "lost": lost[::step].tolist(),
        }


def _event_json(event: Event) -> dict[str, Any]:
    return {"kind": event.kind, "t_s": event.t_s, "frame": event.frame}
