"""``lodestar-live train``."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lodestar_live.cli._choice import Mask, Region, SubtractMoved, parse_region
from lodestar_live.cli._console import make_console
from lodestar_live.cli._paths import require_folder_of
from lodestar_live.errors import InputError
from lodestar_live.model_card import stated

if TYPE_CHECKING:
    from lodestar_live.data import Detections, Pixels
    from lodestar_live.training import Model, TrainingStep
    from lodestar_live.view.web.pick import Places, Tell

_STARTS = {"warm": "generic weights", "scratch": "scratch"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("train")(train_model)


def train_model(
    image: Annotated[Path, typer.Argument(help="Image or movie (its first frame).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model file, .onnx.")],
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Y,X of the particle; once more for each that looks different. "
            "Left out: chosen."
        ),
    ] = None,
    not_at: Annotated[
        list[str] | None,
        typer.Option(help="Y,X of something not wanted; once more for each other."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the crop, px.")] = None,
    pick: Annotated[
        bool, typer.Option("--pick", help="Click the particle in the browser.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page by itself.")
    ] = True,
    network: Annotated[Literal["live", "paper"], typer.Option()] = "live",
    quality: Annotated[
        Literal["fast", "best"], typer.Option(help="best: up to a minute.")
    ] = "fast",
    start: Annotated[
        Literal["warm", "scratch"],
        typer.Option(help="warm: from generic weights, in a third of the time."),
    ] = "scratch",
    steps: Annotated[int | None, typer.Option(help="Mini-batches.")] = None,
    downsample: Annotated[
        int | None, typer.Option(help="Scale of tracking; left out: by the crop.")
    ] = None,
    angle: Annotated[
        bool, typer.Option("--angle", help="Also measure which way particles point.")
    ] = False,
    mask: Mask = None,
    region: Region = None,
    correct_pixels: Annotated[
        bool,
        typer.Option(
            "--correct-pixels/--raw-pixels", help="Interpolate hot and dead pixels."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    frame: Annotated[int, typer.Option(help="Frame of a movie.")] = 0,
    subtract_moved: SubtractMoved = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card.")] = False,
    progress_lines: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Train a detector on one particle, or on several that differ.

    Writes MODEL.onnx and training.png beside it.
    """
    from lodestar_live.recording.movies import read_image

    require_folder_of(output)
    if output.suffix != ".onnx":
        raise InputError(f"output {output}: expected a name ending in .onnx.")
    if pick and (at or size is not None):
        raise InputError("--pick chooses place and size; leave out --at and --size.")
    places = _parse_positions(at)
    if subtract_moved is None:
        pixels = read_image(image, frame)
    else:
        pixels = _without_background(image, frame, subtract_moved)
    # torch takes seconds to import; what is wrong with the paths is said before
    from lodestar_live.training import train
    from lodestar_live.training.picture import write_picture

    console = make_console(stderr=True)
    learn = functools.partial(
        train,
        pixels,
        not_at=_parse_positions(not_at),
        seed=seed,
        network=network,
        quality=quality,
        start=start,
        steps=steps,
        downsample=downsample,
        channels=("y", "x", "angle") if angle else None,
        correct_pixels=correct_pixels,
        mask=None if mask is None else read_image(mask),
        region_px=parse_region(region),
    )
    if pick:
        model = _learn_by_click(pixels, learn, console, browser=browser)
    elif progress_lines:
        model = learn(at=places, size=size, progress=_print_step)
    else:
        model = _learn(learn, console, at=places, size=size)
    model.export(output)
    picture = write_picture(model, output.with_name("training.png"), pixels)
    if as_json:
        typer.echo(json.dumps(model.card.to_json()))
    else:
        console.print(_summary(model, output, picture), soft_wrap=True)


def _learn(
    learn: Callable[..., Model],
    console: Console,
    *,
    at: Places | None,
    size: int | None,
) -> Model:
    """Train with a progress bar."""
    with Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("votes agree to {task.fields[spread]:.2f} px"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("training", total=1, loss=float("nan"), spread=float("nan"))

        def show(step: TrainingStep) -> None:
            bar.update(
                task,
                total=step.steps,
                completed=step.step,
                loss=step.loss,
                spread=step.consistency_px,
            )

        return learn(at=at, size=size, progress=show)


def _print_step(step: TrainingStep) -> None:
    """Print a step as one JSON line, for the program that started this one."""
    told = {**dataclasses.asdict(step), "left_s": step.left_s}
    typer.echo(json.dumps(told))


def _learn_by_click(
    pixels: Pixels, learn: Callable[..., Model], console: Console, *, browser: bool
) -> Model:
    """Train on what the user clicks; a try-out of that very crop is the model."""
    from lodestar_live.detection import Detector
    from lodestar_live.view import pick_crop

    tried: dict[tuple[Places, int | None], Model] = {}

    def try_out(at: Places, size: int | None, tell: Tell) -> Detections:
        def show(step: TrainingStep) -> None:
            spread = f"votes agree to {step.consistency_px:.2f} px"
            tell(step.step / step.steps, f"step {step.step} of {step.steps}: {spread}")

        tried[at, size] = model = learn(at=at, size=size, progress=show)
        return Detector(model.to_bytes())(pixels)

    chosen = pick_crop(
        pixels,
        try_out=try_out,
        open_browser=browser,
        announce=lambda url: console.print(
            f"Click the particle on {url} (Shift-click: others that differ)"
        ),
    )
    if chosen not in tried:
        at, size = chosen
        return _learn(learn, console, at=at, size=size)
    return tried[chosen]


def _without_background(path: Path, frame: int, least_offset_um: float) -> Pixels:
    """Return a frame of a recording whose stage moved, its background taken out."""
    from lodestar_live.live.replay import subtracted
    from lodestar_live.recording.movies import open_movie

    movie = open_movie(path)
    movie.require_one()
    chosen = islice(subtracted(movie, least_offset_um), frame, frame + 1)
    pixels = next(chosen, None)
    if pixels is None or not pixels.any():
        raise InputError(
            f"{path}: frame {frame} of {len(movie)} has no frames before it at stage "
            f"positions {least_offset_um} um away; choose a later one with --frame."
        )
    return pixels


def _parse_positions(texts: list[str] | None) -> Places | None:
    return tuple(_parse_position(text) for text in texts) if texts else None


def _parse_position(text: str) -> tuple[float, float]:
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--at {text}: expected Y,X in pixels, for example 120,88."
        ) from None
    return y, x


def _summary(model: Model, output: Path, picture: Path) -> str:
    card = model.card
    report, training = stated(card.report, "report"), stated(card.training, "training")
    places = "; ".join("{:.1f}, {:.1f}".format(*crop.at_px) for crop in card.crops)
    snrs = " ".join(f"{crop.snr:.1f}" for crop in card.crops)
    errors = ", ".join(
        f"{error:.3f} px at {snr}" for snr, error in report.predicted_error_px.items()
    )
    return (
        f"particle at (y, x) = ({places}), crop {card.crops[0].size_px} px, "
        f"contrast/noise {snrs}\n"
        f"trained {training.steps} steps from {_STARTS[training.start or 'scratch']} "
        f"in {training.seconds:.1f} s; unseen views agree to "
        f"{report.error_px:.3f} px, votes to {report.consistency_px:.2f} px\n"
        f"predicted error by contrast/noise: {errors}\n"
        f"wrote {output} and {picture}"
    )
