"""`lodestar-live train --pick` as a user does it: command, click, drag, look, use."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

from lodestar_live.detection import Detector
from lodestar_live.live.first_model import train_and_wait
from lodestar_live.settings import TrainingSettings
from lodestar_live.simulation.fields import Scene, simulate_field
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
    crop = detector.card["crop"]
    np.testing.assert_allclose(crop["at_px"], (y_px, x_px), atol=1.5)
    assert crop["size_px"] == pytest.approx(28, abs=1)
    assert len(detector(field.pixels)) == n_found
    assert (tmp_path / "training.png").is_file()


def test_a_run_without_a_model_lets_the_user_click(
    field, tmp_path, open_page, until, monkeypatch
) -> None:
    """As `run --pick` and `demo --pick` train: beside the run, on the first frame."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/url"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    settings = TrainingSettings(pick=True, steps=60)
    done: list[Path] = []
    worker = threading.Thread(
        target=lambda: done.append(
            train_and_wait(field.pixels, settings, tmp_path, show=False)
        )
    )
    worker.start()
    url_file = tmp_path / "url"
    page = open_page("about:blank")
    while not (url_file.exists() and url_file.read_text().endswith("\n")):
        page.wait_for_timeout(50)
        assert worker.is_alive()
    page.goto(url_file.read_text().strip())
    until(page, "lodestar.scene.image.width > 1")
    place = field.positions_px[1]
    page.mouse.click(*screen_at(page, *place))
    page.click("#use")
    worker.join(100)
    crop = Detector(done[0]).card["crop"]
    np.testing.assert_allclose(crop["at_px"], place, atol=1.5)
