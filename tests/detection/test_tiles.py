"""Tiles own every cell once and find what the whole frame finds."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.detection import Detector
from lodestar_live.detection.frame.prepare import take_in
from lodestar_live.detection.frame.tiles import Layout, share_out
from tests.detection import networks

NETWORKS = {
    "thin": networks.thin(),
    "paper, local contrast": networks.with_local_contrast(networks.paper_like()),
    "spots": networks.spot_finder(),
}


def detector(name: str) -> Detector:
    return Detector(networks.model(NETWORKS[name], threshold=-3.0), n_threads=1)


def crowded(shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(3)
    yx = rng.uniform(0, shape, (30, 2))
    return rng.poisson(networks.spots(yx, shape)).astype(np.uint16)


@pytest.mark.parametrize("shape", [(256, 320), (301, 223)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_detections_do_not_depend_on_the_tiling(name, shape) -> None:
    frame = crowded(shape)
    one, many = detector(name), detector(name)
    many.passes.max_tile_px = 64 * 64
    whole, tiled = one(frame), many(frame)
    assert len(whole) == len(tiled) > 0
    for column in ("y_px", "x_px", "score"):
        # Not bit-exact: convolution kernels sum in another order at other widths.
        np.testing.assert_allclose(
            np.sort(tiled.rows[column]), np.sort(whole.rows[column]), atol=1e-4
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_detections_near_a_position_equal_those_of_the_full_pass(name) -> None:
    frame = crowded((256, 320))
    found = detector(name)
    whole = found(frame).positions_px
    near = found.near(frame, whole[:5] + 0.7).positions_px
    gap = np.abs(whole[:5, None] - near[None]).max(axis=2).min(axis=1)
    assert gap.max() < 1e-4


def test_every_position_has_a_tile_of_its_own_reach() -> None:
    layout = Layout.of(detector_card("thin"))
    places, reach_px = np.array([[100.0, 120.0], [200, 210]]), np.array([4.0, 20.0])
    tiles = layout.around(places, reach_px, (256, 320))
    for place, reach, tile in zip(places, reach_px, tiles, strict=True):
        owned = np.array([tile.rows.owned, tile.columns.owned])
        first, last = np.floor([place - reach, place + reach]) // layout.stride
        assert (owned[:, 0] <= first).all() and (owned[:, 1] > last).all()
    small, large = tiles
    assert small.shape < large.shape


@pytest.mark.parametrize("n_parallel", [1, 2, 3])
def test_threads_have_as_many_tiles_each(n_parallel) -> None:
    layout = Layout.of(detector_card("thin"), can_open=True)
    inside = np.random.default_rng(0).uniform(60, 400, (24, 2))
    edge = [[2.0, x] for x in (100.0, 130.0, 160.0, 190.0)]
    tiles = layout.around(np.vstack([edge, inside]), 4.0, (512, 512))
    shares = share_out(tiles, n_parallel, 10**6)
    assert sorted(chain.from_iterable(shares)) == sorted(tiles)
    assert all(len({tile.opening for tile in share}) == 1 for share in shares)
    assert len(shares) <= n_parallel + 1
    loads = [0] * n_parallel
    for share in shares:  # each takes the next when it is done
        loads[loads.index(min(loads))] += len(share)
    assert max(loads) - min(loads) <= 4
    (few,) = share_out(tiles[4:9], n_parallel, 10**6)
    assert len(few) == 5
    memory_px = 3 * math.prod(tiles[0].shape)
    assert max(map(len, share_out(tiles, n_parallel, memory_px))) == 3


def test_a_quantile_is_that_of_the_whole_frame() -> None:
    frame = crowded((256, 320))
    model = networks.model(NETWORKS["thin"])
    one, many = (Detector(model, quantile=0.97, n_threads=1) for _ in range(2))
    many.passes.max_tile_px = 64 * 64
    assert len(one(frame)) == pytest.approx(len(many(frame)), abs=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_do_not_depend_on_the_tiling(name) -> None:
    frame = take_in(crowded((250, 317)))
    one, many = detector(name).passes, detector(name).passes
    many.max_tile_px = 64 * 64
    np.testing.assert_allclose(many.scores(frame), one.scores(frame), atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.integers(64, 300_000),
    st.sampled_from(list(NETWORKS)),
)
def test_every_cell_has_one_owner(height, width, max_px, name) -> None:
    layout = Layout.of(detector_card(name))
    counts = np.zeros(layout.map_shape((height, width)), int)
    tiles = layout.whole((height, width), max_px)
    for rows, columns, _ in tiles:
        counts[slice(*rows.owned), slice(*columns.owned)] += 1
        (y0, y1), (x0, x1) = rows.pixels, columns.pixels
        assert y0 % layout.grid_px == x0 % layout.grid_px == 0
        assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
    assert (counts == 1).all()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.integers(4096, 300_000),
    st.integers(1, 8),
    st.sampled_from(["thin", "spots"]),
)
def test_every_cell_has_one_part(height, width, max_px, n_parallel, name) -> None:
    layout = Layout.of(detector_card(name), can_open=True)
    counts = np.zeros(layout.map_shape((height, width)), int)
    tiles = layout.parts((height, width), max_px, n_parallel)
    for rows, columns, _ in tiles:
        counts[slice(*rows.owned), slice(*columns.owned)] += 1
        (y0, y1), (x0, x1) = rows.pixels, columns.pixels
        assert y0 % layout.grid_px == x0 % layout.grid_px == 0
        assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
    assert (counts == 1).all()


_CARDS: dict[str, dict] = {}


def detector_card(name: str) -> dict:
    if name not in _CARDS:
        _CARDS[name] = detector(name).card
    return _CARDS[name]
