"""The real core: truth of the bead field, substitution, acquiring and stopping."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lodestar_live.data import StagePosition
from lodestar_live.microscope import (
    CoreStage,
    acquire,
    read_stage,
    substitute_pixels,
)
from lodestar_live.settings import AcquisitionSettings
from lodestar_live.simulation.beads import BeadField

pytestmark = pytest.mark.system


class Collect:
    """An image processor that keeps what it sees."""

    def __init__(self, keep: bool = True) -> None:
        self.images: list[np.ndarray] = []
        self.metadata: list[dict] = []
        self.keep = keep

    def __call__(self, image, metadata):
        self.images.append(image.copy())
        self.metadata.append(dict(metadata))
        return (image, metadata) if self.keep else None

    @property
    def count(self) -> int:
        return len(self.images)


def run(microscope, processor, stop=None, **changes) -> None:
    settings = AcquisitionSettings(**{"n_frames": 10, **changes})
    acquire(
        microscope,
        processor,
        settings,
        stop=stop or threading.Event(),
    )


@pytest.mark.parametrize(
    ("stage_xy", "z_um"),
    [((0, 0), 0), ((123.45, -987.6), 0), ((3000, -3000), 2), ((5, 5), -6)],
)
def test_bead_field_is_the_cameras_to_the_last_count(
    microscope, stage_xy, z_um
) -> None:
    core = microscope.core
    core.set_xy_position(*stage_xy)
    core.set_position(z_um)
    core.wait_for_system()
    image = microscope.snap()
    assert np.array_equal(image, BeadField().render(read_stage(core), image.shape))


@pytest.mark.parametrize("sequence", [False, True])
def test_acquire_gives_every_frame_in_order(microscope, sequence) -> None:
    seen = Collect()
    run(microscope, seen, n_frames=45, sequence=sequence)
    assert [m["Axes"]["time"] for m in seen.metadata] == list(range(45))


@pytest.mark.parametrize("sequence", [False, True])
def test_stop_ends_an_endless_acquisition_within_what_is_in_flight(
    microscope, sequence
) -> None:
    stop = threading.Event()

    class StopAtTen(Collect):
        def __call__(self, image, metadata):
            if self.count == 9:
                stop.set()
            return super().__call__(image, metadata)

    seen = StopAtTen(keep=False)
    run(microscope, seen, stop, n_frames=None, sequence=sequence)
    assert seen.count <= 10 + (40 if sequence else 2)


def test_substituted_pixels_pass_through_the_real_engine(microscope) -> None:
    drawn = []

    def render(stage: StagePosition) -> np.ndarray:
        drawn.append(stage)
        return np.full((40, 50), len(drawn), np.uint16)

    restore = substitute_pixels(microscope, render)
    seen = Collect()
    run(microscope, seen)
    restore()
    assert [int(image[0, 0]) for image in seen.images] == list(range(1, 11))
    assert all(image.shape == (40, 50) for image in seen.images)
    assert microscope.snap().shape == (512, 512)


def test_moving_the_stage_moves_the_beads_the_other_way(microscope) -> None:
    stage = CoreStage(microscope)
    before = microscope.snap()
    stage.move_to_um(y_um=-4.005, x_um=7.005)  # whole steps of 0.015 um
    microscope.core.wait_for_system()
    assert stage.position_um() == pytest.approx((0.0, -4.005, 7.005))
    assert not stage.is_busy()
    expected = BeadField().render(stage.position_um(), before.shape)
    assert np.array_equal(microscope.snap(), expected)
    assert not np.array_equal(before, expected)
