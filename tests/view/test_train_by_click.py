"""`train --pick` and `demo --pick` as a user does it: command, click, use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from scipy import ndimage

from lodestar_live.detection import Detector
from lodestar_live.recording import Recording
from tests.simulation.fields import Scene, simulate_field
from tests.view.test_pick import screen_at

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def field():
    scene = Scene(n_particles=8, size_px=(180, 180), spacing_px=50)
    return simulate_field(scene, seed=3)


@contextmanager
def training(image: Path, model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield the command at work and the address it prints."""
    command = [sys.executable, "-m", "lodestar_live", "train", str(image), "--pick"]
    command += ["--no-browser", "--steps", "60", "-o", str(model)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process, re.search(r"http://\S+", process.stderr.readline())[0]
        finally:
            process.kill()


def test_click_drag_and_look_then_the_very_model_looked_at_is_written(
    field, tmp_path, open_page, until
) -> None:
    image, model = tmp_path / "snapshot.tif", tmp_path / "model.onnx"
    tifffile.imwrite(image, field.pixels.astype(np.float32))
    y_px, x_px = field.positions_px[0]
    with training(image, model) as (process, url):
        page = open_page(url)
        until(page, "lodestar.scene.image.width > 1")
        zoom = page.evaluate("lodestar.scene.view.zoom")
        sx, sy = screen_at(page, y_px, x_px)
        page.mouse.move(sx, sy)
        page.mouse.down()
        page.mouse.move(sx + 14 * zoom, sy, steps=4)
        page.mouse.up()
        page.click("#try")
        until(page, "lodestar.scene.detections !== null", timeout_s=100)
        n_found = page.evaluate("lodestar.scene.detections.y_px.length")
        assert page.inner_text("#reply") == f"finds {n_found} particles"
        page.click("#use")
        until(page, "document.querySelector('#state').innerText.startsWith('chosen')")
        assert process.wait(60) == 0
        said = process.stderr.read()
    assert "training ━" not in said  # not once more: the try-out's model is it
    detector = Detector(model)
    crop = detector.card.crop
    np.testing.assert_allclose(crop.at_px, (y_px, x_px), atol=1.5)
    assert crop.size_px == pytest.approx(28, abs=1)
    assert len(detector(field.pixels)) == n_found
    assert (tmp_path / "training.png").is_file()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch) -> Callable[[], str | None]:
    """Stand in for the user's browser; return the address it is asked to open."""
    browser, told = tmp_path / "browser", tmp_path / "url"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > "{told}.part"; mv "{told}.part" "{told}"'
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    return lambda: told.read_text().strip() if told.exists() else None


def require_modest(training: psutil.Process) -> None:
    """Beside an acquisition no thread spins, and nobody's niceness is undone."""
    assert training.environ()["OMP_WAIT_POLICY"] == "PASSIVE"
    assert training.nice() >= 7


def roundest(image: np.ndarray) -> np.ndarray:
    """Place (y, x) of the brightest thing well inside the image: a particle."""
    smooth = ndimage.gaussian_filter(image.astype(float), 3)
    smooth[:60], smooth[-60:], smooth[:, :60], smooth[:, -60:] = 0, 0, 0, 0
    return np.array(np.unravel_index(smooth.argmax(), smooth.shape))


def test_the_demo_tracks_what_was_clicked(
    tmp_path, open_page, until, opened, monkeypatch
) -> None:
    """The whole command; `run --pick` lets the user click by the same means."""
    monkeypatch.delenv("OMP_WAIT_POLICY")  # which the tests set for themselves
    command = ["nice", "-n", "7", sys.executable, "-m", "lodestar_live", "demo"]
    command += ["--pick", "--json", "--steps", "250", "--frames", "20", "--port", "0"]
    command += ["--out", str(tmp_path / "demo")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            page = open_page("about:blank")
            while opened() is None:
                page.wait_for_timeout(50)
                assert process.poll() is None, process.stderr.read()
            page.goto(opened())
            require_modest(psutil.Process(process.pid).children()[0])
            until(page, "lodestar.scene.image.width > 1")
            place = roundest(tifffile.imread(tmp_path / "demo" / "snapshot.tif"))
            page.mouse.click(*screen_at(page, *place))
            page.click("#use")
            said, complained = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, complained
    facts = json.loads(said)
    assert facts["summary"]["counts"]["processed"] > 0 and facts["summary"]["n_tracks"]
    crop = Recording(Path(facts["run_folder"])).info.model["crop"]
    np.testing.assert_allclose(crop["at_px"], place, atol=1.5)
