"""Tiles own every cell once and find what the whole frame finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.detection import Detector
from lodestar_live.detection.tiles import Layout
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
    for place, reach, owned in zip(places, reach_px, tiles.owned, strict=True):
        first, last = np.floor([place - reach, place + reach]) // layout.stride
        assert (owned[:, 0] <= first).all() and (owned[:, 1] > last).all()
    small, large = np.diff(tiles.pixels)[:, 0, 0]
    assert small < large


def test_a_quantile_is_that_of_the_whole_frame() -> None:
    frame = crowded((256, 320))
    model = networks.model(NETWORKS["thin"])
    one, many = (Detector(model, quantile=0.97, n_threads=1) for _ in range(2))
    many.passes.max_tile_px = 64 * 64
    assert len(one(frame)) == pytest.approx(len(many(frame)), abs=1)


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
    for owned, pixels in zip(tiles.owned, tiles.pixels, strict=True):
        (top, bottom), (left, right) = owned
        counts[top:bottom, left:right] += 1
        (y0, y1), (x0, x1) = pixels
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
    for owned, pixels in zip(tiles.owned, tiles.pixels, strict=True):
        (top, bottom), (left, right) = owned
        counts[top:bottom, left:right] += 1
        (y0, y1), (x0, x1) = pixels
        assert y0 % layout.grid_px == x0 % layout.grid_px == 0
        assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
    assert (counts == 1).all()


_CARDS: dict[str, dict] = {}


def detector_card(name: str) -> dict:
    if name not in _CARDS:
        _CARDS[name] = detector(name).card
    return _CARDS[name]
