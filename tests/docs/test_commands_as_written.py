"""Every command that README, docs and hooks show is one that exists, and it runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer

from lodestar_live.cli import app
from lodestar_live.data import StagePosition
from lodestar_live.simulation.beads import BeadField
from tests.needs import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "hooks").glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "lodestar_live" / "streams" / "PROTOCOL.md",
]
PAGES = [page for page in PAGES if "_made" not in page.parts]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
INLINE = re.compile(r"`(lodestar-live [^`]+)`")
HOOK = re.compile(r"^python (hooks/\S+\.py)(.*)$", re.M)
COMMAND = re.compile(r"(?:^|&& )(?:\S*/)?(lodestar-live .*?)(?= #| &&|$)", re.M)


def commands_of(page: Path, languages: tuple[str, ...] = ("bash", "")) -> list[str]:
    """Return the commands in a page's code blocks, without their comments."""
    found = []
    for _, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            lines = re.sub(r"^ +", "", text.replace("\\\n", " "), flags=re.M)
            found += [m.strip() for m in COMMAND.findall(lines)]
    return found


def inline_commands_of(page: Path) -> list[str]:
    """Return the whole commands a page names within its sentences."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = [" ".join(command.split()) for command in INLINE.findall(text)]
    return [command for command in found if len(command.split()) > 2]


WRITTEN = [
    (page, command)
    for page in PAGES
    for command in commands_of(page) + inline_commands_of(page)
]


@pytest.mark.parametrize(
    ("page", "command"), WRITTEN, ids=[f"{p.stem}: {c}" for p, c in WRITTEN]
)
def test_a_command_of_the_docs_is_understood(page: Path, command: str) -> None:
    """By the very parser: names, options, types and numbers of arguments."""
    parse(command)


@pytest.mark.parametrize(
    "command",
    [
        "lodestar-live train a.tif -o m.onnx --nonsense",
        "lodestar-live nonsense",
        "lodestar-live detect a.tif",
        "lodestar-live keys new lab --foldr keys",
        "lodestar-live train a.tif -o m.onnx --network nonsense",
    ],
)
def test_a_command_that_is_wrong_is_noticed(command: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing|not one of"):
        parse(command)


def parse(command: str) -> None:
    """Let the command line's own parser read a command, without running it."""
    plain = (
        command.split(" > ")[0].replace("…", "RUN").replace(" [", " ").replace("]", "")
    )
    group: Any = typer.main.get_command(app)
    context = group.make_context("lodestar-live", shlex.split(plain)[1:])
    while hasattr(group, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, group, rest = group.resolve_command(context, rest)
        context = group.make_context(name, rest, parent=context)


def test_scripts_that_pages_call_take_the_options_shown() -> None:
    calls = [c for page in PAGES for c in HOOK.findall(page.read_text("utf-8"))]
    assert len(calls) >= 4
    for script, rest in calls:
        program = (ROOT / script).read_text(encoding="utf-8")
        for word in rest.split():
            assert not word.startswith("--") or f'"{word}"' in program


def test_pages_hold_commands() -> None:
    assert len(WRITTEN) > 40
    assert {"README", "own-movie", "microscope"} <= {page.stem for page, _ in WRITTEN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recording that the tutorial speaks of, and nothing else."""
    folder = tmp_path_factory.mktemp("tutorial")
    field = BeadField()
    places = [StagePosition(0.0, 0.6 * k, 0.4 * k) for k in range(15)]
    movie = np.stack([field.render(place, (256, 256)) for place in places])
    tifffile.imwrite(folder / "movie.tif", movie, photometric="minisblack")
    tifffile.imwrite(folder / "first_frame.tif", movie[0])
    return folder


@pytest.mark.timeout(900)  # trains, in a process of its own
def test_the_tutorial_of_ones_own_movie_runs_as_written(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in commands_of(ROOT / "docs" / "tutorials" / "own-movie.md"):
        runs = sorted((folder / "runs").glob("*"))
        words = shlex.split(command.replace("RUN", runs[-1].name if runs else "RUN"))
        done = subprocess.run(
            [sys.executable, "-m", "lodestar_live", *words[1:]],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
    (run,) = (folder / "runs").glob("*/run.sqlite")
    rows = (folder / "detections.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 15 * 10
    assert (folder / "training.png").stat().st_size > 10_000
    assert (run.parent / "plots.png").is_file()
    assert (run.parent / "tracks.csv").read_text(encoding="utf-8").count("\n") > 100
