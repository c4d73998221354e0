"""The page of a real run: `lodestar-live run --view` on the real DemoCamera.

Everything goes the user's way: the command in a process of its own, the page in a real
browser, commands through the control channel, the stage of the real core.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from lodestar_live.control import Calibration
from lodestar_live.geometry import PixelToStage
from lodestar_live.recording import Recording
from tests.view.scripts import FROM_CENTRE, PLACE, elsewhere

ROOT = Path(__file__).resolve().parents[2]
LIMITS = "{ y_um = [-300, 300], x_um = [-300, 300] }"


class LiveRun:
    """`lodestar-live run CONFIG --view`, and what it says."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-u", "-m", "lodestar_live", "run", str(config)]
        self.process = subprocess.Popen(
            [*command, "--view", "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.lines: list[str] = []
        self.has_page = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if "shows tcp://" in line:
                self.has_page.set()

    @property
    def url(self) -> str:
        assert self.has_page.wait(60), self.lines
        return re.search(r"http://127\.0\.0\.1:\d+/", "".join(self.lines))[0]

    @property
    def folder(self) -> Path:
        said = "".join(self.lines).replace("\n", "")
        return Path(re.search(r"Run folder: (.*?)(stream|Run folder):", said)[1])

    def listeners(self) -> list[tuple[str, int]]:
        """Return every address this run and its children listen on."""
        me = psutil.Process(self.process.pid)
        return [
            connection.laddr
            for process in [me, *me.children(recursive=True)]
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def live_run(tmp_path: Path, bead_model: Path) -> Iterator[LiveRun]:
    """A run that follows a bead of the DemoCamera until it is ended."""
    calibration = tmp_path / "stage.toml"
    mapping = PixelToStage.from_pixel_size(1.0)  # tests/system measures it
    Calibration(mapping, residual_px=0.0, measured=datetime.now(UTC)).save(calibration)
    config = tmp_path / "run.toml"
    config.write_text(
        f"""
        name = "page"
        [microscope]
        backend = "demo"
        [acquisition]
        exposure_ms = 20.0
        [training]
        steps = 60
        [detection]
        model = {json.dumps(str(bead_model))}
        [control]
        follow = true
        armed = true
        limits = {LIMITS}
        calibration = {json.dumps(str(calibration))}
        [streams]
        stream = "tcp://127.0.0.1:0"
        latest = "tcp://127.0.0.1:0"
        [recording]
        folder = {json.dumps(str(tmp_path))}
        """,
        encoding="utf-8",
    )
    run = LiveRun(config)
    yield run
    run.close()


def says(selector: str, text: str) -> str:
    return f"document.querySelector('{selector}').innerText.includes('{text}')"


@pytest.mark.real_time
def test_the_page_of_a_real_run_shows_and_steers_it(live_run, open_page, until) -> None:
    page = open_page(live_run.url)
    until(page, "lodestar.nUpdates > 10", timeout_s=60)
    until(page, says("#counters", "processed"))
    until(page, "lodestar.scene.travelBox !== null")
    until(page, "lodestar.scene.rowOf(lodestar.scene.targetId) >= 0")
    until(page, "Number.isFinite(lodestar.scene.prediction?.[0])")
    until(page, "lodestar.charts.rows.p50.some((v) => v > 0)")
    assert page.inner_text("#state") == "live"
    assert page.evaluate("lodestar.scene.image.width") == 512
    n_found = page.evaluate("lodestar.scene.detections.y_px.length")
    n_tracks = page.evaluate("lodestar.scene.tracks.track_id.length")
    assert 50 <= n_found <= 110 and n_tracks >= 50  # the scene has 100 per view

    # click a particle elsewhere: it is followed, and the stage brings it to the centre
    page.click("#pause")
    track_id = page.evaluate(elsewhere(180))
    page.mouse.click(*page.evaluate(PLACE, track_id))
    page.click("#pause")
    page.click("#follow")
    page.click("#retrain")  # on the particle chosen, wherever it is by now
    until(page, f"lodestar.scene.targetId === {track_id}")
    until(page, says("#events", "retrain.started"))
    assert "training a new model" in page.inner_text("#reply")
    until(page, f"{FROM_CENTRE} < 2", timeout_s=20)

    page.click("#stop")
    until(page, says("#control", "stop"))
    assert page.evaluate("lodestar.scene.tracks.track_id.length") >= 50  # goes on

    listeners = live_run.listeners()
    assert len(listeners) == 4  # stream, latest, control, page
    assert {address for address, _ in listeners} == {"127.0.0.1"}

    page.click("#release")
    until(page, says("#reply", "release: done"))
    assert live_run.end() == 0
    until(page, says("#state", "ended"))
    kinds = {event.kind for event in Recording(live_run.folder).events()}
    assert {"stage.move", "retrain.started", "stage.stopped"} <= kinds
