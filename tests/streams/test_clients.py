"""Clients in other languages, built and run: they see the very same numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lodestar_live.streams import Publisher
from tests.streams.samples import make_update, publisher, wait_for

__all__ = ["publisher"]

CLIENTS = Path(__file__).parent / "clients"


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a build step; show what it said when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def listen(publisher: Publisher, *client: str | Path) -> list[str]:
    """Publish three frames of four tracks and return what the client printed."""
    command = [*client, publisher.endpoints["stream"]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: {"tracks", "end"} <= publisher.wanted_topics)
        for index in range(3):
            publisher.write(make_update(index, n=4))
        publisher.close()
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    return output.splitlines()


def expected_rows(index: int) -> list[list[float]]:
    rows = make_update(index, n=4).tracks.rows
    return [[float(r["track_id"]), r["y_px"], r["x_px"]] for r in rows]


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "tracks.js"):
        shutil.copy(CLIENTS / name, folder)
    # the package ships libzmq prebuilt for Linux, macOS and Windows: no script to run
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    return folder / "tracks.js"


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "tracks"
    source = CLIENTS / "tracks.c"
    run("cc", "-Wall", "-Wextra", "-Werror", "-O1", "-o", program, source, "-lzmq")
    return program


@pytest.mark.needs_npm
def test_javascript_reads_the_same_numbers(
    publisher: Publisher, node_client: Path
) -> None:
    frames = [json.loads(line) for line in listen(publisher, "node", node_client)]
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    for index, frame in enumerate(frames):
        assert frame["rows"] == expected_rows(index)
        assert frame["zIsNaN"]


@pytest.mark.needs_compiler
def test_c_reads_the_same_numbers(publisher: Publisher, c_client: Path) -> None:
    lines = [line.split() for line in listen(publisher, c_client)]
    for index in range(3):
        rows = [[float(v) for v in line[1:]] for line in lines if line[0] == str(index)]
        assert rows == expected_rows(index)
