"""The drop of spheres: moved by stage and focus drive, empty beside it."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.data import StagePosition
from lodestar_live.holography import Inline, OffAxis, Optics, refocus
from lodestar_live.simulation.hologram_scene import Drop, HologramScene, Species
from lodestar_live.simulation.holograms import InlineCamera, OffAxisCamera

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)
ORIGIN = StagePosition(0.0, 0.0, 0.0)


class Clock:
    t_s = 0.0

    def __call__(self) -> float:
        return self.t_s


def make_scene(seed: int = 0, **changes: object) -> tuple[HologramScene, Clock]:
    clock = Clock()
    scene = HologramScene(
        (96, 96), OPTICS, OffAxisCamera(), seed=seed, clock=clock,
        drop=Drop(**changes),  # type: ignore[arg-type]
    )  # fmt: skip
    return scene, clock


def test_stage_and_focus_drive_move_the_spheres_in_the_field() -> None:
    scene, _ = make_scene()
    scene.render(ORIGIN)
    scene.render(StagePosition(1.5, 2.0, -1.0))
    before, after = scene.truth
    _, i, j = np.intersect1d(before.ids, after.ids, return_indices=True)
    assert len(i) > 2
    for a, b in zip(i, j, strict=True):
        old, new = before.spheres[a], after.spheres[b]
        assert (new.y_px - old.y_px) * 0.228 == pytest.approx(-2.0)
        assert (new.x_px - old.x_px) * 0.228 == pytest.approx(1.0)
        # The focal plane follows the drive by n_medium / n_immersion.
        assert new.z_um - old.z_um == pytest.approx(-1.5 * 1.33 / 1.5)


def test_the_truth_is_where_the_field_is_sharp() -> None:
    one = Species(1, 0.228, 1.58, 0.0)
    scene, _ = make_scene(species=(one,), side_um=10.0, coherent=0.0, drift=0.0)
    beside = [scene.render(StagePosition(0.0, 0.0, 90.0)) for _ in range(8)]
    assert not len(scene.truth[-1].ids)
    hologram = scene.render(ORIGIN)
    (sphere,) = scene.truth[-1].spheres
    retrieve = OffAxis(
        OPTICS.with_pixel_size(0.057), hologram.shape, carrier=scene.camera.carrier
    )
    retrieve.learn_background(beside)
    sharp = refocus(retrieve(hologram), sphere.z_um, retrieve.optics)
    y, x = np.unravel_index(np.argmax(np.abs(sharp - 1)), sharp.shape)
    assert (y, x) == pytest.approx((sphere.y_px, sphere.x_px), abs=0.75)
    assert sharp[y, x].imag > 0.5


def test_spheres_diffuse_but_stay_in_the_drop_and_do_not_jump() -> None:
    kind = Species(300, 0.228, 1.58, 0.97)
    scene, clock = make_scene(species=(kind,), side_um=400.0, depth_um=(-50, 50))
    scene.render(StagePosition(0.0, 0.0, 1e6))
    before = scene.positions_um
    for _ in range(5):
        clock.t_s += 0.1
        scene.render(StagePosition(0.0, 0.0, 1e6))
    steps = scene.positions_um - before
    # 300 spheres, 0.5 s: the variance 2 D t is known to 1 / sqrt(450) = 5 % per axis.
    assert np.mean(steps**2, axis=0) == pytest.approx(2 * 0.97 * 0.5, rel=0.2)
    clock.t_s += 100
    scene.render(StagePosition(0.0, 0.0, 1e6))
    assert np.abs(scene.positions_um[:, 0]).max() <= 50
    assert np.abs(scene.positions_um[:, 1:]).max() <= 200
    # Of the 100 s only 0.1 s are believed: 0.44 µm rms per axis.
    assert np.abs(scene.positions_um - before - steps).max() < 2.5


def test_the_same_seed_draws_the_same_holograms() -> None:
    first, second = make_scene(seed=4)[0], make_scene(seed=4)[0]
    assert np.array_equal(first.render(ORIGIN), second.render(ORIGIN))


def test_an_inline_camera_may_take_its_place() -> None:
    scene = HologramScene(
        (64, 64), OPTICS, InlineCamera(), clock=Clock(), drop=Drop(side_um=12.0)
    )
    hologram = scene.render(ORIGIN)
    assert hologram.shape == (64, 64)
    field = Inline(OPTICS, (64, 64))(hologram)
    assert np.abs(field - 1).max() > 0.05
