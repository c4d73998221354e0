"""The real MMCore with the real DemoCamera, started once per module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lodestar_live.data import Pixels, StagePosition
from lodestar_live.microscope import Microscope, open_demo
from lodestar_live.simulation.beads import BeadField


@pytest.fixture(scope="module")
def demo_core() -> Iterator[Microscope]:
    """Give a DemoCamera of 512x512 beads, 16 bit, 5 ms."""
    with open_demo(exposure_ms=5.0) as microscope:
        yield microscope


@pytest.fixture
def microscope(demo_core: Microscope) -> Microscope:
    """Give the module's core with its stage at the origin and 5 ms exposure."""
    core = demo_core.core
    core.set_exposure(5.0)
    core.clear_roi()
    core.set_xy_position(0.0, 0.0)
    core.set_position(0.0)
    core.wait_for_system()
    return demo_core


@pytest.fixture(scope="session")
def bead_snapshot() -> Pixels:
    """Give the DemoCamera's frame at the stage's origin, to the last count."""
    return BeadField().render(StagePosition(0.0, 0.0, 0.0), (512, 512))


@pytest.fixture(scope="session")
def bead_model(bead_snapshot: Pixels, tmp_path_factory) -> Path:
    """Give a model really trained, once per session, on one bead of that frame."""
    from lodestar_live import train

    path = tmp_path_factory.mktemp("model") / "beads.onnx"
    train(bead_snapshot, seed=0).export(path)
    return path
