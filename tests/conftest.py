"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lodestar_live.bench._bead_model import train_on_beads
from lodestar_live.data import Pixels, StagePosition
from lodestar_live.simulation.beads import BeadField
from tests import needs

# Read by torch when it is first imported. On two cores that something else uses, too,
# a training whose threads spin takes from 6 to 53 s; one whose threads sleep 7 to 13 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the parts that some tests want, and skip those without."""
    config.pluginmanager.register(needs, "needs")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of recorded microscopy data; a test that takes it needs_recordings."""
    return needs.RECORDINGS


@pytest.fixture(scope="session")
def bead_snapshot() -> Pixels:
    """Give the DemoCamera's frame at the stage's origin, to the last count."""
    return BeadField().render(StagePosition(0.0, 0.0, 0.0), (512, 512))


@pytest.fixture(scope="session")
def bead_model(bead_snapshot: Pixels, tmp_path_factory) -> Path:
    """Give a model really trained, once per session, on one bead of that frame.

    As the quick benches train theirs: by the command, with enough steps for beads.
    """
    return train_on_beads(bead_snapshot, tmp_path_factory.mktemp("model"), quick=True)
