from __future__ import annotations

import math

import pytest

from lodestar_live.microscope.metadata import read_facts

# Metadata as each backend sends it for the same image: 512x512, 16 bit, ROI at
# (x=64, y=32), 20 ms, 0.5 um/px (keys and types as seen in pycro-manager 1.0.2).
PYTHON_SNAP = {
    "Camera": "Camera", "Height": 512, "Width": 512, "PixelType": "GRAY16",
    "CameraChannelIndex": 0, "PixelSize_um": 0.5, "ElapsedTime-ms": 0.0,
    "Time": "2026-11-22 19:08:21 -", "Axes": {"time": 3}, "Exposure": 20.0,
    "ROI-X-start": 64, "ROI-Y-start": 32,
}  # fmt: skip
PYTHON_SEQUENCE = {
    "Binning": "1", "Camera": "Camera", "ElapsedTime-ms": 0.0, "Height": "512",
    "ImageNumber": "3", "PixelType": "GRAY16", "ROI-X-start": "64",
    "ROI-Y-start": "32", "TimeReceivedByCore": "2026-11-22 19:08:21.167972",
    "Width": "512", "PixelSize_um": 0.5, "Axes": {"time": 3}, "Exposure": 20.0,
}  # fmt: skip
JAVA_SNAP = {
    "Core-Camera": "Camera", "Height": 512, "Width": 512, "PixelType": "GRAY16",
    "BitDepth": 16, "ROI": "64-32-512-512", "Binning": "1", "PixelSize_um": 0.5,
    "PixelSizeUm": 0.5, "ElapsedTime-ms": 16, "Axes": {"time": 3}, "Exposure": 20,
}  # fmt: skip
JAVA_SEQUENCE = {
    **JAVA_SNAP, "Camera": "Camera", "ROI-X-start": "64", "ROI-Y-start": "32",
    "ImageNumber": "3",
    "TimeReceivedByCore": "2026-11-22 19:08:21.167972",
}  # fmt: skip


@pytest.mark.parametrize(
    "metadata",
    [PYTHON_SNAP, PYTHON_SEQUENCE, JAVA_SNAP, JAVA_SEQUENCE],
    ids=["python-snap", "python-sequence", "java-snap", "java-sequence"],
)
def test_every_backend_gives_the_same_record(metadata) -> None:
    facts = read_facts(metadata)
    assert facts.pixel_size_um == 0.5
    assert facts.exposure_ms == 20.0
    assert facts.bit_depth == 16
    assert facts.origin_px == (32, 64)
    assert facts.binning == 1
    assert facts.camera == "Camera"
    assert facts.axes == {"time": 3}
    assert facts.planned_axes == ""


def test_only_sequences_carry_the_camera_time() -> None:
    assert read_facts(PYTHON_SNAP).received_wall_s is None
    assert read_facts(PYTHON_SEQUENCE).received_wall_s == pytest.approx(
        read_facts(JAVA_SEQUENCE).received_wall_s
    )


def test_what_nobody_reports_is_unknown_and_nothing_raises() -> None:
    facts = read_facts(
        {"PixelType": None, "PixelSize_um": 0.0, "ROI": "a-b", "Axes": 4}
    )
    assert math.isnan(facts.pixel_size_um)
    assert math.isnan(facts.exposure_ms)
    assert facts.bit_depth is None
    assert facts.origin_px == (0, 0)
    assert facts.axes == {}


@pytest.mark.parametrize("axis", ["X", "Y", "Z"])
def test_an_event_with_a_position_is_noticed(axis) -> None:
    assert read_facts({f"{axis}Position_um_Intended": 1.0}).planned_axes == axis
