"""The whole job from one page: `lodestar-live start`, mouse and keyboard, to a table.

The real command, the real DemoCamera and stage, a real training, calibration and run;
nothing is asked of the program but by what a user can see and press.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import ndimage

from lodestar_live.recording import Recording
from tests.view.scripts import FROM_CENTRE, PLACE, elsewhere

ROOT = Path(__file__).resolve().parents[2]
SHOTS = os.environ.get("LODESTAR_LIVE_SHOTS")  # a folder: pictures for the tutorial


@pytest.fixture
def start(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Give the page's address and the process that serves it."""
    folder = tmp_path / "exp [beads] µ"
    command = [sys.executable, "-u", "-m", "lodestar_live", "start", "--no-browser"]
    with subprocess.Popen(
        [*command, "--port", "0", "--out", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            said = process.stdout.readline()
            yield re.search(r"http://\S+", said)[0], psutil.Process(process.pid)
        finally:
            me = psutil.Process(process.pid)
            left = me.children(recursive=True)
            process.send_signal(2)
            try:
                process.wait(30)
            finally:
                process.kill()
                for child in left:
                    if child.is_running():
                        child.kill()


def state(path: str) -> str:
    return f"lodestar.job.state?.{path}"


def brightest(page) -> tuple[int, int]:
    """Return (y, x) of the brightest particle well inside the picture shown."""
    size, grey = page.evaluate(
        """() => { const c = lodestar.scene.image;
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return [[c.height, c.width],
          btoa(Array.from(d.filter((_, i) => i % 4 == 0), (v) => String.fromCharCode(v))
            .join(""))]; }"""
    )
    image = np.frombuffer(base64.b64decode(grey), np.uint8).reshape(size).astype(float)
    smooth = ndimage.gaussian_filter(image, 2)
    inside = np.zeros_like(smooth)
    inside[60:-60, 60:-60] = smooth[60:-60, 60:-60]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return int(y), int(x)


def on_screen(page, y_px: float, x_px: float) -> list[float]:
    return page.evaluate(
        """([y, x]) => { const s = lodestar.scene;
        const box = s.overlay.getBoundingClientRect();
        const [sx, sy] = s.toScreen(y, x); return [sx + box.left, sy + box.top]; }""",
        [y_px, x_px],
    )


def step(page, name: str) -> None:
    button = page.locator(f'.step[data-step="{name}"] h2 button')
    if button.get_attribute("aria-expanded") == "false":
        button.click()


def shoot(page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(400)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.jpg"), type="jpeg", quality=72)


@pytest.mark.real_time
@pytest.mark.timeout(900)  # trains and calibrates
def test_from_start_to_a_table_by_mouse_and_keyboard(start, open_page, until) -> None:
    url, process = start
    page = open_page(url, height=720)
    until(page, state("choices.length === 3"))
    assert "nothing answers" in page.inner_text("#backends")  # said in a sentence
    shoot(page, "start-1-microscope")
    page.click("#backends input[value=demo]")
    page.click("#connect")
    until(page, f"{state('has_snapshot')} && !{state('busy')}", timeout_s=60)

    # expose, look at the live image, take the snapshot by key
    page.fill("#exposure", "15")
    page.keyboard.press("Enter")
    until(page, state("microscope.exposure_ms === 15"))
    page.click("#watch")
    n = page.evaluate("lodestar.imageFrame")
    until(page, f"lodestar.imageFrame > {n} + 5")
    page.keyboard.press("p")
    until(page, f"!{state('is_live')} && {state('has_snapshot')}")
    page.wait_for_timeout(500)  # a live image may still be on its way

    # click: a particle by mouse; by keyboard one that is taken back, all else kept
    y, x = brightest(page)
    page.mouse.click(*on_screen(page, y, x))
    until(page, state("clicks.length === 1"))
    page.keyboard.press("n")
    page.focus("#overlay")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    until(page, state("clicks.length === 2"))
    assert page.inner_text("#clicks").count("not this") == 1
    page.keyboard.press("Backspace")
    until(page, state("clicks.length === 1"))
    page.keyboard.press("n")

    # another browser sees it all and who steers; a reload keeps the wheel
    other = open_page(url, height=720)
    until(other, state("clicks.length === 1"))
    until(other, "document.querySelector('#wheel').innerText.includes('page 1 steers')")
    other.keyboard.press("t")
    until(other, "document.querySelector('#said').innerText.includes('has the wheel')")
    assert page.evaluate(state("busy")) is None
    other.close()
    page.reload()
    until(page, state("clicks.length === 1"))

    # train, and watch it
    page.click("#job details summary")
    page.fill("#steps", "250")
    page.click("#train")
    until(page, state("busy?.fraction > 0.1"), timeout_s=100)
    assert "loss" in page.inner_text("#said")
    shoot(page, "start-2-training")
    until(page, f"{state('model')} && !{state('busy')}", timeout_s=100)
    assert "torch" not in modules_of(process)

    # the threshold: what the slider shows is what a run will find
    n_own = page.evaluate(state("n_found"))
    assert 50 <= n_own <= 115  # the scene has some hundred
    page.focus("#threshold")
    for _ in range(8):
        page.keyboard.press("PageUp")
    until(page, f"{state('n_found')} < {n_own}")
    until(page, state("settings.detection.threshold !== null"))
    drawn = page.evaluate("lodestar.scene.detections.y_px.length")
    assert drawn == page.evaluate(state("n_found"))
    page.click("#own-threshold")
    until(page, state("settings.detection.threshold === null"))
    shoot(page, "start-3-threshold")

    # the stage: calibrate, a box drawn on the picture, arm by intent
    step(page, "stage")
    page.click("#calibrate")
    until(page, f"{state('calibration')} && !{state('busy')}", timeout_s=120)
    assert "Good. 1 px is 1.000 µm" in page.inner_text("#verdict")
    until(
        page, f"{state('microscope')} && !document.querySelector('#box-draw').disabled"
    )
    page.wait_for_timeout(500)
    page.click("#box-draw")
    page.mouse.move(*on_screen(page, 30, 20))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 480, 490), steps=5)
    page.mouse.up()
    until(page, state("settings.control.limits"))
    limits = page.evaluate(state("settings.control.limits"))
    # 1 µm per px, the stage at 0, 0: the picture's middle
    np.testing.assert_allclose(limits["y_um"], [30 - 255.5, 480 - 255.5], atol=3)
    np.testing.assert_allclose(limits["x_um"], [20 - 255.5, 490 - 255.5], atol=3)
    page.check("#follow-on")
    until(page, state("settings.control.follow"))
    assert not page.is_visible("#armed")
    page.click("#arm-stage")
    page.click("#yes")
    until(page, state("settings.control.armed"))
    assert page.is_visible("#armed")
    shoot(page, "start-4-stage")

    # run: follow, another target, stop, end
    page.keyboard.press("g")
    until(
        page, f"{state('phase')} === 'running' && lodestar.nUpdates > 20", timeout_s=90
    )
    until(page, "lodestar.scene.rowOf(lodestar.scene.targetId) >= 0")
    target = page.evaluate(elsewhere(150))
    page.click("#pause")
    page.mouse.click(*page.evaluate(PLACE, target))
    page.click("#pause")
    page.click("#follow")
    until(page, f"lodestar.scene.targetId === {target}")
    until(page, f"{FROM_CENTRE} < 3", timeout_s=30)
    assert page.is_visible("#armed")
    shoot(page, "start-5-run")
    page.keyboard.press("s")
    until(page, "document.querySelector('#control').innerText.includes('stop')")
    n = page.evaluate("lodestar.frame")
    until(page, f"lodestar.frame > {n + 60}", timeout_s=60)  # long enough for the table
    page.click("#end")
    until(page, f"{state('phase')} === 'report' && !{state('busy')}", timeout_s=60)
    assert not page.is_visible("#armed")  # every run is armed anew

    # the report, and the table
    until(page, "document.querySelector('#report-picture img')?.naturalWidth > 500")
    page.keyboard.press("e")
    until(page, state("report.exports.length === 1"), timeout_s=60)
    shoot(page, "start-6-report")
    run = Path(page.evaluate(state("report.folder")))
    with (run / "tracks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["track_id"] for row in rows}) >= 50
    with Recording(run) as recording:
        kinds = {event.kind for event in recording.events()}
        settings = dict(recording.info.settings)
    assert {"stage.move", "stage.stopped"} <= kinds
    assert settings["control"]["limits"] == limits

    # everything as a file and as commands
    page.click("#show-settings")
    shown = tomllib.loads(page.inner_text("dialog.sheet pre"))
    assert shown["detection"]["model"] == settings["detection"]["model"]
    page.keyboard.press("Escape")
    page.click("#show-commands")
    typed = page.inner_text("dialog.sheet pre")
    for word in ("train", "calibrate", "run", "export"):
        assert f"lodestar-live {word} " in typed
    page.keyboard.press("Escape")

    # once more: all that was learnt is still there
    page.click("#again")
    until(
        page, f"{state('phase')} === 'prepare' && {state('microscope')}", timeout_s=60
    )
    assert page.evaluate(state("n_found")) == n_own
    assert page.evaluate(state("runs")) == [run.name]
    assert json.dumps(page.evaluate(state("settings.control.armed"))) == "false"


def modules_of(process: psutil.Process) -> str:
    """Return the libraries the page's own process has mapped."""
    if not hasattr(process, "memory_maps"):
        return ""
    return " ".join(Path(entry.path).name for entry in process.memory_maps())
