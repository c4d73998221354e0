"""Whom to follow: choosing a target, keeping it, losing it, finding it again.

The rule behind all of this: the stage never jumps to another particle unasked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lodestar_live import events
from lodestar_live.control.estimate import Estimate, TargetFilter
from lodestar_live.data import Event, FloatArray, Rows
from lodestar_live.settings import ControlSettings

DEFAULT_SIGMA_PX = 0.1
CROSSING_FRAMES = 10
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One frame as control sees it, in stage coordinates.

    Parameters
    ----------
    frame_index, t_s, period_s
        The frame, the middle of its exposure, the learnt frame period.
    rows, positions_um
        Tracks and their places in the sample, (n, 2), (y, x).
    stage_um
        (2,): stage at exposure, which is where the centre of the view lies.
    um_per_px, view_um
        Scale, and shorter side of the view.
    """

    frame_index: int
    t_s: float
    period_s: float
    rows: Rows
    positions_um: FloatArray
    stage_um: FloatArray
    um_per_px: float
    view_um: float

    @property
    def seen(self) -> list[int]:
        """Rows measured in this very frame."""
        is_seen = self.rows["missed_frames"] == 0
        return [int(i) for i in np.flatnonzero(is_seen)]

    def row_of(self, track_id: int) -> int | None:
        """Return the row of a track measured in this frame, or None."""
        found = self.rows["track_id"] == track_id
        rows = np.flatnonzero(found & (self.rows["missed_frames"] == 0))
        return int(rows[0]) if len(rows) else None

    def id_at(self, row: int) -> int:
        """Return the track id of a row."""
        return int(self.rows["track_id"][row])

    def noise_um(self, row: int) -> float:
        """Return the localisation uncertainty of a row."""
        sigma_px = float(self.rows["sigma_px"][row])
        if not np.isfinite(sigma_px) or sigma_px <= 0:
            sigma_px = DEFAULT_SIGMA_PX
        return sigma_px * self.um_per_px


