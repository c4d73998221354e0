"""Rows of the graph that name one particle, or none."""

import numpy as np

from lodestar_live.detection.model.nodes import COLUMNS
from lodestar_live.detection.run import postprocess as rows

MERGE_PX = 2.0


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
