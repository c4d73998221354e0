"""The scale of polarizabilities from spheres that are known."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lodestar_live.analysis import calibrate_population
from lodestar_live.cli import app
from lodestar_live.errors import InputError
from lodestar_live.holography import clausius_mossotti_um3
from tests.analysis.test_colocalise import record

KNOWN = {"n_particle": 1.58, "n_medium": 1.33}


def population(rng, radius_um: float, n: int, *, scale: float) -> np.ndarray:
    """Return what an instrument reports whose scale is off; radii vary by 4 %."""
    radii = rng.normal(radius_um, 0.04 * radius_um, n)
    values = [clausius_mossotti_um3(r, **KNOWN) for r in radii]
    return scale * np.array(values) * rng.normal(1, 0.05, n)


@pytest.mark.parametrize("seed", range(3))
def test_a_scale_from_228_nm_gives_150_nm_its_polarizability(seed: int) -> None:
    rng = np.random.default_rng(seed)
    large = population(rng, 0.228, 80, scale=0.7)
    small = population(rng, 0.150, 80, scale=0.7)
    large[:4] *= 2  # pairs
    found = calibrate_population(large, radius_um=0.228, **KNOWN)
    expected = clausius_mossotti_um3(0.150, **KNOWN)
    assert found.factor * small.mean() == pytest.approx(expected, rel=0.05)
    between = small.min() - 1e-6, small.max() + 1e-6
    both = np.concatenate([large, small])
    again = calibrate_population(both, radius_um=0.150, between_um3=between, **KNOWN)
    assert again.n_tracks == 80
    assert again.factor == pytest.approx(found.factor, rel=0.06)


def test_its_error_is_that_of_many_repetitions() -> None:
    rng = np.random.default_rng(9)
    found = [
        calibrate_population(rng.normal(0.01, 0.001, 50), radius_um=0.2, **KNOWN)
        for _ in range(400)
    ]
    factors = np.array([one.factor for one in found])
    assert np.mean([one.factor_error for one in found]) == pytest.approx(
        factors.std(), rel=0.15
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radius_um": 0.0}, "radius_um"),
        ({"n_medium": float("nan")}, "n_medium"),
        ({"n_medium": 1.58}, "cannot be seen"),
        ({"n_medium": 1.7}, "opposite sign"),
        ({"between_um3": (1.0, 2.0)}, "at least 5"),
    ],
)
def test_what_cannot_be_is_refused(change, words) -> None:
    facts = {"radius_um": 0.2, **KNOWN, **change}
    with pytest.raises(InputError, match=words):
        calibrate_population(np.full(20, 0.01), **facts)


def test_impossible_facts_are_refused_by_the_command(tmp_path: Path) -> None:
    record(tmp_path / "a", {k: np.full((2, 2), 9.0) for k in range(20)})
    arguments = ["calibrate", "--polarizability", str(tmp_path / "a")]
    arguments += ["-o", str(tmp_path / "scale.toml"), "--n-particle", "1.58"]
    for more, words in [
        (["--radius-nm", "228", "--n-medium", "0"], "n_medium"),
        (["--radius-nm", "228", "--between", "one"], "LOW,HIGH"),
        ([], "--radius-nm"),
    ]:
        said = CliRunner().invoke(app, [*arguments, *more])
        assert said.exit_code and words in str(said.exception)
    assert not (tmp_path / "scale.toml").exists()


def test_command_writes_a_line_for_the_settings(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    record(tmp_path / "a", {k: rng.uniform(5, 50, (10, 2)) for k in range(20)})
    out = tmp_path / "scale.toml"
    arguments = ["calibrate", "--polarizability", str(tmp_path / "a")]
    arguments += ["--radius-nm", "228", "--n-particle", "1.58", "-o", str(out)]
    said = CliRunner().invoke(app, [*arguments, "--between", "0.025,0.035", "--json"])
    assert said.exit_code == 0, said.output
    scale = tomllib.loads(out.read_text())["holography"]["polarizability_scale"]
    expected = clausius_mossotti_um3(0.228, **KNOWN) / 0.03
    assert scale == pytest.approx(expected, rel=1e-3)
    assert json.loads(said.output)["polarizability_scale"] == pytest.approx(expected)
