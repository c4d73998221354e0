"""napari, the real one, drawing on a virtual screen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

from lodestar_live.recording import Recorder
from tests.needs import on_screen
from tests.view.live_source import LiveSource

pytestmark = pytest.mark.needs_display

SESSION = Path(__file__).with_name("napari_session.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a session saw: a recorded run of 20 frames, and a live one."""
    folder = tmp_path_factory.mktemp("run")
    with LiveSource(n_tracks=6) as source:
        source.stop_frames()
        recorder = Recorder(folder)
        recorder.open(source.run)
        for index in range(20):
            update = source.update(index)
            recorder.write(update)
        recorder.close()
    tifffile.imwrite(folder / "snapshot.tif", update.frame.pixels)
    # Qt's own "offscreen" platform has no OpenGL, without which napari draws no image
    done = subprocess.run(
        on_screen(sys.executable, str(SESSION), str(folder)),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_reader_opens_a_run_by_folder_and_by_file(seen):
    assert seen["n_vertices"] == 6 * 20
    assert seen["first"][:2] == [1, 0]  # track id, frame
    assert seen["has_snapshot"]


def test_live_layers_show_camera_points_and_tails(seen):
    assert seen["layers"] == ["live: camera", "live: particles", "live: tails"]
    assert seen["n_points"] == seen["n_tails"] == 50
    assert 0 < seen["hz"] <= 10.5  # 8 updates: the first comes at once


def test_camera_lies_under_the_particles(seen):
    # 700 px sent as 350 blocks of 2: the centres of the outermost blocks
    assert seen["image_from_to"] == pytest.approx([0.5, 698.5])
