"""The sparse solver finds the optimum that scipy's dense solver finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lodestar_live.linking import assignment
from lodestar_live.linking.assignment import Pairs, assign


@pytest.fixture(scope="module", params=["dense", "sparse"])
def _path(request):
    """Small frames take the dense path; the other must give the same on any."""
    before = assignment.DENSE
    if request.param == "sparse":
        assignment.DENSE = 0
    yield
    assignment.DENSE = before


pytestmark = pytest.mark.usefixtures("_path")


def random_pairs(rng, n, m, density, *, ties):
    mask = rng.random((n, m)) < density
    gain = (
        rng.integers(1, 5, (n, m)).astype(float) if ties else rng.random((n, m)) + 1e-3
    )
    track, detection = np.nonzero(mask)
    return Pairs(track, detection, gain[track, detection]), np.where(mask, gain, 0.0)


def assert_optimal(pairs, dense):
    chosen = assign(pairs, *dense.shape).detection
    matched = np.flatnonzero(chosen >= 0)
    assert len(np.unique(chosen[matched])) == len(matched)
    ours = dense[matched, chosen[matched]]
    assert (ours > 0).all(), "a pair was chosen that is no candidate"
    rows, columns = linear_sum_assignment(dense, maximize=True)
    assert ours.sum() == pytest.approx(dense[rows, columns].sum(), rel=1e-12)


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(0, 12),
    m=st.integers(0, 12),
    density=st.floats(0, 1),
    ties=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_total_gain_equals_the_dense_optimum(n, m, density, ties, seed):
    rng = np.random.default_rng(seed)
    assert_optimal(*random_pairs(rng, n, m, density, ties=ties))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(300, 300), (250, 400), (400, 250)])
def test_one_giant_component_is_optimal(n, m, ties):
    rng = np.random.default_rng(n + m)
    assert_optimal(*random_pairs(rng, n, m, 0.05, ties=ties))


def test_a_pair_left_alone_by_the_last_round_is_chosen():
    """Beside a tangle that no round unties, chains of three pairs lose two in one."""
    rng = np.random.default_rng(7)
    _, tangle = random_pairs(rng, 300, 300, 0.05, ties=False)
    dense = np.zeros((360, 360))
    dense[:300, :300] = tangle
    for k in range(300, 360, 2):
        dense[k, k], dense[k, k + 1], dense[k + 1, k + 1] = 10.0, 1.0, 0.5
    track, detection = np.nonzero(dense)
    assert_optimal(Pairs(track, detection, dense[track, detection]), dense)
