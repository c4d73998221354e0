"""Recorded movies through the very same live pipeline."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import track

from lodestar_live.errors import ModelError
from lodestar_live.live.first_model import train_and_wait
from lodestar_live.live.tracker import LiveTracker
from lodestar_live.recording.movies import open_movie
from lodestar_live.settings import ControlSettings, Settings

_SLACK_FRAMES = 8


def replay_movie(
    movie_path: Path,
    settings: Settings,
    *,
    model: Path | None = None,
    out: Path | None = None,
    show: Console | None = None,
) -> LiveTracker:
    """Feed every frame of a movie to a `LiveTracker`, as fast as it takes them.

    Parameters
    ----------
    movie_path
        See `lodestar_live.recording.movies.open_movie`.
    model
        Trained .onnx; None: the settings' own, or trained on the first frame.
    out
        Folder for the run; None: the settings' own.
    show
        Where progress is drawn; None: nowhere.

    Returns
    -------
    The closed tracker.
    """
    movie = open_movie(movie_path)
    settings = _for_replay(settings, out)
    folder = Path(settings.recording.folder)
    chosen = model or settings.detection.model
    if chosen is None:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = train_and_wait(
            movie[0], settings.training, folder, show=show is not None
        )
    detection = settings.detection.model_copy(update={"model": str(chosen)})
    tracker = LiveTracker(settings.model_copy(update={"detection": detection}))
    with tracker:
        frames = range(len(movie))
        shown = frames if show is None else track(frames, "tracking", console=show)
        for index in shown:
            tracker(movie[index], {"Axes": {"time": index}})
            tracker.wait_for_room(_SLACK_FRAMES)
    if not tracker.counts.processed:
        raise ModelError(f"{movie_path}: no frame could be processed; see the log.")
    return tracker


def _for_replay(settings: Settings, out: Path | None) -> Settings:
    """Nothing may be dropped, nothing moves, nothing is stored twice."""
    live = settings.live.model_copy(update={"mode": "every", "hand_on_frames": False})
    control = ControlSettings()
    recording = settings.recording
    if out is not None:
        recording = recording.model_copy(update={"folder": str(out)})
    return settings.model_copy(
        update={"live": live, "control": control, "recording": recording}
    )
