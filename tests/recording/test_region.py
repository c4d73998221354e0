"""A window that follows one particle."""

from __future__ import annotations

import json

import numpy as np
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.recording.region import FILE_NAME, RegionRecorder, roi_around
from tests.streams.samples import RUN, make_update


@given(y=st.floats(-50, 150), x=st.floats(-50, 150), size=st.integers(1, 120))
def test_a_window_lies_in_the_frame_and_contains_the_target(y, x, size) -> None:
    pixels = np.arange(100 * 80).reshape(100, 80)
    window, (y0, x0) = roi_around(pixels, (y, x), size)
    assert window.shape == (min(size, 100), min(size, 80))
    assert window[0, 0] == pixels[y0, x0]
    if size >= 3 and 0 <= y <= 99 and 0 <= x <= 79:
        assert y0 - 0.5 <= y <= y0 + window.shape[0] - 0.5
        assert x0 - 0.5 <= x <= x0 + window.shape[1] - 0.5


def pages(folder) -> tuple[list[np.ndarray], list[dict]]:
    with tifffile.TiffFile(folder / FILE_NAME) as file:
        windows = [page.asarray() for page in file.pages]
        return windows, [json.loads(page.description) for page in file.pages]


def test_every_frame_leaves_the_window_around_the_followed_track(tmp_path) -> None:
    updates = [make_update(index) for index in range(4)]
    rows = updates[0].tracks.rows
    followed = int(rows["track_id"][-1])
    recorder = RegionRecorder(tmp_path, 8, lambda: followed)
    recorder.open(RUN)
    for update in updates:
        recorder.write(update)
    windows, about = pages(tmp_path)  # complete while it is written
    recorder.close()
    recorder.close()
    assert [a["frame"] for a in about] == [0, 1, 2, 3]
    for update, window, a in zip(updates, windows, about, strict=True):
        assert a["track_id"] == followed
        y0, x0 = a["y0_px"], a["x0_px"]
        pixels = update.frame.pixels
        expected = pixels[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]]
        np.testing.assert_array_equal(window, expected)


def test_without_a_target_the_oldest_track_is_followed(tmp_path) -> None:
    update = make_update(0)
    recorder = RegionRecorder(tmp_path, 8, lambda: None)
    recorder.open(RUN)
    recorder.write(update)
    recorder.close()
    rows = update.tracks.rows
    oldest = int(rows["track_id"][rows["age_frames"].argmax()])
    assert pages(tmp_path)[1][0]["track_id"] == oldest
