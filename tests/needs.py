"""What some tests want beyond Python packages, each declared once.

A test carries ``@pytest.mark.needs_compiler`` and its like, or takes a fixture that
brings the marker (`real_data`, `browser`). Without the part it skips with one sentence
that says how to get it; with ``CI=true`` the missing part fails the test, since
``.ci/run`` installs all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT.parent / "shared" / "data"

#: Repetitions of a test that watches real time, on a machine that may stall.
RERUNS = 2


@dataclass(frozen=True)
class Part:
    """Something a test wants that ``pip install`` does not bring."""

    marker: str
    is_here: Callable[[], bool]
    remedy: str
    fixture: str | None = None  # a test that takes it carries the marker


def find_chromium() -> str | None:
    """Return the path of the system's Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@cache
def has_compiler() -> bool:
    """Tell whether ``cc`` runs and finds libzmq's header and library."""
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    program = b"#include <zmq.h>\nint main(void) { return zmq_errno(); }\n"
    built = subprocess.run(
        [compiler, "-x", "c", "-", "-o", os.devnull, "-lzmq"],
        input=program,
        capture_output=True,
    )
    return built.returncode == 0


def on_screen(*command: str) -> list[str]:
    """Return `command` as it runs on a screen that no one has to look at."""
    virtual = shutil.which("xvfb-run")
    return [virtual, "-a", *command] if virtual else list(command)


def has_display() -> bool:
    """Tell whether windows can be drawn, on a virtual screen or a real one."""
    if sys.platform != "linux":
        return True
    real = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return shutil.which("xvfb-run") is not None or real


PARTS = (
    Part(
        "needs_recordings",
        RECORDINGS.is_dir,
        f"recorded movies: put them into {RECORDINGS}, as CONTRIBUTING.md lists them",
        fixture="real_data",
    ),
    Part(
        "needs_chromium",
        lambda: find_chromium() is not None,
        "the browser Chromium: apt-get install chromium, or install Google Chrome",
        fixture="browser",
    ),
    Part(
        "needs_npm",
        lambda: bool(shutil.which("node") and shutil.which("npm")),
        "Node.js with npm: apt-get install nodejs npm, or https://nodejs.org",
    ),
    Part(
        "needs_compiler",
        has_compiler,
        "a C compiler and libzmq: apt-get install gcc libc6-dev libzmq3-dev",
    ),
    Part(
        "needs_display",
        has_display,
        "a screen with OpenGL: apt-get install xvfb xauth libgl1 libegl1 "
        "libgl1-mesa-dri, and the libxcb packages in .ci/run",
    ),
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for part in PARTS:
        config.addinivalue_line("markers", f"{part.marker}: wants {part.remedy}")
    config.addinivalue_line(
        "markers", f"real_time: watches real time; repeated up to {RERUNS} times"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test the markers of the fixtures it takes, and its repetitions."""
    fixtures = getattr(item, "fixturenames", ())
    for part in PARTS:
        if part.fixture in fixtures:
            item.add_marker(part.marker)
    if item.get_closest_marker("real_time"):
        item.add_marker(pytest.mark.flaky(reruns=RERUNS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose part is missing; fail it where everything is installed."""
    for part in PARTS:
        if item.get_closest_marker(part.marker) and not part.is_here():
            missing = f"{part.marker}: this test wants {part.remedy}"
            if os.environ.get("CI") == "true":
                pytest.fail(f"{missing} (CI=true: nothing may be missing)", False)
            pytest.skip(missing)
