"""Recorded movies through the very same live pipeline, on their own time axis."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from lodestar_live.control import load_calibration
from lodestar_live.data import Frame, Pixels
from lodestar_live.errors import InputError, ModelError
from lodestar_live.health import RunEnd
from lodestar_live.live.first_model import train_and_wait
from lodestar_live.live.tracker import LiveTracker
from lodestar_live.pipeline.modulation import ModulatedBackground
from lodestar_live.recording.movies import Choice, Movie, open_movie
from lodestar_live.settings import ControlSettings, ModulationSettings, Settings

logger = logging.getLogger(__name__)


def replay_movie(
    movie_path: Path,
    settings: Settings,
    *,
    model: Path | None = None,
    out: Path | None = None,
    choice: Choice | None = None,
    show: Console | None = None,
) -> LiveTracker:
    """Feed every frame of a movie to a `LiveTracker`, as fast as it takes them.

    Times, pixel size and stage positions are the recording's own; what it does not say
    stays unknown, and the run is told in frames and pixels. Each position and channel
    is linked by itself.

    Parameters
    ----------
    movie_path
        See `lodestar_live.recording.movies.Movie`.
    model
        Trained .onnx; None: the settings' own, or trained on the first frame.
    out
        Folder for the run; None: the settings' own.
    choice
        Which images, and what the user knows better than the metadata.
    show
        Where progress is drawn; None: nowhere.

    Returns
    -------
    The closed tracker.
    """
    movie = open_movie(movie_path, completed(choice or Choice(), settings))
    calibration = settings.control.calibration
    source = facts_of(movie)
    settings = _for_replay(settings, out)
    folder = Path(settings.recording.folder)
    chosen = model or settings.detection.model
    if chosen is None:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = train_and_wait(
            movie[0],
            settings.training,
            folder,
            detection=settings.detection,
            show=show is not None,
        )
    _say_what_is_unknown(movie, has_calibration=calibration is not None)
    detection = settings.detection.model_copy(update={"model": str(chosen)})
    tracker = LiveTracker(
        settings.model_copy(update={"detection": detection}),
        calibration=None if calibration is None else load_calibration(calibration),
        source=source,
    )
    with tracker:
        reception = tracker.reception(threading.Event(), waits=True)
        frames = range(len(movie))
        shown = frames if show is None else track(frames, "tracking", console=show)
        try:
            for index in shown:
                reception.take(frame_of(movie, index, reception.clock()))
        except KeyboardInterrupt:
            tracker.close(RunEnd("stopped", "Ctrl-C"))
            raise
    movie.close()
    if not tracker.counts.processed:
        raise ModelError(f"{movie_path}: no frame could be processed; see the log.")
    return tracker


def facts_of(movie: Movie) -> dict[str, Any]:
    """Return what a run file keeps of the recording it was made from."""
    size_um = movie.pixel_size_um
    return {
        "path": str(movie.path.resolve()),
        "kind": movie.kind,
        "time_axis": movie.time_axis,
        "knows_stage": movie.knows_stage,
        "pixel_size_um": size_um if math.isfinite(size_um) else None,
        "affine_um_per_px": movie.affine_um_per_px,
        "channels": movie.channels,
        "positions": movie.positions,
    }


def frame_of(
    movie: Movie, index: int, t_arrival_s: float, *, pixels: Pixels | None = None
) -> Frame:
    """Return one image of a recording with the time and place it was taken at.

    Parameters
    ----------
    pixels
        Instead of the image's own; None: read.
    """
    plane = movie.planes[index]
    return Frame(
        index=-1,
        pixels=np.asarray(movie[index]) if pixels is None else pixels,
        t_exposure_s=plane.t_s if movie.time_axis != "none" else math.nan,
        t_arrival_s=t_arrival_s,
        stage_um=plane.stage_um,
        pixel_size_um=plane.pixel_size_um,
        exposure_ms=plane.exposure_ms,
        channel=plane.channel,
        position=plane.position,
        time_index=plane.time_index,
        z_index=plane.z_index,
        axes={"time": plane.time_index},
        is_recorded=True,
    )


def subtracted(movie: Movie, least_offset_um: float) -> Iterator[Pixels]:
    """Give the frames of a recording without what does not move with the stage.

    Raises
    ------
    InputError
        It does not say where the stage stood.
    """
    if not movie.knows_stage:
        raise InputError(
            f"{movie.path}: does not say where the stage stood; frames of offset "
            "positions cannot be paired."
        )
    without = ModulatedBackground(ModulationSettings(least_offset_um=least_offset_um))
    for index in range(len(movie)):
        yield without(frame_of(movie, index, 0.0)).pixels


def completed(choice: Choice, settings: Settings) -> Choice:
    """Take the user's own pixel size from the settings where the choice has none."""
    if choice.pixel_size_um is not None or settings.microscope.pixel_size_um is None:
        return choice
    return replace(choice, pixel_size_um=settings.microscope.pixel_size_um)


def _say_what_is_unknown(movie: Movie, *, has_calibration: bool) -> None:
    if movie.time_axis == "none":
        logger.warning("%s: no time axis; times are in frames. Say --fps.", movie.path)
    if not math.isfinite(movie.pixel_size_um):
        logger.warning(
            "%s: pixel size unknown; lengths are in px. Say --pixel-size.", movie.path
        )
    elif movie.knows_stage and not has_calibration and not movie.affine_um_per_px:
        logger.warning(
            "%s: the stage's positions are known, its axes are not: camera and stage "
            "are taken as aligned. Name a calibration in control.calibration.",
            movie.path,
        )


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
