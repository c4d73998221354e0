"""deeplay's LodeSTAR, in a process and a virtual environment of its own.

``LODESTAR_DEEPLAY`` names the interpreter of one (``pip install deeplay==0.1.4``): its
dependencies do not go together with ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.bench import _deeplay_child
from lodestar_live.bench._timing import Times, time_in_blocks
from lodestar_live.data import FloatArray, Pixels
from lodestar_live.errors import SettingsError

VARIABLE = "LODESTAR_DEEPLAY"
_RUNS = 3  # of its detection in each block


class Deeplay:
    """deeplay in a child process."""

    NAME = "deeplay detect()"

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def ask(self, what: str, array: npt.NDArray[Any], **more: object) -> dict[str, Any]:
        """Send a request about an array; return the answer."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        assert self._process.stdout is not None  # noqa: S101
        path = self._folder / "array.npy"
        np.save(path, array)
        name = "images" if what == "locate" else "image"
        request = {"do": what, name: str(path), **more}
        with suppress(BrokenPipeError):  # it has ended, and answers nothing
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SettingsError(
                f"{VARIABLE} = {os.environ[VARIABLE]!r}: its interpreter ended while "
                f"asked to {what}. Is deeplay 0.1.4 installed there?"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def find(self, pixels: Pixels) -> FloatArray:
        """Return its detections in one frame, (n, 2), (y, x)."""
        return _positions(self.ask("find", pixels))


def is_named() -> bool:
    """Whether `LODESTAR_DEEPLAY` names an interpreter."""
    return bool(os.environ.get(VARIABLE))


@contextmanager
def open_deeplay() -> Iterator[Deeplay]:
    """Start the interpreter that `LODESTAR_DEEPLAY` names.

    Raises
    ------
    SettingsError
        The variable is not set.
    """
    python = os.environ.get(VARIABLE)
    if not python:
        raise SettingsError(
            f"{VARIABLE} is not set: expected the Python interpreter of a virtual "
            "environment with deeplay (pip install deeplay==0.1.4)."
        )
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(  # noqa: S603 - the user's own interpreter
            [python, "-P", _deeplay_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        yield Deeplay(process, Path(folder))
        if process.stdin is not None:
            process.stdin.close()


@contextmanager
def deeplay_if_named() -> Iterator[Deeplay | None]:
    """Start deeplay if `LODESTAR_DEEPLAY` is set; else None."""
    if not is_named():
        yield None
        return
    with open_deeplay() as peer:
        yield peer


def time_beside(
    peer: Deeplay | None,
    calls: Mapping[str, Callable[[], object]],
    frame: Pixels,
    *,
    blocks: int,
) -> tuple[dict[str, Times], FloatArray]:
    """Time our calls and deeplay's detection in turns.

    Returns
    -------
    The times by name, deeplay's under `Deeplay.NAME`, and what it found, (n, 2).
    """
    if peer is None:
        return time_in_blocks(calls, blocks=blocks), np.empty((0, 2))
    taken: dict[str, list[Times]] = {name: [] for name in [*calls, Deeplay.NAME]}
    for _ in range(blocks):
        for name, times in time_in_blocks(calls, blocks=1).items():
            taken[name].append(times)
        answer = peer.ask("detect", frame, repeats=_RUNS)
        seconds = np.array([answer["seconds"], answer["cpu_seconds"]])
        taken[Deeplay.NAME].append(Times(*(1e3 * seconds)))
    together = {
        name: Times(*np.concatenate(parts, axis=1)) for name, parts in taken.items()
    }
    return together, _positions(answer)


def _positions(answer: Mapping[str, Any]) -> FloatArray:
    return np.array(answer["positions_px"], dtype=float).reshape(-1, 2)
