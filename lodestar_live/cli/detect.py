"""``lodestar-live detect``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.progress import track

from lodestar_live.cli._choice import (
    Axes,
    Channel,
    Frames,
    Mask,
    Position,
    Region,
    Slice,
    SubtractMoved,
    parse_region,
)
from lodestar_live.cli._console import make_console
from lodestar_live.errors import InputError

if TYPE_CHECKING:
    from lodestar_live.data import Detections, Pixels

COLUMNS = (
    "frame", "y_px", "x_px", "z_um", "polarizability_um3", "score", "sigma_px",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("detect")(detect)


def detect(
    recording: Annotated[Path, typer.Argument(help="Image, stack or folder.")],
    model: Annotated[Path, typer.Argument(help="Trained model (.onnx).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV to write.")],
    threshold: Annotated[
        str, typer.Option(help="Least log score; auto: the model's own.")
    ] = "auto",
    false_alarms: Annotated[
        float | None,
        typer.Option(help="At most so many marks per million pixels of noise alone."),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(help="The paper's per-frame quantile instead, e.g. 0.99."),
    ] = None,
    h_maxima: Annotated[
        bool, typer.Option(help="With --quantile: the paper's h-maxima.")
    ] = False,
    max_detections: Annotated[int, typer.Option(min=1, help="Per frame.")] = 5000,
    only_like_training: Annotated[
        bool, typer.Option(help="Drop what does not look like the training particle.")
    ] = False,
    least_contrast: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of the frame's upper quartile; 0: keep all."
        ),
    ] = 0.1,
    correct_pixels: Annotated[
        bool,
        typer.Option(
            "--correct-pixels/--raw-pixels", help="Interpolate hot and dead pixels."
        ),
    ] = True,
    mask: Mask = None,
    region: Region = None,
    engine: Annotated[str, typer.Option(help="auto, cpu, openvino, cuda…")] = "auto",
    channel: Channel = None,
    position: Position = None,
    z: Slice = None,
    frames: Frames = None,
    axes: Axes = None,
    subtract_moved: SubtractMoved = None,
    as_json: Annotated[bool, typer.Option("--json", help="Summary as JSON.")] = False,
) -> None:
    """Find the particles of a recording; one CSV row each, `nan` if not measured."""
    from lodestar_live.detection import Detector
    from lodestar_live.recording.movies import Choice, open_movie, read_image

    movie = open_movie(recording, Choice(channel, position, z, frames, axes=axes))
    movie.require_one()
    detector = Detector(
        model,
        threshold=_parse_threshold(threshold),
        false_alarms_per_mpx=false_alarms,
        quantile=quantile,
        h_maxima=h_maxima,
        max_detections=max_detections,
        only_like_training=only_like_training,
        least_contrast=least_contrast,
        correct_pixels=correct_pixels,
        mask=None if mask is None else read_image(mask),
        region_px=parse_region(region),
        engine=engine,
    )
    summary = {"frames": len(movie), "detections": 0, "cut": 0, "corrected_pixels": 0}
    start = time.perf_counter()
    with _replaced(output) as file:
        file.write(",".join(COLUMNS) + "\n")
        images: Iterable[Pixels] = movie
        if subtract_moved is not None:
            from lodestar_live.live.replay import subtracted

            images = subtracted(movie, subtract_moved)
        for index, pixels in _progress(images, len(movie), is_shown=not as_json):
            found = detector(pixels)
            file.writelines(_lines(index, found))
            summary["detections"] += len(found)
            summary["cut"] += detector.n_cut
            n_corrected = max(summary["corrected_pixels"], detector.n_corrected)
            summary["corrected_pixels"] = n_corrected
    seconds = time.perf_counter() - start
    if as_json:
        typer.echo(json.dumps({**summary, "seconds": seconds, "output": str(output)}))
        return
    typer.echo(
        f"{summary['detections']} detections in {len(movie)} frames ({seconds:.1f} s): "
        f"{output}"
    )
    if summary["corrected_pixels"]:
        typer.echo(
            f"Up to {summary['corrected_pixels']} hot or dead pixels a frame were "
            "interpolated (--raw-pixels: none)."
        )
    if summary["cut"]:
        typer.echo(f"{summary['cut']} more were cut by --max-detections.")


def _parse_threshold(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"--threshold {text}: expected auto or a number, for example -1.5."
        ) from None


def _progress(
    images: Iterable[Pixels], n_images: int, *, is_shown: bool
) -> Iterable[tuple[int, Pixels]]:
    return track(
        enumerate(images),
        description="Detecting",
        total=n_images,
        disable=not is_shown,
        transient=True,
        console=make_console(stderr=True),
    )


def _lines(index: int, found: Detections) -> list[str]:
    """Return one line per detection, 6 digits after the point."""
    measured = zip(*(found.rows[name] for name in COLUMNS[1:]), strict=True)
    return [
        f"{index}," + ",".join(f"{value:.6f}" for value in values) + "\n"
        for values in measured
    ]


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """Write beside `path` and move there when whole: no half file is left behind."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); expected a writable folder "
            "with free space."
        ) from error
    finally:
        part.unlink(missing_ok=True)
