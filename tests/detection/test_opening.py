"""Open sides: maps shrink there, and what is left is the whole frame's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lodestar_live.detection import Detector
from lodestar_live.detection.engines.cpu import OnnxRuntimeCpu, Part
from lodestar_live.detection.frame.prepare import take_in
from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.valid_sides import CLOSED, Opening, can_open
from tests.detection import networks

THIN = networks.with_local_contrast(networks.thin())
MARGIN = THIN.margin_px // THIN.stride
SIDES = [
    Opening(top=True),
    Opening(left=True, right=True),
    Opening(top=True, left=True, bottom=True, right=True),
    Opening(top=True, bottom=True, rim_cells=5),
]


@pytest.mark.parametrize("opening", SIDES, ids=str)
def test_what_is_left_of_the_maps_is_what_it_was(opening: Opening) -> None:
    engine = OnnxRuntimeCpu(build_model(THIN), n_threads=1)
    image = np.random.default_rng(0).normal(100, 20, (1, 1, 128, 144))
    level = np.full((1, 1, 1, 1), 10, np.float32)
    feeds = {"pixels": image.astype(np.float32), "background": level, "scale": level}
    names = ["features", "contrast"]
    ((whole, contrast), (some, its_contrast)) = engine.run_parts(
        names, [Part(feeds), Part(feeds, opening)]
    )
    cut = [side * (MARGIN + opening.rim_cells) for side in opening[:4]]
    top, left, bottom, right = cut
    kept = np.s_[..., top : whole.shape[2] - bottom, left : whole.shape[3] - right]
    np.testing.assert_array_equal(its_contrast, contrast[kept])
    # Beyond the rim the network still saw pixels that `some` was not given.
    rim = opening.rim_cells * MARGIN
    inner = np.s_[..., rim : some.shape[2] - rim or None, :]
    np.testing.assert_allclose(some[inner], whole[kept][inner], atol=1e-5)


def test_only_convolutions_on_the_grid_of_the_output_can_be_opened() -> None:
    for weights, expected in [
        (networks.thin(), True),
        (THIN, True),
        (networks.thin(n_inputs=2), True),
        (networks.paper_like(), False),
    ]:
        margin = weights.margin_px / weights.stride
        assert can_open(build_model(weights), margin) == expected


def test_nothing_is_open_by_default() -> None:
    assert not any(CLOSED)


@pytest.mark.parametrize("shape", [(200, 180), (301, 223), (97, 401)], ids=str)
@pytest.mark.parametrize("name", ["thin", "spots"])
def test_strips_side_by_side_find_what_the_whole_frame_finds(name, shape) -> None:
    weights = {"thin": THIN, "spots": networks.spot_finder()}[name]
    model = networks.model(weights, threshold=-3.0)
    rng = np.random.default_rng(2)
    yx = rng.uniform(0, shape, (20, 2))
    frame = rng.poisson(networks.spots(yx, shape)).astype(np.uint16)
    one, many = (Detector(model, n_threads=n, engine="cpu") for n in (1, 3))
    whole, strips = one(frame), many(frame)
    assert len(whole) == len(strips) > 0
    for column in ("y_px", "x_px", "score", "intensity"):
        np.testing.assert_allclose(
            np.sort(strips.rows[column]), np.sort(whole.rows[column]), atol=1e-4
        )


@pytest.mark.parametrize(
    "shape", [(256, 320), (301, 223), (70, 83), (40, 200)], ids=str
)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_tiles_at_the_edge_and_inside_equal_the_full_pass(shape, n_threads) -> None:
    detector = Detector(networks.model(THIN), n_threads=n_threads, engine="cpu")
    rng = np.random.default_rng(4)
    intake = take_in(rng.poisson(200, shape).astype(np.uint16))
    edges = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0.5], [0.5, 0]])
    positions = np.vstack(
        [rng.uniform(0, shape, (30, 2)), edges * (shape - np.ones(2))]
    )
    tiles = detector.layout.around(positions, 8.0, shape)
    whole = detector.passes.everywhere(intake, -3.0)
    found = detector.passes.around(intake, tiles, -3.0)
    owned = np.array([(*tile.rows.owned, *tile.columns.owned) for tile in tiles])
    top, bottom, left, right = owned.T[..., None]
    row, column = whole[:, 1], whole[:, 2]
    is_owned = (top <= row) & (row < bottom) & (left <= column) & (column < right)
    expected = {tuple(one[1:3]): one for one in whole[is_owned.any(axis=0)]}
    assert {tuple(one[1:3]) for one in found} == set(expected) != set()
    for one in found:
        np.testing.assert_allclose(one[3:], expected[tuple(one[1:3])][3:], atol=1e-4)


def test_tiles_at_the_edge_are_open_on_their_inner_sides() -> None:
    layout = Detector(networks.model(THIN), n_threads=1).layout
    shape = (256, 320)
    corner, inside = (np.array([[y, x]]) for y, x in [(2.0, 2.0), (128.0, 160.0)])
    (at_corner,), (amid,) = (layout.around(at, 8.0, shape) for at in (corner, inside))
    assert at_corner.opening == Opening(bottom=True, right=True)
    assert all(amid.opening[:4])


def test_rare_kinds_of_tiles_run_together() -> None:
    layout = Detector(networks.model(THIN), n_threads=1).layout
    top = [[2.0, x] for x in (100.0, 130.0, 160.0, 190.0)]
    corners = [[2.0, 2.0], [2.0, 318.0]]
    tiles = layout.around(np.array(top + corners), 8.0, (256, 320))
    assert Counter(tile.opening for tile in tiles) == {
        Opening(left=True, bottom=True, right=True): 4,
        Opening(bottom=True): 2,
    }
