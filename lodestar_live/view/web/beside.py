"""The overlay page of a run of our own, served by a process beside it.

A process rather than a thread: drawing for a page then never holds up the tracker, and
it runs at a lower priority.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lodestar_live.priority import BESIDE, lower_process

_ENDS_WITHIN_S = 3.0


@contextmanager
def page_beside(
    endpoints: Mapping[str, str], *, browser: bool = True, quiet: bool = False
) -> Iterator[None]:
    """Serve the page of the tracker at `endpoints` while the block runs.

    Parameters
    ----------
    endpoints
        As `LiveTracker.endpoints` gives them.
    browser
        Open the page in the browser. The page's address is printed either way.
    quiet
        Print nothing.
    """
    process = _start(_command(endpoints, browser=browser), quiet=quiet)
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(endpoints: Mapping[str, str], *, browser: bool) -> list[str]:
    command = [sys.executable, "-m", "lodestar_live", "view", endpoints["stream"]]
    command += ["--until-input-ends"]  # so it never outlives a run that was killed
    if "control" in endpoints:
        command += ["--control", endpoints["control"]]
    return command if browser else [*command, "--no-browser"]


def _start(command: list[str], *, quiet: bool) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    process = subprocess.Popen(  # noqa: S603 - our own command line
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if quiet else None,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C ends the run first, then its page
    )
    lower_process(process.pid, BESIDE)
    return process
