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


class Centroid:
    """The middle of a set stays in view; members out of sight keep their last place.

    A member lost for longer than `coast_frames` no longer counts.
    """

    track_id: int | None = None
    place_um: FloatArray | None = None

    def __init__(self, track_ids: Sequence[int], settings: ControlSettings) -> None:
        self.state = "choosing"
        self._ids, self._settings = list(track_ids), settings
        self._last: dict[int, tuple[int, FloatArray]] = {}
        self._filter: TargetFilter | None = None

    def observe(self, sight: Sight) -> None:
        """Update the members' places and the filter of their middle."""
        noise_um = sight.um_per_px
        for track_id in self._ids:
            row = sight.row_of(track_id)
            if row is not None:
                self._last[track_id] = (sight.frame_index, sight.positions_um[row])
                noise_um = sight.noise_um(row)
        oldest = sight.frame_index - self._settings.coast_frames
        places = [place for frame, place in self._last.values() if frame >= oldest]
        self.state = "following" if places else "waiting"
        if not places:
            return
        if self._filter is None:
            self._filter = TargetFilter(noise_um, dt=sight.period_s)
        self._filter.update(np.mean(places, axis=0), sight.t_s, noise_sd=noise_um)

    def aim(self, t_s: float) -> Estimate | None:
        """Return where the middle will be."""
        if self._filter is None or self.state != "following":
            return None
        return self._filter.predict(t_s)


class Visit:
    """The members of a set in turn, each for `dwell_s`; lost ones are passed over."""

    def __init__(
        self, track_ids: Sequence[int], settings: ControlSettings, tell: Tell
    ) -> None:
        self._ids, self._settings, self._tell = list(track_ids), settings, tell
        self._turn, self._since_s = 0, float("nan")
        self._now = Target(self._ids[0], settings, tell)

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
        n = len(self._ids)
        order = [self._ids[(self._turn + k) % n] for k in range(1, n + 1)]
        visible = [i for i in order if sight.row_of(i) is not None]
        if visible:
            self._turn, self._since_s = self._ids.index(visible[0]), sight.t_s
            self._now = Target(visible[0], self._settings, self._tell)
