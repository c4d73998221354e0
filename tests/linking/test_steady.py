"""Few tracks linked by hand are linked as in the general way, whatever happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.data import TRACK_DTYPE, Detections
from lodestar_live.linking import Linker
from lodestar_live.linking.steady import MOST_TRACKS, Steady


class _General(Linker):
    """A linker that never takes the short way."""

    def _link_steadily(self, *_: object) -> None:
        return None


def _stream(
    rng: np.random.Generator,
    n: int,
    n_frames: int,
    *,
    miss: float,
    clutter: float,
    jump: float,
    sigma: bool,
):
    """Yield detections of particles that change their laws, blink and jump."""
    yx = rng.uniform(0, 60 * max(n, 1) ** 0.5, (n, 2))
    velocity, law = np.zeros((n, 2)), rng.integers(0, 3, n)
    for _ in range(n_frames):
        change = rng.random(n) < 0.02
        law[change] = rng.integers(0, 3, change.sum())
        velocity = 0.95 * velocity + rng.normal(0, 0.3, (n, 2))
        step = np.where(law[:, None] == 2, velocity, rng.normal(0, 1.0, (n, 2)))
        step[law == 0] = 0.0
        step[rng.random(n) < jump] *= 6
        yx = yx + step
        seen = yx[rng.random(n) >= miss]
        extra = rng.uniform(0, 60, (rng.poisson(clutter), 2))
        found = np.concatenate([seen, extra]) + rng.normal(
            0, 0.1, (len(seen) + len(extra), 2)
        )
        rng.shuffle(found)
        error = rng.uniform(0.05, 0.2, len(found)) if sigma else None
        yield Detections.from_positions(found, error)


def _assert_same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype == TRACK_DTYPE
    for name in TRACK_DTYPE.names or ():
        kind = TRACK_DTYPE[name].kind
        if kind == "f":
            np.testing.assert_allclose(
                one[name], other[name], rtol=1e-7, atol=1e-9, err_msg=name
            )
        else:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def _told(linker: Linker) -> list[tuple[str, object]]:
    """Return its events; what was measured is compared in the rows."""
    return [
        (event.kind, event.details.get("track_ids")) for event in linker.take_events()
    ]


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, MOST_TRACKS + 1),
    miss=st.sampled_from([0.0, 0.0, 0.01, 0.1]),
    clutter=st.sampled_from([0.0, 0.0, 0.02, 0.3]),
    jump=st.sampled_from([0.0, 0.02]),
    sigma=st.booleans(),
    radius_px=st.sampled_from([None, None, 4.0]),
    timing=st.sampled_from(["none", "even", "jitter", "lost"]),
)
def test_steady_and_general_way_give_the_same(
    seed, n, miss, clutter, jump, sigma, radius_px, timing
) -> None:
    rng = np.random.default_rng(seed)
    fast = Linker(radius_px, clock=lambda: 0.0)
    slow = _General(radius_px, clock=lambda: 0.0)
    index, t_s = 0, 0.0
    frames = _stream(rng, n, 60, miss=miss, clutter=clutter, jump=jump, sigma=sigma)
    for detections in frames:
        index += 1 + (timing == "lost" and rng.random() < 0.05)
        t_s += 0.01 * (rng.uniform(0.7, 1.4) if timing == "jitter" else 1.0)
        time = None if timing == "none" else t_s
        one, other = (linker(detections, index, time) for linker in (fast, slow))
        _assert_same(one.rows, other.rows)
        assert _told(fast) == _told(slow)
        if len(one) and rng.random() < 0.1:
            track = int(rng.choice(one.rows["track_id"]))
            ahead, same = (linker.predict(track, 2.5) for linker in (fast, slow))
            np.testing.assert_allclose([ahead.y_px, ahead.x_px], [same.y_px, same.x_px])
            np.testing.assert_allclose(ahead.covariance, same.covariance)
            for a, b in zip(
                fast.expect(index + 1), slow.expect(index + 1), strict=True
            ):
                np.testing.assert_allclose(a, b)
        if rng.random() < 0.02:
            for name in ("d_px2_per_frame", "alpha", "p_state"):
                np.testing.assert_allclose(
                    fast.summary()[name], slow.summary()[name], rtol=1e-6
                )
        if rng.random() < 0.01:
            fast.end_all()
            slow.end_all()
    assert fast.counts == slow.counts


@pytest.mark.parametrize("n", [1, MOST_TRACKS])
def test_an_undisturbed_run_takes_the_short_way(n: int, monkeypatch) -> None:
    taken = []
    link = Steady.link
    monkeypatch.setattr(
        Steady, "link", lambda *args: taken.append(link(*args)) or taken[-1]
    )
    rng = np.random.default_rng(0)
    linker, home = Linker(), 100.0 * np.arange(n)[:, None] + np.zeros(2)
    for index in range(60):
        found = home + rng.normal(0, 0.1, (n, 2))
        linker(Detections.from_positions(found, 0.1), index)
    assert len(taken) >= 45
    assert all(rows is not None for rows in taken)
