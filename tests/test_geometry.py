from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.geometry import PixelToStage

coordinate = st.floats(-500, 500)


@given(y=coordinate, x=coordinate, stage_y=coordinate, stage_x=coordinate)
def test_pixel_to_sample_and_back_is_the_identity(y, x, stage_y, stage_x) -> None:
    mapping = PixelToStage(np.array([[0.1, 0.02], [-0.03, -0.11]]))
    sample = mapping.sample_um([y, x], [stage_y, stage_x], (65, 81))
    back = mapping.pixel_px(sample, [stage_y, stage_x], (65, 81))
    assert np.allclose(back, [y, x], atol=1e-6)


def test_the_centre_pixel_lies_at_the_stage_position() -> None:
    mapping = PixelToStage.from_pixel_size(0.5)
    assert np.allclose(mapping.sample_um([32, 40], [7.0, -3.0], (65, 81)), [7.0, -3.0])
