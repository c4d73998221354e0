"""More than one target, or none: centroid, visits, a place in the sample.

Each has what `Target` has: ``observe(sight)``, ``aim(t_s)``, ``state``, ``track_id``
and ``place_um``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lodestar_live.control.estimate import Estimate, TargetFilter
from lodestar_live.control.targets import Sight, Target, Tell
from lodestar_live.data import FloatArray
from lodestar_live.settings import ControlSettings


class Followed(Protocol):
    """Something the stage can be kept on."""

    @property
    def state(self) -> str:
        """One word."""

    @property
    def track_id(self) -> int | None:
        """Track id; None for a place or a group."""

    @property
    def place_um(self) -> FloatArray | None:
        """Where it was measured in the last frame, (2,); None when it was not."""

    def observe(self, sight: Sight) -> None:
        """Take one frame."""

    def aim(self, t_s: float) -> Estimate | None:
        """Return where it will be; None: the stage should rest."""


class Nobody:
    """Nothing to follow; the stage rests."""

    state = "idle"
    track_id: int | None = None
    place_um: FloatArray | None = None

    def observe(self, sight: Sight) -> None:
        """Do nothing."""

    def aim(self, t_s: float) -> Estimate | None:
        """Rest."""
        return None


class Place:
    """A fixed place in the sample, brought to the centre once (`recenter`)."""

    track_id: int | None = None
    place_um: FloatArray | None = None

    def __init__(self, goal_um: FloatArray, *, near_um: float) -> None:
        self.state = "recentring"
        self._goal_um, self._near_um = goal_um, near_um

    def observe(self, sight: Sight) -> None:
        """End when the place is in the centre."""
        if np.linalg.norm(sight.stage_um - self._goal_um) <= self._near_um:
            self.state = "idle"

    def aim(self, t_s: float) -> Estimate | None:
        """Return the place until it is reached."""
        if self.state == "idle":
            return None
        return Estimate(self._goal_um, np.zeros(2), np.zeros(2))


class Oscillate:
    """Two places in turn about where the stage stands first, along x.

    For `pipeline.modulation`, which needs frames of offset positions.
    """

    track_id: int | None = None
    place_um: FloatArray | None = None

    def __init__(self, settings: ControlSettings) -> None:
        self.state = "oscillating"
        self._settings = settings
        self._start: tuple[float, FloatArray] | None = None

    def observe(self, sight: Sight) -> None:
        """Note where and when the first frame was taken."""
        if self._start is None:
            self._start = sight.t_s, sight.stage_um

    def aim(self, t_s: float) -> Estimate | None:
        """Return the end at which the stage shall be."""
        if self._start is None:
            return None
        begun_s, centre_um = self._start
        is_second_half = ((t_s - begun_s) / self._settings.swing_s) % 1.0 >= 0.5
        half_um = self._settings.swing_um / 2
        swing_um = np.array([0.0, half_um if is_second_half else -half_um])
        return Estimate(centre_um + swing_um, np.zeros(2), np.zeros(2))


class Centroid:
    """The middle of a set stays in view; members out of sight keep their last place.

    A member lost for longer than `coast_frames` no longer counts. A set that was not
    named is what the first frame with tracks shows: the stage must not be drawn towards
    whatever comes into view because it moved.

    Parameters
    ----------
    track_ids
        The members; None: all tracks in view.
    """

    track_id: int | None = None
    place_um: FloatArray | None = None

    def __init__(
        self, track_ids: Sequence[int] | None, settings: ControlSettings
    ) -> None:
        self.state = "choosing"
        self._ids = [] if track_ids is None else list(track_ids)
        self._settings = settings
        self._last: dict[int, tuple[int, FloatArray]] = {}
        self._filter: TargetFilter | None = None

    def observe(self, sight: Sight) -> None:
        """Update the members' places and the filter of their middle."""
        if not self._ids:
            self._ids = [sight.id_at(row) for row in sight.seen]
        noise_um = sight.um_per_px
        for track_id in self._ids:
            row = sight.row_of(track_id)
            if row is not None:
                self._last[track_id] = (sight.frame_index, sight.positions_um[row])
                noise_um = sight.noise_um(row)
        oldest = sight.frame_index - self._settings.coast_frames
        places = [place for frame, place in self._last.values() if frame >= oldest]
        if self._ids:
            self.state = "following" if places else "waiting"
        if not places:
            return
        if self._filter is None:
            self._filter = TargetFilter(noise_um, dt=sight.period_s)
        self._filter.update(np.mean(places, axis=0), sight.t_s, noise_sd=noise_um)

    @property
    def members(self) -> list[int] | None:
        """Their ids; None: not chosen yet."""
        return self._ids or None

    def aim(self, t_s: float) -> Estimate | None:
        """Return where the middle will be."""
        if self._filter is None or self.state != "following":
            return None
        return self._filter.predict(t_s)


class Visit:
    """The members of a set in turn, each for `dwell_s`; lost ones are passed over.

    Parameters
    ----------
    track_ids
        The members; None: at each turn the track in view whose visit lies back longest,
        first those that were never visited.
    """

    def __init__(
        self, track_ids: Sequence[int] | None, settings: ControlSettings, tell: Tell
    ) -> None:
        self.members = None if track_ids is None else list(track_ids)
        self._settings, self._tell = settings, tell
        self._visits: dict[int, int] = {}  # id -> turn of its last visit
        self._n_turns, self._since_s = 0, float("nan")
        first: int | str = "nearest" if self.members is None else self.members[0]
        self._now = Target(first, settings, tell)

    @property
    def state(self) -> str:
        """State of the member in turn."""
        return self._now.state

    @property
    def track_id(self) -> int | None:
        """Id of the member in turn."""
        return self._now.track_id

    @property
    def place_um(self) -> FloatArray | None:
        """Measured place of the member in turn."""
        return self._now.place_um

    def observe(self, sight: Sight) -> None:
        """Follow the member in turn; go on when its time is over or it is lost."""
        if np.isnan(self._since_s):
            self._since_s = sight.t_s
        is_over = sight.t_s - self._since_s >= self._settings.dwell_s
        if is_over or self._now.state in ("searching", "waiting", "ended"):
            self._next(sight)
        self._now.observe(sight)

    def aim(self, t_s: float) -> Estimate | None:
        """Return where the member in turn will be."""
        return self._now.aim(t_s)

    def _next(self, sight: Sight) -> None:
        seen = [sight.id_at(row) for row in sight.seen]
        wanted = seen if self.members is None else self.members
        visible = [i for i in wanted if i in seen]
        if self._now.track_id is not None:
            self._n_turns += 1
            self._visits[self._now.track_id] = self._n_turns
        if visible:
            chosen = min(visible, key=lambda i: self._visits.get(i, 0))
            self._since_s = sight.t_s
            self._now = Target(chosen, self._settings, self._tell)
