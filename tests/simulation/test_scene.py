from __future__ import annotations

import numpy as np

from lodestar_live.data import StagePosition
from lodestar_live.geometry import PixelToStage
from lodestar_live.simulation.beads import BeadField, glibc_rand
from lodestar_live.simulation.scene import Swimmers, SwimmerScene

STAGE = StagePosition(0.0, 0.0, 0.0)


class Clock:
    t_s = 0.0

    def __call__(self) -> float:
        return self.t_s


def make_scene(**changes):
    clock = Clock()
    mapping = PixelToStage.from_pixel_size(1.0)
    look = Swimmers(**changes)
    scene = SwimmerScene(
        (256, 320), pixel_to_stage=mapping, seed=3, clock=clock, swimmers=look
    )
    return scene, clock


def test_glibc_rand_gives_the_published_first_value() -> None:
    # srand(1); rand() == 1804289383 on every glibc.
    assert glibc_rand(1, 1)[0] == 1804289383


def test_the_truth_is_where_the_light_is() -> None:
    scene, _ = make_scene(n_particles=1, world_um=400.0)
    scene.render(STAGE)
    world = scene.truth[-1].positions_px[0]
    stage = StagePosition(0.0, world[0] - 127.5 + 0.3, world[1] - 159.5 - 0.2)
    image = scene.render(stage).astype(float) - 120.0 * scene._light
    y, x = (np.arange(n) for n in image.shape)
    window = np.abs(y[:, None] - 127.5 + 0.3) + np.abs(x - 159.5 - 0.2) < 20
    weight = np.clip(np.where(window, image, 0), 0, None)
    centroid = [(weight.sum(1) @ y), (weight.sum(0) @ x)] / weight.sum()
    # Shot noise moves a thresholdless centroid of 78 px of 720 counts by < 0.1 px.
    assert np.allclose(centroid, scene.truth[-1].positions_px[0], atol=0.1)


def test_moving_the_stage_by_x_moves_the_image_by_minus_x() -> None:
    scene, _ = make_scene(n_particles=20, world_um=400.0)
    scene.render(STAGE)
    scene.render(StagePosition(0.0, 0.0, 7.0))
    before, after = scene.truth
    common, i, j = np.intersect1d(
        before.particle_ids, after.particle_ids, return_indices=True
    )
    assert len(common)
    moved = after.positions_px[j] - before.positions_px[i]
    assert np.allclose(moved, [0.0, -7.0])


def test_particles_do_not_overlap() -> None:
    scene, clock = make_scene(n_particles=60, world_um=300.0)
    for _ in range(30):
        clock.t_s += 0.03
        scene.render(STAGE)
    position = scene._position_um
    gap = position[:, None] - position[None]
    gap -= 300.0 * np.round(gap / 300.0)
    distance = np.hypot(gap[..., 0], gap[..., 1]) + np.eye(60) * 1e9
    assert distance.min() > 2 * scene.swimmers.radius_um


def test_a_stalled_machine_does_not_make_particles_jump() -> None:
    scene, clock = make_scene(n_particles=20)
    scene.render(STAGE)
    before = scene._position_um.copy()
    clock.t_s += 10.0
    scene.render(STAGE)
    side = scene.swimmers.world_um
    step = scene._position_um - before
    step -= side * np.round(step / side)
    # 0.1 s at 50 um/s plus diffusion (rms 0.6 um) and collisions
    assert np.abs(step).max() < 12.0


def test_the_same_seed_draws_the_same_frames() -> None:
    first, _ = make_scene()
    second, _ = make_scene()
    assert np.array_equal(first.render(STAGE), second.render(STAGE))


def test_bead_tiles_join_without_seams() -> None:
    field = BeadField()
    here = field.positions_px(StagePosition(0, 0, 0), (512, 512))
    there = field.positions_px(StagePosition(0, 0, 100), (512, 512))
    inside = np.all((here > 0) & (here < 511), axis=1) & (here[:, 1] > 100)
    for bead in here[inside]:
        assert np.min(np.abs(there - bead + [0, 100]).sum(axis=1)) < 1e-9
