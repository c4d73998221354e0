"""What the overlay page costs the tracker, and how often it is redrawn.

A tracker (trained detector, linker, publisher) runs in this process; the page's server
and Chromium are processes of their own. Blocks with the page open and closed alternate
in one run, so that other load on the machine falls on both alike.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import FloatArray, Frame, RunInfo
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.linking import Linker
from lodestar_live.pipeline.pipeline import Pipeline
from lodestar_live.streams import Publisher

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_SIZE_PX = 512
_N_PARTICLES = 200
_CAMERA_HZ = 50.0
_N_PICTURES = 50  # the movie goes to and fro
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Block:
    """What one block of frames took."""

    process_ms: FloatArray
    frames_per_s: float
    dropped: int
    updates_per_s: float = float("nan")
    cpu_ms: tuple[float, float] = (float("nan"), float("nan"))  # server, browser


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Alternate blocks without and with the page; compare them."""
    n_pairs, block_s = (1, 3.0) if quick else (6, 6.0)
    with _tracker(seed, steps=60 if quick else 800) as (process, endpoint):
        _block(process, 1.0)  # warm up
        with _server(endpoint) as url, _chromium() as browser:
            pairs = []
            for _ in range(n_pairs):
                off = _block(process, block_s)
                pairs.append((off, _block_with_page(process, block_s, browser, url)))
    report = BenchReport("view", [_table(pairs)])
    server_ms, browser_ms = np.median([on.cpu_ms for _, on in pairs], axis=0)
    ratios = [np.median(on.process_ms) / np.median(off.process_ms) for off, on in pairs]
    rates = [on.frames_per_s / off.frames_per_s for off, on in pairs]
    updates = [on.updates_per_s for _, on in pairs]
    report.notes = [
        f"{_N_PARTICLES} particles, {_SIZE_PX} x {_SIZE_PX} px, camera at "
        f"{_CAMERA_HZ:.0f} frames/s, detector on one thread.",
        f"Page: {np.median(updates):.1f} updates/s (bar: 20; the camera image is "
        "published at most 25 times a second).",
        f"Tracker with the page open: time per frame x {np.median(ratios):.3f}, frames "
        f"tracked x {np.median(rates):.3f} (bar: within 5 %), medians over "
        f"{n_pairs} pairs of blocks.",
        f"Processor time per update: {server_ms:.1f} ms in the page's server, "
        f"{browser_ms:.1f} ms in Chromium, which draws without a graphics card here.",
    ]
    return report


def _table(pairs: list[tuple[Block, Block]]) -> Table:
    rows = []
    for i, pair in enumerate(pairs):
        for name, block in zip(("closed", "open"), pair, strict=True):
            p50, p99 = np.percentile(block.process_ms, [50, 99])
            updates = block.updates_per_s if name == "open" else "-"
            rate, dropped = block.frames_per_s, block.dropped
            rows.append([i, name, p50, p99, rate, dropped, updates])
    columns = ["pair", "page", "ms/frame p50", "p99", "frames/s", "dropped"]
    columns.append("updates/s")
    return Table("The tracker with the page closed and open", columns, rows)


@contextmanager
def _tracker(seed: int, *, steps: int) -> Iterator[tuple[Callable[[Any], None], str]]:
    """Yield a function that tracks one picture, and the stream's address."""
    from lodestar_live.training import train

    pictures, at = _pictures(seed)
    model = train(pictures[0], at, 32, seed=seed, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spots.onnx"
        model.export(path)
        detector = Detector(path, n_threads=1)
    publisher = Publisher("tcp://127.0.0.1:0", None)
    publisher.open(RunInfo("bench", "", {"name": "bench"}, pixel_size_um=0.1))
    linker = Linker()
    pipeline = Pipeline(
        lambda frame: detector(frame.pixels),
        lambda detections, frame: linker(detections, frame.index),
        sinks=[publisher],
    )
    start_s, n = time.perf_counter(), 0

    def process(index: int) -> None:
        nonlocal n
        step = index % (2 * _N_PICTURES - 2)
        at_picture = min(step, 2 * _N_PICTURES - 2 - step)
        t_s = time.perf_counter() - start_s
        pipeline.process(Frame(n, pictures[at_picture], t_s, t_s))
        n += 1

    try:
        yield process, publisher.endpoints["stream"]
    finally:
        publisher.close()


def _pictures(seed: int) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Return a movie of drifting spots, and where the loneliest one is."""
    draw = np.random.default_rng(seed)
    grid = np.linspace(24, _SIZE_PX - 24, 15)[:_N_PARTICLES]
    at = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    at = draw.permutation(at)[:_N_PARTICLES] + draw.uniform(-6, 6, (_N_PARTICLES, 2))
    speed = draw.normal(0, 0.15, at.shape)
    y, x = np.ogrid[:_SIZE_PX, :_SIZE_PX]
    pictures = []
    for i in range(_N_PICTURES):
        now = at + i * speed
        # separable Gaussians: one matrix product draws all spots
        rows = np.exp(-((y - now[:, 0]) ** 2) / 8)
        columns = np.exp(-((x.T - now[:, 1]) ** 2) / 8)
        pictures.append(draw.poisson(100 + 400 * rows @ columns.T).astype(np.uint16))
    away = np.linalg.norm(at[:, None] - at, axis=-1) + 1e9 * np.eye(len(at))
    y_px, x_px = at[away.min(1).argmax()]
    return pictures, (float(y_px), float(x_px))


def _block(process: Callable[[int], None], duration_s: float) -> Block:
    """Track at the camera's rate; a frame that comes while one is in work is lost."""
    start_s, took_ms, dropped, index = time.perf_counter(), [], 0, 0
    while (now_s := time.perf_counter() - start_s) < duration_s:
        due = int(now_s * _CAMERA_HZ)
        if due < index:
            time.sleep(max(0.0, index / _CAMERA_HZ - now_s))
            continue
        dropped += due - index
        begun_s = time.perf_counter()
        process(due)
        took_ms.append((time.perf_counter() - begun_s) * 1e3)
        index = due + 1
    return Block(np.array(took_ms), len(took_ms) / duration_s, dropped)


def _block_with_page(
    process: Callable[[int], None], duration_s: float, browser: Browser, url: str
) -> Block:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url)
    _block(process, 1.5)  # the page loads and connects
    before = page.evaluate("lodestar.nUpdates")
    began_s, used_s = time.perf_counter(), _cpu_s()
    block = _block(process, duration_s)
    n_updates = page.evaluate("lodestar.nUpdates") - before
    block.updates_per_s = n_updates / (time.perf_counter() - began_s)
    server_s, browser_s = _cpu_s() - used_s
    block.cpu_ms = (1e3 * server_s / n_updates, 1e3 * browser_s / n_updates)
    page.close()
    _block(process, 0.5)  # and goes
    return block


def _cpu_s() -> FloatArray:
    """Return the processor time used so far by the page's server and by Chromium."""
    import psutil

    used_s = np.zeros(2)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command, times = " ".join(process.cmdline()), process.cpu_times()
            kind = 0 if "lodestar_live view" in command else 1
            if kind == 0 or "chrom" in process.name():
                used_s[kind] += times.user + times.system
    return used_s


@contextmanager
def _server(endpoint: str) -> Iterator[str]:
    """Yield the address of a viewer, started as a user starts it."""
    command = [sys.executable, "-m", "lodestar_live", "view", endpoint]
    server = subprocess.Popen(
        [*command, "--port", "0", "--no-browser"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[0]
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


@contextmanager
def _chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        raise InputError("bench view: needs chromium; apt-get install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()
