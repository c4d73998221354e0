"""What the start page's steps are made of: candidates, commands, a run that fails."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import pytest

from lodestar_live.data import Pixels
from lodestar_live.settings import parse_settings
from lodestar_live.start.candidates import Candidates
from lodestar_live.start.command import Command
from lodestar_live.start.run import RunningRun


def test_what_a_threshold_finds_is_among_what_the_slider_filters(
    bead_model: Path, bead_snapshot: Pixels
) -> None:
    candidates = Candidates.of(bead_model, bead_snapshot)
    everything = candidates.all.positions_px
    facts = candidates.facts()
    before = len(everything) + 1
    for threshold in (None, *np.linspace(facts["lowest"], facts["highest"], 4)):
        found = candidates.found(threshold)
        least = facts["own_threshold"] if threshold is None else threshold
        assert (found.rows["score"] >= least).all()
        for position in found.positions_px:
            assert np.abs(everything - position).max(axis=1).min() < 0.01
        filtered = int((candidates.all.rows["score"] >= least).sum())
        assert abs(filtered - len(found)) <= max(2, 0.05 * len(found))
        if threshold is not None:
            assert len(found) <= before
            before = len(found)


def test_a_run_that_cannot_start_says_why_and_leaves_no_folder(tmp_path: Path) -> None:
    settings = parse_settings(
        {
            "microscope": {"backend": "demo"},
            "detection": {"model": "nowhere.onnx"},
            "recording": {"folder": str(tmp_path / "runs")},
        }
    )
    path = tmp_path / "settings.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    ended: queue.Queue[str | None] = queue.Queue()
    run = RunningRun(
        path, on_ready=lambda: None, on_end=ended.put, on_news=lambda: None
    )
    why = ended.get(timeout=60)
    assert why is not None
    assert "nowhere.onnx" in why
    assert run.folder is None
    assert not list(tmp_path.glob("runs/*"))
    run.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "no/such/run", "--to", "csv"], "no run file"),
        (["plot", "exp[/beads]"], r"exp[/beads]"),
    ],
)
def test_a_command_that_fails_says_why(words: list[str], said: str) -> None:
    ended: queue.Queue[str | None] = queue.Queue()
    command = Command(words, on_end=ended.put)
    assert said in str(ended.get(timeout=60))
    command.close()
    assert not command.is_alive
