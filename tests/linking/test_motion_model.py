"""The motion model learns what moves, in two and three dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lodestar_live import Detections, Linker
from lodestar_live.data import DETECTION_DTYPE, TRACK_DTYPE, blank_rows
from lodestar_live.linking import mixture, products, states
from lodestar_live.linking.learning import Population
from lodestar_live.linking.states import Filtered
from lodestar_live.motion import Belief, Motion, born, predict, update
from tests.simulation.motion import Scenario, simulate_motion


def test_prediction_is_the_exact_solution_of_the_law_of_motion():
    """Against the differential equations of mean and covariance, integrated."""
    law = Motion(diffusion=0.4, velocity_sd=1.3, persistence=2.5, drift=np.array([0.7]))
    start = Belief(
        np.array([[1.0]]), np.array([[2.0]]), *np.array([[0.3], [0.1], [0.9]])
    )

    def rates(_, s):
        _, v, _, pxv, pvv = s
        k = 1 / law.persistence
        return [
            v,
            -k * (v - 0.7),
            2 * pxv + 2 * law.diffusion,
            pvv - k * pxv,
            -2 * k * pvv + 2 * k * law.velocity_sd**2,
        ]

    reference = solve_ivp(rates, (0, 3.7), [1.0, 2.0, 0.3, 0.1, 0.9], rtol=1e-10)
    ahead = predict(start, law, 3.7)
    ours = [ahead.position, ahead.velocity, ahead.variance, ahead.covariance]
    ours.append(ahead.velocity_variance)
    # The integrator is good to about 1e-8 here.
    found = [float(part.item()) for part in ours]
    np.testing.assert_allclose(found, reference.y[:, -1], rtol=1e-6)


def test_update_is_the_matrix_kalman_filter():
    law = Motion(diffusion=0.1, velocity_sd=1.0, persistence=5.0)
    before = predict(born(np.array([[1.0, 2.0]]), 0.2, law), law, 1.0)
    after = update(before, np.array([[2.0, 1.0]]), 0.3)
    p = np.array(
        [
            [before.variance[0], before.covariance[0]],
            [before.covariance[0], before.velocity_variance[0]],
        ]
    )
    h = np.array([[1.0, 0.0]])
    gain = p @ h.T / (h @ p @ h.T + 0.3)
    p_after = (np.eye(2) - gain @ h) @ p
    for axis, measured in enumerate([2.0, 1.0]):
        mean = np.array([before.position[0, axis], before.velocity[0, axis]])
        mean = mean + gain[:, 0] * (measured - mean[0])
        assert after.position[0, axis] == pytest.approx(mean[0])
        assert after.velocity[0, axis] == pytest.approx(mean[1])
    assert after.variance[0] == pytest.approx(p_after[0, 0])
    assert after.covariance[0] == pytest.approx(p_after[0, 1])
    assert after.velocity_variance[0] == pytest.approx(p_after[1, 1])


@pytest.fixture(scope="module")
def learnt():
    """Return the linker after 40 frames of 400 particles, for each motion."""

    def after(motion):
        linker = Linker()
        scenario = Scenario(motion, 400, 0.15, 40, seed=21)
        for k, frame in enumerate(simulate_motion(scenario)):
            linker(frame.detections, k)
        return linker, scenario

    return after


def test_diffusion_is_learnt_from_brownian_motion(learnt):
    linker, scenario = learnt("brownian")
    law = linker._model.law("px")
    per_axis = scenario.step_px**2 / 2
    # About 14 000 displacements are known to 1 %; wrong links and misses cost the rest.
    total = 2 * law.diffusion + law.velocity_sd**2
    assert total == pytest.approx(per_axis, rel=0.1)
    assert np.hypot(*law.drift) < 0.1 * scenario.step_px


def test_drift_is_learnt(learnt):
    linker, scenario = learnt("drift")
    law = linker._model.law("px")
    expected = np.array([0.6, 0.8]) * 0.8 * scenario.step_px
    np.testing.assert_allclose(law.drift, expected, rtol=0.1)


def test_persistent_velocities_are_learnt_from_directed_motion(learnt):
    linker, scenario = learnt("directed")
    law = linker._model.law("px")
    # A speed of 0.95 step in a random direction: 1/sqrt(2) of it per axis.
    assert law.velocity_sd == pytest.approx(0.95 * scenario.step_px / 2**0.5, rel=0.1)
    assert law.persistence > 10
    assert 2 * law.diffusion < 0.2 * law.velocity_sd**2


def test_misses_and_false_positives_are_learnt(learnt):
    linker, scenario = learnt("brownian")
    new, seen = linker._model.newcomers, linker._model.visibility
    # Misses are 5 %, deaths and merges (4 % of particles have a neighbour) come on top.
    assert 0.03 < seen.mu < 0.12
    assert 0.03 * scenario.n < new.new_per_px2 * new.area_px2 < 0.15 * scenario.n


def in_depth(positions, z_um):
    rows = blank_rows(DETECTION_DTYPE, len(positions))
    rows["y_px"], rows["x_px"] = np.transpose(positions)
    rows["z_um"], rows["score"] = z_um, 1.0
    return Detections(rows)


def test_depth_tells_particles_apart_that_cross_in_the_plane():
    """Two Brownian particles on the same pixels, 20 µm apart in depth."""
    rng = np.random.default_rng(0)
    linker, swaps, first = Linker(), 0, None
    yx = np.array([[50.0, 50.0], [53.0, 50.0], [90.0, 20.0], [20.0, 90.0]])
    z_um = np.array([-10.0, 10.0, 0.0, 3.0])
    for k in range(40):
        yx = yx + rng.normal(0, 2.0, yx.shape)
        z_um = z_um + rng.normal(0, 0.3, 4)
        yx[1] = yx[0] + rng.normal(0, 1.0, 2)
        rows = linker(in_depth(yx, z_um), k).rows
        ids = rows["track_id"][np.argsort(rows["detection_index"])][:2].tolist()
        first = ids if k == 5 else first
        swaps += k > 5 and ids != first
    assert swaps == 0
    ahead = linker.predict(first[0], 2.0)
    assert ahead.z_um == pytest.approx(z_um[0], abs=3.0)
    assert ahead.covariance[0, 0] > 0


def test_depth_in_micrometres_never_mixes_with_pixels():
    """Scaling z by a thousand scales only what is said about z."""
    rng = np.random.default_rng(3)
    yx = rng.uniform(0, 200, (30, 2))
    z_um = rng.uniform(-5, 5, 30)
    one, other = Linker(), Linker()
    for k in range(12):
        yx, z_um = yx + rng.normal(0, 1, yx.shape), z_um + rng.normal(0, 0.2, 30)
        a = one(in_depth(yx, z_um), k).rows
        b = other(in_depth(yx, 1000 * z_um), k).rows
        np.testing.assert_array_equal(a["track_id"], b["track_id"])
        np.testing.assert_allclose(a["existence"], b["existence"], rtol=1e-6)


def test_sigma_of_the_detector_is_the_measurement_noise():
    """A precise detection pulls the filter harder than a vague one."""
    spread = {}
    for sigma_px in (0.05, 2.0):
        linker, rng = Linker(), np.random.default_rng(1)
        yx = np.array([40.0, 40.0])
        for k in range(40):
            yx = yx + rng.normal(0, 1.0, 2)
            seen = Detections.from_positions(
                yx[None] + rng.normal(0, sigma_px, 2), sigma_px=sigma_px
            )
            linker(seen, k)
        spread[sigma_px] = linker.predict(0, 0).covariance[1, 1]
    # After a precise look the variance is the detector's own.
    assert spread[0.05] == pytest.approx(0.05**2, rel=0.05)
    assert spread[2.0] > 0.3


def test_crossing_swimmers_keep_their_identities_through_a_merge():
    linker = Linker()
    t = np.arange(-20, 21)
    a = np.column_stack([50 + 2.0 * t, 50 + 2.0 * t])
    b = np.column_stack([50 - 2.0 * t, 50 + 2.0 * t])
    before = after = None
    for k in range(len(t)):
        points = np.stack([a[k], b[k]])
        if np.hypot(*(a[k] - b[k])) < 5.0:
            points = points.mean(axis=0, keepdims=True)
        rows = linker(Detections.from_positions(points), k).rows
        ids = rows["track_id"][np.argsort(rows["detection_index"])]
        before = ids.tolist() if k == 10 else before
        after = ids.tolist()
    assert after == before == [0, 1]


def test_a_start_far_off_is_put_right_by_learning():
    scenario = Scenario("brownian", 300, 0.1, 20, seed=9)
    movie = list(simulate_motion(scenario))
    for factor in (1.5, 8.0):
        linker = Linker(first_gate_px=factor * scenario.step_px)
        for k, frame in enumerate(movie):
            linker(frame.detections, k)
        law = linker._model.law("px")
        per_axis = 2 * law.diffusion + law.velocity_sd**2
        assert per_axis == pytest.approx(scenario.step_px**2 / 2, rel=0.2)


@pytest.mark.parametrize("step_px", [0.3, 3.0])
def test_the_reach_is_as_far_as_particles_go_and_not_much_farther(step_px):
    """Brownian particles far apart: the next places lie within reach, and are few."""
    rng = np.random.default_rng(0)
    places = 100.0 * np.indices((8, 8)).reshape(2, -1).T
    linker = Linker()
    outside, reaches = 0, []
    for frame in range(30):
        places = places + step_px * rng.normal(size=places.shape)
        linker(Detections.from_positions(places, sigma_px=0.05), frame)
        if frame < 10:
            continue
        expected, reach = linker.expect(frame + 1)
        reaches.append(np.median(reach))
        ahead = places + step_px * rng.normal(size=places.shape)
        apart = np.linalg.norm(ahead[:, None] - expected, axis=2).min(axis=1)
        outside += int((apart > np.median(reach)).sum())
    assert outside == 0
    assert 4 * step_px < np.median(reaches) < 10 * step_px
    assert (linker.expect(33)[1] > linker.expect(30)[1]).all()


def test_the_reach_is_unknown_before_anything_was_linked_and_obeys_the_user():
    linker = Linker(search_radius_px=5.0)
    assert [part.shape for part in linker.expect(0)] == [(0, 2), (0,)]
    linker(Detections.from_positions([[10.0, 10.0]]), 0)
    positions, reach = linker.expect(1)
    np.testing.assert_allclose(positions, [[10.0, 10.0]])
    np.testing.assert_allclose(reach, 5.0)
    linker = Linker()
    linker(Detections.from_positions([[10.0, 10.0]]), 0)
    assert np.isnan(linker.expect(1)[1]).all()
    linker.end_all()
    assert [part.shape for part in linker.expect(1)] == [(0, 2), (0,)]


def test_a_change_of_motion_is_followed_and_told():
    """Ten of thirty diffusing particles stick in frame 40: events say so, ids stay."""
    rng = np.random.default_rng(4)
    yx = 60.0 * np.indices((5, 6)).reshape(2, -1).T
    linker, told, first = Linker(), {}, None
    for k in range(80):
        sd = np.full((30, 1), 2.0)
        if k >= 40:
            sd[:10] = 0.0
        yx = yx + rng.normal(0, 1, yx.shape) * sd
        seen = yx + rng.normal(0, 0.1, yx.shape)
        rows = linker(Detections.from_positions(seen), k).rows
        ids = rows["track_id"][np.argsort(rows["detection_index"])].tolist()
        first = ids if k == 5 else first
        for event in linker.take_events():
            if event.kind == "motion.changed" and k >= 40:
                told |= {
                    track: (k, law)
                    for track, law in zip(
                        event.details["track_ids"], event.details["now"], strict=True
                    )
                }
    assert ids == first
    stuck = [told[track] for track in first[:10] if track in told]
    assert len(stuck) >= 9
    assert all(law == "still" for _, law in stuck)
    assert np.median([k for k, _ in stuck]) <= 50
    assert sum(track in told for track in first[10:]) <= 2


def test_the_matrices_of_the_linker_are_the_filter_of_the_law_of_motion():
    """The linker's products of matrices against `motion`'s own predict and update."""
    rng = np.random.default_rng(6)
    law = Population(1.7, n_axes=1)
    points, noise = rng.normal(0, 3, (1, 8)), np.full((1, 1), 0.2)
    part = Filtered.unknown(points, "um")
    mixture.begin(part, points, noise, law)
    motion = Motion(
        float(law.motion.diffusion[0]),
        velocity_sd=float(law.motion.velocity_sd[0]),
        persistence=float(law.motion.persistence[0]),
        drift=law.motion.drift[0],
    )
    reference = born(points.T, np.full(8, 0.2), motion)
    for dt in (1.0, 2.5, 0.4):
        reference = predict(reference, motion, dt)
        mixture.move(part, law, dt)
        points = points + 0.3 * rng.normal(size=points.shape)
        everyone = np.arange(8)
        fit = mixture.fit(part, everyone, points, noise)
        mixture.correct(part, everyone, noise, fit)
        reference = update(reference, points.T, 0.2)
        np.testing.assert_allclose(part.position[0].T, reference.position, rtol=1e-10)
        np.testing.assert_allclose(part.velocity[0].T, reference.velocity, rtol=1e-10)
        for name in ("variance", "covariance", "velocity_variance"):
            own = getattr(part, name)[0]
            np.testing.assert_allclose(own, getattr(reference, name), rtol=1e-10)


@pytest.mark.parametrize("n", [1, 4096, 9000])
def test_products_in_blocks_are_the_products(n):
    rng = np.random.default_rng(n)
    matrix, columns = rng.normal(size=(3, 5, 8)), rng.normal(size=(3, 8, n))
    np.testing.assert_allclose(
        products.transform(matrix, columns), matrix @ columns, rtol=1e-12, atol=1e-12
    )
    weight = rng.random((3, n))
    np.testing.assert_allclose(
        products.summed(weight, columns[0]), weight @ columns[0].T, rtol=1e-9
    )


def test_columns_written_as_one_are_neighbours():
    for names in (states._KNOWN, states._LIFE):
        at = [TRACK_DTYPE.fields[name][1] for name in names]
        assert np.diff(at).tolist() == [8] * (len(names) - 1)
