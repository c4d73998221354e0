"""`lodestar-live view` of a tracker that lets in known keys only."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.streams.samples import make_keys
from tests.view.live_source import LiveSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of a tracker, of a friend whom it knows and of a stranger."""
    return make_keys(tmp_path, "tracker")


@pytest.fixture
def source(folder: Path) -> Iterator[LiveSource]:
    """A tracker with 20 particles, commands and CURVE keys."""
    keys = {"keys": folder / "tracker.key_secret", "clients": folder / "clients"}
    source = LiveSource(n_tracks=20, control=True, **keys)
    yield source
    source.close()


@contextmanager
def view(source: LiveSource, folder: Path, name: str) -> Iterator[str]:
    """Run the command as a user would; yield the page's address."""
    command = [sys.executable, "-m", "lodestar_live", "view", source.stream]
    command += ["--keys", str(folder / f"{name}.key_secret"), "--no-browser"]
    command += ["--server", str(folder / "tracker.key"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        yield re.search(r"http://\S+/", said)[0]
    finally:
        process.kill()
        process.communicate()


def test_a_known_key_sees_and_steers(source, folder, open_page, until) -> None:
    with view(source, folder, "friend") as url:
        page = open_page(url)
        until(page, "lodestar.nUpdates > 5")
        until(page, "lodestar.scene.tracks.track_id.length == 20")
        until(page, "!document.getElementById('stop').disabled")
        page.click("#stop")
        until(page, "document.getElementById('reply').textContent == 'stop: done'")
        assert [verb for verb, _ in source.commands] == ["stop"]
        page.close()


def test_an_unknown_key_sees_nothing(source, folder, open_page, until) -> None:
    with view(source, folder, "stranger") as url:
        page = open_page(url)
        until(page, "document.readyState == 'complete'")
        page.wait_for_timeout(1500)
        assert page.evaluate("lodestar.nUpdates") == 0
        page.close()
