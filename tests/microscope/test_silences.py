"""What used to hang in silence: a sentence with the first cause within seconds, always.

The seconds are those of the sentence on an idle machine, 3 at most; the tests give a
machine that is three times oversubscribed its time.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq

from lodestar_live.live.session import run_session
from lodestar_live.microscope import MicroscopeError, open_microscope
from lodestar_live.settings import MicroscopeSettings
from tests.microscope.conftest import centroids, settings_on
from tests.microscope.stand_in import Running

pytestmark = pytest.mark.system
PATIENCE_S = 15.0
ROOT = Path(__file__).resolve().parents[2]


def end_of_run(
    running, folder, *, act, sequence=False, after=10, stop=None
) -> tuple[str, float]:
    """Run, do something to Micro-Manager after some frames; return the end's words.

    And the seconds from what was done to the end of the run.
    """
    settings = settings_on(
        folder, running.port, acquisition={"sequence": sequence, "exposure_ms": 10.0}
    )
    done_s: list[float] = []

    def watch(update) -> None:
        if update.frame.index >= after and not done_s:
            done_s.append(time.perf_counter())
            threading.Thread(target=act, daemon=True).start()

    stop = stop or threading.Event()
    timer = threading.Timer(PATIENCE_S, stop.set)
    timer.start()
    microscope = open_microscope(MicroscopeSettings(port=running.port))
    try:
        with pytest.raises(MicroscopeError) as caught:
            run_session(
                settings, microscope, detect=centroids, on_update=watch, stop=stop
            )
    finally:
        timer.cancel()
        microscope.close()
    return str(caught.value), time.perf_counter() - done_s[0]


SILENCES = {
    "its process dies": (lambda mm: mm.kill(), "is gone|ended or crashed"),
    "the user aborts": (lambda mm: mm.do("abort"), "aborted in Micro-Manager"),
    "the camera is unset": (
        lambda mm: mm.core("setCameraDevice", ""),
        "no camera is set",
    ),
    "it stalls": (lambda mm: mm.pause(), "does not answer"),
}


@pytest.mark.parametrize("sequence", [False, True], ids=["snaps", "sequence"])
@pytest.mark.parametrize("name", SILENCES)
def test_each_ends_with_its_first_cause(
    micro_manager, tmp_path, name, sequence
) -> None:
    if sequence and name == "the camera is unset":
        pytest.skip("MMCore refuses that during a sequence")
    act, words = SILENCES[name]
    try:
        said, seconds = end_of_run(
            micro_manager, tmp_path, act=lambda: act(micro_manager), sequence=sequence
        )
    finally:
        micro_manager.resume()
    assert re.search(words, said), said
    assert f"port {micro_manager.port}" in said
    assert len(said) < 300 and "\n" not in said
    assert seconds < PATIENCE_S


def test_a_stop_that_meets_a_stall_names_it(micro_manager, tmp_path) -> None:
    stop = threading.Event()

    def act() -> None:
        micro_manager.pause()
        stop.set()

    try:
        said, seconds = end_of_run(micro_manager, tmp_path, act=act, stop=stop)
    finally:
        micro_manager.resume()
    assert "does not answer" in said
    assert f"port {micro_manager.port}" in said
    assert seconds < PATIENCE_S


def test_live_turned_on_in_between_is_named(micro_manager, tmp_path) -> None:
    said, _ = end_of_run(
        micro_manager, tmp_path, act=lambda: micro_manager.do("live", True)
    )
    assert "Live or another acquisition is on" in said


@pytest.mark.parametrize("sequence", [False, True], ids=["snaps", "sequence"])
def test_live_that_is_on_is_refused_at_the_start(
    micro_manager, tmp_path, sequence
) -> None:
    micro_manager.do("live", True)
    settings = settings_on(
        tmp_path, micro_manager.port, acquisition={"sequence": sequence}
    )
    with open_microscope(settings.microscope) as microscope:
        with pytest.raises(MicroscopeError, match=r'Live .* is on.*source = "watch"'):
            run_session(settings, microscope, detect=centroids)


def test_a_roi_changed_in_the_run_is_told_if_the_engine_hangs(
    micro_manager, tmp_path
) -> None:
    def act() -> None:
        micro_manager.do("lose an image")
        micro_manager.core("setROI", 0, 0, 64, 64)

    said, _ = end_of_run(micro_manager, tmp_path, act=act)
    assert "ROI or binning was changed" in said


def test_a_single_lost_image_is_asked_for_again(micro_manager, tmp_path) -> None:
    """Without a visible cause the acquisition starts anew, and says so."""
    settings = settings_on(
        tmp_path, micro_manager.port, acquisition={"n_frames": 40, "exposure_ms": 10.0}
    )
    asked = []

    def watch(update) -> None:
        if update.frame.index >= 10 and not asked:
            asked.append(micro_manager.do("lose an image"))

    with open_microscope(settings.microscope) as microscope:
        tracker = run_session(settings, microscope, detect=centroids, on_update=watch)
    assert asked
    assert tracker.counts.received == 40


def strangers(kind: str) -> tuple[int, object]:
    """A program that has the port and is no Micro-Manager."""
    if kind == "web server":
        server = socket.create_server(("127.0.0.1", 0))
        return server.getsockname()[1], server
    publisher = zmq.Context.instance().socket(zmq.REP)
    publisher.linger = 0
    return publisher.bind_to_random_port("tcp://127.0.0.1"), publisher


@pytest.mark.parametrize("kind", ["nothing", "web server", "another ZeroMQ program"])
def test_who_has_the_port_is_named_within_three_seconds(kind) -> None:
    port, program = (1, None) if kind == "nothing" else strangers(kind)
    words = {
        "nothing": "nothing answers there",
        "web server": "does not speak ZeroMQ",
        "another ZeroMQ program": "ZeroMQ but is no Micro-Manager",
    }
    begin_s = time.perf_counter()
    with pytest.raises(MicroscopeError, match=words[kind]):
        open_microscope(MicroscopeSettings(port=port))
    assert time.perf_counter() - begin_s < 9.0
    if program is not None:
        program.close()


def test_the_process_ends_with_an_exit_code_when_micro_manager_dies(
    micro_manager, tmp_path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f"[microscope]\nport = {micro_manager.port}\n"
        f'[recording]\nfolder = "{tmp_path}"\n[streams]\nenabled = false\n'
    )
    code = (
        "import sys; sys.argv = ['lodestar-live', 'run', sys.argv[1]]; "
        "from lodestar_live.cli import script; script()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(config)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list(tmp_path.glob("*/run.sqlite")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(1.0)
    micro_manager.kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "is gone" in said.replace("\n", " ")


def test_what_is_not_there_keeps_no_port_open() -> None:
    with Running() as running:
        port = running.port
    with pytest.raises(MicroscopeError, match="nothing answers"):
        open_microscope(MicroscopeSettings(port=port))
