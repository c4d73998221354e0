"""Overlay movies: the recorded images with circles, tails and ids drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from lodestar_live.data import FloatArray, Pixels, Rows
from lodestar_live.errors import InputError
from lodestar_live.view.figures import run_data, style
from lodestar_live.view.figures.run_data import RunSource
from lodestar_live.view.web.recorded_feed import Images

FORMATS = ("mp4", "gif")
_TAIL_FRAMES = 30
_SHORTEST_SIDE_PX = 480  # smaller frames are enlarged, so that ids can be read
_LONGEST_SIDE_PX = 1080  # larger ones are reduced
_FASTEST_FPS = 60.0  # that players show; faster recordings are slowed to it
#: Pixels of a frame -> what the model sees there, 0 to 1, over the same field of view.
ScoreMap = Callable[[Pixels], FloatArray]


def write_overlay_movie(
    recording: RunSource,
    movie: Images,
    path: str | Path,
    *,
    frames_per_s: float | None = None,
    score_map: ScoreMap | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Draw the tracks into the images they were found in; return how many frames.

    Parameters
    ----------
    recording
        A `Recording`, or `RunArrays`.
    movie
        Images by frame index.
    path
        ``.mp4`` (needs ``pip install lodestar-live[movie]``) or ``.gif``.
    frames_per_s
        None: as recorded, at most 60.
    score_map
        Drawn beside each frame. None: nothing is.
    progress
        Told frames done and frames in all.

    Raises
    ------
    InputError
        Unknown format, no images, or the mp4 writer is not installed.
    """
    path = Path(path)
    if path.suffix.lstrip(".") not in FORMATS:
        raise InputError(f"{path}: unknown format; expected one of {FORMATS}.")
    if not len(movie):
        raise InputError(f"{path}: there are no images to draw on; give the movie.")
    recording = run_data.loaded(recording)
    if frames_per_s is None:
        frames_per_s = min(_FASTEST_FPS, 1.0 / run_data.frame_interval_s(recording))
    with _writer(path, frames_per_s) as writer:
        pictures = _pictures(recording, movie, score_map)
        for done, picture in enumerate(pictures, start=1):
            writer.append_data(picture)
            progress(done, len(movie))
    return len(movie)


def _pictures(
    source: RunSource, movie: Images, score_map: ScoreMap | None
) -> Iterator[np.ndarray]:
    """Yield each frame as an RGB picture, tracks drawn in."""
    tracks = source.tracks()
    tracks = tracks[np.argsort(tracks["frame"], kind="stable")]
    range_counts = _contrast(movie)
    scale = _scale(movie[0].shape)
    shifts = run_data.stage_shift_px(source, np.arange(len(movie), dtype=float))
    for index in range(len(movie)):
        first = max(0, index - _TAIL_FRAMES)
        low, high = np.searchsorted(tracks["frame"], [first, index + 1])
        picture = _grey(movie[index], range_counts, scale)
        _draw_tracks(picture, tracks[low:high], index, shifts - shifts[index], scale)
        if score_map is not None:
            picture = _beside(picture, score_map(movie[index]))
        yield np.asarray(picture)


def _beside(picture: Image.Image, score: FloatArray) -> Image.Image:
    """Return a picture with a map of the same field of view at its right."""
    colours = colormaps["magma"](np.clip(score, 0, 1), bytes=True)[..., :3]
    shown = Image.fromarray(colours).resize(picture.size, Image.Resampling.NEAREST)
    both = Image.new("RGB", (2 * picture.width, picture.height))
    both.paste(picture, (0, 0))
    both.paste(shown, (picture.width, 0))
    return both


def _draw_tracks(
    picture: Image.Image, rows: Rows, index: int, shifts: FloatArray, scale: float
) -> None:
    """Draw circles of frame `index` and the tails that lead there.

    `shifts` is how far the view had moved at each frame, relative to this one.
    """
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    moved = shifts[rows["frame"]]
    x = (rows["x_px"] + moved[:, 1] + 0.5) * scale
    y = (rows["y_px"] + moved[:, 0] + 0.5) * scale
    radius = float(np.clip(4 * scale, 7, 16))
    for track_id in np.unique(rows["track_id"][rows["frame"] == index]):
        of_track = rows["track_id"] == track_id
        colour = tuple(int(255 * c) for c in style.track_colour(int(track_id)))
        points = list(zip(x[of_track].tolist(), y[of_track].tolist(), strict=True))
        if len(points) > 1:
            canvas.line(points, fill=colour, width=2)
        at_x, at_y = points[-1]
        box = (at_x - radius, at_y - radius, at_x + radius, at_y + radius)
        canvas.ellipse(box, outline=colour, width=2)
        canvas.text(
            (at_x + radius + 2, at_y - radius - 6), str(track_id), "white", font
        )


def _contrast(movie: Images) -> tuple[float, float]:
    """Return black and white of the whole movie, from a few of its frames."""
    chosen = sorted({0, len(movie) // 2, len(movie) - 1})
    ranges = np.array([style.contrast(_real(movie[i])) for i in chosen])
    return float(ranges[:, 0].min()), float(ranges[:, 1].max())


def _real(pixels: Pixels) -> Pixels:
    return np.abs(pixels) if np.iscomplexobj(pixels) else np.asarray(pixels)


def _grey(
    pixels: Pixels, range_counts: tuple[float, float], scale: float
) -> Image.Image:
    low, high = range_counts
    grey = np.nan_to_num(np.clip((_real(pixels) - low) * (255 / (high - low)), 0, 255))
    image = Image.fromarray(grey.astype(np.uint8))
    # mp4 wants even sides
    size = tuple(round(side * scale / 2) * 2 for side in (image.width, image.height))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return image.resize((size[0], size[1]), resample).convert("RGB")


def _scale(shape: tuple[int, ...]) -> float:
    if min(shape) < _SHORTEST_SIDE_PX:
        return float(max(1, round(_SHORTEST_SIDE_PX / min(shape))))
    return min(1.0, _LONGEST_SIDE_PX / max(shape))


def _writer(path: Path, frames_per_s: float) -> Any:
    if path.suffix == ".gif":
        return imageio.get_writer(path, duration=1000 / frames_per_s, loop=0)
    try:
        return imageio.get_writer(
            path,
            fps=frames_per_s,
            codec="libx264",
            macro_block_size=2,
            quality=None,
            output_params=["-preset", "veryfast", "-crf", "23"],
        )
    except ImportError as error:
        raise InputError(
            f"{path}: writing mp4 needs imageio-ffmpeg; "
            "pip install lodestar-live[movie], or write a .gif."
        ) from error
