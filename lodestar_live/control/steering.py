"""From "the target will be there" to "move the stage thus": lead, deadband, caution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lodestar_live import events
from lodestar_live.control.estimate import Estimate
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.groups import Followed
from lodestar_live.control.guard import SignGuard
from lodestar_live.control.moves import MoveLog
from lodestar_live.control.targets import Sight
from lodestar_live.data import Event, FloatArray
from lodestar_live.settings import ControlSettings

MIN_SHARE = 0.6  # of a move that is visible in the frame it is aimed at
MAX_LEAD_FRAMES = 50
MAX_SURPLUS_UM = 0.5
CAUTIOUS_SHARE_OF_VIEW = 1 / 16
LARGEST_CAUTIOUS_SHARE = 1 / 4
REFUSALS_IN_A_ROW = 3
PAUSE_S = 1.0
DOUBT_SHARE = 1.3  # of the prediction's 1-sigma uncertainty per axis


class Steering:
    """Keeps what is followed in the centre of the view.

    Parameters
    ----------
    gate, moves
        The way to the stage and the log of its moves.
    settings
        Deadband and longest step.
    tell
        Takes events.
    """

    def __init__(
        self,
        gate: SafetyGate,
        moves: MoveLog,
        settings: ControlSettings,
        *,
        tell: Callable[[Event], None],
    ) -> None:
        self._gate, self._moves, self._settings = gate, moves, settings
        self._tell = tell
        self._guard: SignGuard | None = None
        self._guarded: int | None = None
        self._t_wait_s = float("-inf")  # frames exposed before are not acted upon
        self._t_pause_s = float("-inf")
        self._refusals = 0
        self._n_careful = 0
        self.aim: dict[str, float] = {}

    def use(self, settings: ControlSettings) -> None:
        """Take changed settings from now on."""
        self._settings = settings

    def steer(self, followed: Followed, sight: Sight, now_s: float) -> None:
        """Decide on one frame."""
        self._watch(followed, sight)
        t_aim_s, share = self._when_visible(sight, now_s)
        ahead = followed.aim(t_aim_s)
        if ahead is None:
            self.aim = {}
            return
        there = np.array(self._moves.position_at(t_aim_s)[1:])
        correction = ahead.position - there
        self.aim = {
            "error_um": float(np.linalg.norm(correction)),
            "predicted_y_um": float(ahead.position[0]),
            "predicted_x_um": float(ahead.position[1]),
        }
        if self.aim["error_um"] <= self._deadband_um(ahead):
            return
        if self._may_move(sight, now_s):
            self._move(correction, share, followed, sight)

    def _deadband_um(self, ahead: Estimate) -> float:
        """Return the largest correction that is not worth a move.

        A correction well within what the prediction does not know gains nothing: the
        longer the delay, the larger it is. A deadband of 0 means none at all.
        """
        set_um = self._settings.deadband_um
        unknown_um = DOUBT_SHARE * float(np.mean(ahead.position_sd))
        return max(set_um, unknown_um) if set_um > 0 else 0.0

    def _watch(self, followed: Followed, sight: Sight) -> None:
        """Compare what own moves do with what they should."""
        place = followed.place_um
        if place is None or followed.track_id is None:
            return
        if self._guard is None or followed.track_id != self._guarded:
            known = self._guard.is_verified if self._guard else None
            row = sight.row_of(followed.track_id)
            noise_um = sight.um_per_px if row is None else sight.noise_um(row)
            self._guard = SignGuard(noise_um, view_um=sight.view_um)
            self._guarded = followed.track_id
            if known is not None:
                self._guard.is_verified = known
        self._guard.observe(sight.frame_index, sight.t_s, sight.stage_um, place)
        why = self._guard.suspicion()
        if why and self._gate.halted is None and self._gate.is_armed:
            self._gate.hold(why)

    def _when_visible(self, sight: Sight, now_s: float) -> tuple[float, float]:
        """Return the first exposure that shows most of a move made now, and how much.

        The stage needs time; a move longer by 1/share is exactly right by then.
        """
        n_periods = np.floor((now_s - sight.t_s) / sight.period_s + 1e-6) + 1
        for n_more in range(MAX_LEAD_FRAMES):
            t_s = sight.t_s + (n_periods + n_more) * sight.period_s
            rest = self._moves.response.remaining_um(np.ones(1), t_s - now_s)
            if rest[0] < 1 - MIN_SHARE:
                break
        return float(t_s), max(1.0 - float(rest[0]), MIN_SHARE)

    def _may_move(self, sight: Sight, now_s: float) -> bool:
        return (
            now_s >= self._t_pause_s
            and sight.t_s >= self._t_wait_s
            and self._gate.is_ready("xy")
        )

    def _move(
        self, correction: FloatArray, share: float, followed: Followed, sight: Sight
    ) -> None:
        here = np.array(self._gate.read_position()[1:])
        way = np.array(self._moves.goal[1:]) + correction - here
        cautious = self._cautious(way, sight)
        is_cut = not np.array_equal(cautious, way)
        if not is_cut:
            cautious = cautious + self._surplus(correction, share)
        longest_um = self._settings.max_step_um
        goal = here + cautious * min(1.0, longest_um / float(np.linalg.norm(cautious)))
        verdict = self._gate.move_xy(
            *(float(v) for v in goal),
            t_data_s=sight.t_s,
            stage_known=True,
            why=followed.state,
            track_id=followed.track_id,
            frame=sight.frame_index,
            **self.aim,
        )
        self._count(verdict.passed, sight)
        if verdict.passed and self._guard is not None:
            self._guard.moved()
        if verdict.passed and is_cut:
            self._n_careful += 1
            t_sent_s = self._gate.t_sent_s("xy")
            self._t_wait_s = t_sent_s + self._moves.response.settle_s

    def _surplus(self, correction: FloatArray, share: float) -> FloatArray:
        """Return what to add so that a short move is right by its frame.

        The next command takes it back, so it stays small, and away from axes that
        have not been seen to obey.
        """
        surplus = np.clip(correction * (1 / share - 1), -MAX_SURPLUS_UM, MAX_SURPLUS_UM)
        return np.where(self._verified(), surplus, 0.0)

    def _verified(self) -> FloatArray:
        """Which axes (y, x) have been seen to obey."""
        if self._guard is None:
            return np.array([False, False])
        return self._guard.is_verified

    def _cautious(self, way: FloatArray, sight: Sight) -> FloatArray:
        """Until an axis has been seen to obey, move it only a little, then look.

        Each such move that was looked at and raised no suspicion allows twice as much
        the next time, so that a fast target is not lost to caution.
        """
        share = min(CAUTIOUS_SHARE_OF_VIEW * 2**self._n_careful, LARGEST_CAUTIOUS_SHARE)
        longest_um = share * sight.view_um
        return np.where(self._verified(), way, np.clip(way, -longest_um, longest_um))

    def _count(self, passed: bool, sight: Sight) -> None:
        """After three refusals in a row rest for a second instead of insisting."""
        self._refusals = 0 if passed else self._refusals + 1
        if self._refusals >= REFUSALS_IN_A_ROW:
            self._refusals, self._t_pause_s = 0, sight.t_s + PAUSE_S
            held = events.ControlState(state="held", why="three refusals in a row")
            self._tell(held.at(sight.t_s, sight.frame_index))
