"""Rows of the graph that name one particle, or none."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.data import DETECTION_DTYPE
from lodestar_live.detection import Detector
from lodestar_live.detection.frame.prepare import take_in
from lodestar_live.detection.model.nodes import COLUMNS
from lodestar_live.detection.run import postprocess as rows
from lodestar_live.model_card import ModelCard, SigmaFactors
from tests.detection import networks

MERGE_PX = 2.0
SIGMA = SigmaFactors(floor_px=0.02, spread=0.1, noise_px=0.5, faint_px=0.3)


@cache
def spot_card() -> ModelCard:
    return Detector(networks.model(networks.spot_finder())).card


def found(*, y_px, consistency_px=0.1, contrast=10.0) -> rows.Found:
    """Rows along y, best first."""
    table = np.zeros((len(y_px), len(COLUMNS)))
    table[:, COLUMNS.index("y_px")] = y_px
    table[:, COLUMNS.index("consistency_px")] = consistency_px
    table[:, COLUMNS.index("contrast")] = contrast
    table[:, COLUMNS.index("score")] = -np.arange(len(y_px))
    return table


def places(kept: rows.Found) -> list[float]:
    return kept[:, COLUMNS.index("y_px")].tolist()


def test_maxima_of_coinciding_places_are_one_particle() -> None:
    assert places(rows.merge(found(y_px=[10, 11, 13]), MERGE_PX)) == [10, 13]


def test_votes_that_disagree_name_no_second_particle_beside_a_better_one() -> None:
    # Votes half for each of two places 5 px apart scatter by 2.5.
    apart = rows.merge(found(y_px=[10, 15], consistency_px=[2.5, 2.5]), MERGE_PX)
    assert places(apart) == [10, 15]
    mixed = rows.merge(found(y_px=[10, 15], consistency_px=[0.1, 3.5]), MERGE_PX)
    assert places(mixed) == [10]
    # Alone, or when the better one is itself merged, it stays what it is.
    alone = rows.merge(found(y_px=[10], consistency_px=[9.0]), MERGE_PX)
    assert places(alone) == [10]
    chain = found(y_px=[10, 11, 16], consistency_px=[0.1, 0.1, 3.3])
    assert places(rows.merge(chain, MERGE_PX)) == [10, 16]


def test_halos_that_outnumber_particles_do_not_pass_for_usual() -> None:
    frame = found(y_px=20.0 * np.arange(6), contrast=[100.0, 110, 5, 4, -6, 5])
    usual = rows.usual_contrast(frame)
    assert places(rows.visible(frame, 0.1 * usual)) == [0, 20]


def test_a_frame_without_rows_has_no_contrast() -> None:
    assert rows.usual_contrast(found(y_px=[])) == 0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 6), calibrated=st.booleans())
def test_a_handful_of_rows_becomes_what_many_rows_become(seed, n, calibrated) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 1, (n, len(COLUMNS)))
    table[:, 3:5] = rng.uniform(-2, 66, (n, 2))
    table[:, 7] = rng.gamma(1.0, 1.0, n)
    table[:, 8] = rng.normal(0, 30, n)
    table[rng.random(n) < 0.1, 2] = np.nan
    card = spot_card().model_copy(update={"sigma": SIGMA if calibrated else None})
    intake = take_in(rng.poisson(20, (64, 64)).astype(np.uint16))
    limits = (
        np.sort(rng.gamma(2.0, 5.0, 5)),
        rng.gamma(1.0, 1.0, 5),
        rng.normal(0, 1, 5),
    )
    likeness = rows.Likeness(*limits)

    def finished() -> np.ndarray:
        kept = rows.merge(rows.inside(table, (64, 64)), MERGE_PX)
        context = rows.Context((64, 64), intake, None, likeness)
        return rows.to_detections(kept, card, context).rows

    few = finished()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_HANDFUL", -1)
        patch.setattr(rows, "_FEW", -1)
        many = finished()
    for name in DETECTION_DTYPE.names or ():
        np.testing.assert_allclose(few[name], many[name], rtol=1e-12, err_msg=name)
