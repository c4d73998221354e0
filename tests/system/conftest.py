"""The real MMCore with the real DemoCamera, started once per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lodestar_live.microscope import Microscope, open_demo


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
