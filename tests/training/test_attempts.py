"""Which of several trainings is kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lodestar_live.errors import ModelError
from lodestar_live.training import trainer


def _try(monkeypatch, scatters_px, *, radius_px=10.0, problems=("", "", "")):
    """Train thrice, with votes that scatter so much."""
    reports = iter(
        SimpleNamespace(consistency_px=scatter, problem=problem)
        for scatter, problem in zip(scatters_px, problems, strict=True)
    )
    monkeypatch.setattr(
        trainer, "_train_once", lambda *_: SimpleNamespace(report=next(reports))
    )
    plan = SimpleNamespace(particle=SimpleNamespace(radius_px=radius_px))
    crops = SimpleNamespace(names=lambda: ["the crop"], size_px=40)
    trained, n_attempts = trainer._try([plan] * 3, 0, crops, None)
    return trained.report.consistency_px, n_attempts


def test_the_first_good_one_is_kept(monkeypatch) -> None:
    assert _try(monkeypatch, (8.0, 0.7, 0.5)) == (0.7, 2)


def test_of_three_that_scatter_the_best_is_kept(monkeypatch) -> None:
    assert _try(monkeypatch, (5.2, 3.4, 9.7)) == (3.4, 3)


def test_one_that_failed_is_not_kept(monkeypatch) -> None:
    kept = _try(monkeypatch, (1.0, 5.0, 8.0), problems=("no peak", "", ""))
    assert kept == (5.0, 3)


def test_parts_of_a_large_particle_may_vote_apart(monkeypatch) -> None:
    assert _try(monkeypatch, (5.2, 3.4, 9.7), radius_px=28.0) == (5.2, 1)


def test_three_that_failed_are_told(monkeypatch) -> None:
    with pytest.raises(ModelError, match="no peak, after 3 attempts"):
        _try(monkeypatch, (1.0, 1.0, 1.0), problems=("no peak",) * 3)
