from __future__ import annotations

import sys

import numpy as np
import pytest

from lodestar_live.bench import _deeplay
from lodestar_live.errors import SettingsError
from tests import bench
from tests.bench import deeplay


def test_without_deeplays_interpreter_the_bench_says_what_it_needs(monkeypatch) -> None:
    monkeypatch.delenv(_deeplay.VARIABLE, raising=False)
    with pytest.raises(SettingsError, match="LODESTAR_DEEPLAY is not set"):
        bench.run("deeplay", quick=True)


def test_an_interpreter_without_deeplay_is_named(monkeypatch) -> None:
    monkeypatch.setenv(_deeplay.VARIABLE, sys.executable)
    with _deeplay.open_deeplay() as peer, pytest.raises(SettingsError, match="deeplay"):
        peer.ask("train", np.zeros((8, 8)), steps=1, seed=0)


def test_the_field_holds_its_particles_where_it_says() -> None:
    frame, places = deeplay._field(0)
    assert frame.shape == (512, 512)
    for y, x in places:
        top, left = round(y) - 14, round(x) - 14
        patch = frame[top : top + 29, left : left + 29]
        signal = np.clip(patch - np.median(frame), 0, None)
        grid = np.indices(patch.shape).reshape(2, -1)
        centroid = (grid * signal.ravel()).sum(axis=1) / signal.sum() + (top, left)
        assert np.hypot(*(centroid - (y, x))) < 1.0