class Target:
    """One followed particle: its identity, its motion filter and its state.

    States: ``choosing``, ``following``, ``coasting`` (missed for a few frames, followed
    on its prediction), ``searching`` (the stage rests, the predicted disc is watched),
    ``waiting`` (for the same track only), ``ended``.

    Parameters
    ----------
    wish
        A track id; ``nearest`` to the centre, ``brightest``, ``fastest``; or a place
        (y_um, x_um) in the sample, whose nearest track is taken.
    settings, tell
        Rules of loss; takes events.
    """

    def __init__(
        self,
        wish: int | str | tuple[float, float],
        settings: ControlSettings,
        tell: Tell,
    ) -> None:
        self._wish, self._settings, self._tell = wish, settings, tell
        self.track_id: int | None = None
        self.state = "choosing"
        self.place_um: FloatArray | None = None  # as measured in the last frame
        self._filter: TargetFilter | None = None
        self._last_seen_frame = -1
        self._neighbours: dict[int, int] = {}  # id -> last frame close to the target
        self._rival: tuple[int, int] = (-1, 0)  # id, frames in a row

    def observe(self, sight: Sight) -> None:
        """Take one frame: choose if still to do, then update filter and state."""
        self.place_um = None
        if self.track_id is None:
            self._choose(sight)
        if self.track_id is None or self.state == "ended":
            return
        row = self._row(sight)
        if row is None:
            self._miss(sight)
            return
        if self._filter is None:
            self._filter = TargetFilter(sight.noise_um(row), dt=sight.period_s)
        self.place_um = sight.positions_um[row]
        self._filter.update(self.place_um, sight.t_s, noise_sd=sight.noise_um(row))
        self._last_seen_frame = sight.frame_index
        self._enter("following", sight)

    def aim(self, t_s: float) -> Estimate | None:
        """Return where the target will be at `t_s`; None: the stage should rest."""
        if self._filter is None or self.state not in ("following", "coasting"):
            return None
        return self._filter.predict(t_s)

    def _row(self, sight: Sight) -> int | None:
        """Row that is the target in this frame, by identity and by motion."""
        assert self.track_id is not None  # noqa: S101
        own = sight.row_of(self.track_id)
        if self._filter is None:
            return own
        near = self._plausible(sight)
        if own is not None and own in near:
            self._rival = (-1, 0)
            self._note_neighbours(sight, near)
            return own
        if own is not None:
            return self._crossed(sight, own, near)
        if self.state == "searching":
            return self._found_again(sight, near)
        return None

    def _crossed(self, sight: Sight, own: int, near: list[int]) -> int:
        """Resolve a jump of the own track: after an encounter, motion decides.

        Only a track that was as close as the target itself within the last frames may
        take over, and only after several consistent frames does its id count.
        """
        close = [
            i
            for i in near
            if sight.frame_index
            - self._neighbours.get(sight.id_at(i), -CROSSING_FRAMES)
            < CROSSING_FRAMES
        ]
        if len(close) != 1:
            return own
        if self._is_consistent(sight.id_at(close[0])):
            self._adopt(sight.id_at(close[0]), sight, "crossing")
        return close[0]

    def _found_again(self, sight: Sight, near: list[int]) -> int | None:
        """Row of a new track that keeps appearing where the target can be."""
        assert self._filter is not None  # noqa: S101
        born = sight.frame_index - self._last_seen_frame
        new = [i for i in near if sight.rows["age_frames"][i] <= born]
        if not new:
            self._rival = (-1, 0)
            return None
        ahead = self._filter.predict(sight.t_s).position
        gaps = np.linalg.norm(sight.positions_um[new] - ahead, axis=1)
        best = new[int(np.argmin(gaps))]
        if gaps.min() > sight.view_um / 4 or not self._is_consistent(sight.id_at(best)):
            return None
        self._adopt(sight.id_at(best), sight, "found again")
        return best

    def _plausible(self, sight: Sight) -> list[int]:
        """Rows of this frame that lie where the target can be."""
        assert self._filter is not None  # noqa: S101
        near = self._filter.is_plausible(sight.positions_um, sight.t_s)
        return [i for i in sight.seen if near[i]]

    def _is_consistent(self, track_id: int) -> bool:
        """Count frames in a row in which the same other track stood in."""
        n = self._rival[1] + 1 if self._rival[0] == track_id else 1
        self._rival = (track_id, n)
        return n >= self._settings.reacquire_frames

    def _note_neighbours(self, sight: Sight, near: list[int]) -> None:
        oldest = sight.frame_index - CROSSING_FRAMES
        self._neighbours = {i: k for i, k in self._neighbours.items() if k > oldest}
        for row in near:
            if sight.id_at(row) != self.track_id:
                self._neighbours[sight.id_at(row)] = sight.frame_index

    def _choose(self, sight: Sight) -> None:
        wish, seen = self._wish, sight.seen
        if isinstance(wish, int):
            self._adopt(wish, sight, "asked")
        elif seen:
            best = seen[int(np.argmax(_merit(wish, sight)))]
            self._adopt(sight.id_at(best), sight, str(wish))

    def _adopt(self, track_id: int, sight: Sight, why: str) -> None:
        chosen = events.ControlTarget(track_id=track_id, was=self.track_id, why=why)
        self._tell(chosen.at(sight.t_s, sight.frame_index))
        if self.track_id is None:
            self._last_seen_frame = sight.frame_index
        self.track_id, self._rival = track_id, (-1, 0)
        self._neighbours.clear()

    def _miss(self, sight: Sight) -> None:
        missed = sight.frame_index - self._last_seen_frame
        if missed <= self._settings.coast_frames and self._is_sure(sight):
            self._enter("coasting", sight)
            return
        if self.state in ("choosing", "following", "coasting"):
            lost = events.ControlLost(track_id=self.track_id, missed_frames=missed)
            self._tell(lost.at(sight.t_s, sight.frame_index))
        after = {"search": "searching", "hold": "waiting", "stop": "ended"}
        self._enter(after[self._settings.lost], sight)

    def _is_sure(self, sight: Sight) -> bool:
        if self._filter is None:
            return True
        spread_um = self._filter.predict(sight.t_s).position_sd.max()
        return bool(spread_um < sight.view_um / 6)

    def _enter(self, state: str, sight: Sight) -> None:
        if state == self.state:
            return
        change = events.ControlState(
            state=state, was=self.state, track_id=self.track_id
        )
        self._tell(change.at(sight.t_s, sight.frame_index))
        self.state = state


def _merit(wish: str | tuple[float, float], sight: Sight) -> FloatArray:
    """How well each seen row fulfils a wish, shape (n seen,)."""
    rows, places = sight.rows[sight.seen], sight.positions_um[sight.seen]
    if wish == "brightest":
        return np.asarray(np.nan_to_num(rows["intensity"], nan=-np.inf))
    if wish == "fastest":
        speed = np.hypot(rows["vy_px_per_frame"], rows["vx_px_per_frame"])
        return np.asarray(np.nan_to_num(speed, nan=-np.inf))
    centre = sight.stage_um if isinstance(wish, str) else np.array(wish)
    return np.asarray(-np.linalg.norm(places - centre, axis=1))
