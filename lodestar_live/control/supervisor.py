"""The supervisor: it owns the stage, and is the last word beside the driver.

Whatever is decided above, a move reaches the driver only through here, and only when

- nothing has called a halt: a halt is latched until `arm` is called on purpose;
- where the *motor* goes (backlash is already added) lies inside the travel limits, and
  the step and the way since arming are not longer than allowed;
- the driver answers.

Every move is confirmed by reading back. A stage that does not come within tolerance of
where it was sent and gets no nearer to it, or that stays busy, is a halt. Every call
of the driver has a deadline, and `stop` has a thread of its own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from lodestar_live import events
from lodestar_live.control.calls import DriverCalls, NoReplyError
from lodestar_live.control.commands import axis_values
from lodestar_live.control.driver import StageDriver
from lodestar_live.data import Event, StagePosition
from lodestar_live.errors import StageError
from lodestar_live.settings import ControlSettings

REPLY_WITHIN_S: Final = 3.0  # beside exposure and readout: MMCore may wait for those
STOP_WITHIN_S: Final = 0.04
READ_AFTER_STOP_S: Final = 0.005
BUSY_FACTOR: Final = 3.0  # a stage that calls itself busy is given so much more time
FRESH_S: Final = 0.002  # a reading so young need not be taken again
AXES: Final = ("xy", "z")
T = TypeVar("T")


class RefusedError(StageError):
    """The supervisor does not let a move pass; the driver was not asked."""


@dataclass(slots=True)
class Order:
    """A move that is not confirmed yet; places in µm, (y, x) or (z,).

    `start` is where the axis stood at `since_s`, which is when it was sent or last seen
    to get nearer.
    """

    goal: tuple[float, ...]
    start: tuple[float, ...]
    since_s: float
    seen_s: float


class Supervisor:
    """A `StageDriver` around a driver, which nothing else may call.

    Parameters
    ----------
    driver
        The stage.
    settings
        Limits, longest steps and ways, tolerance and time of a confirmation.
    clock
        Monotonic seconds since the run's start.
    tell
        Takes an event when it halts, and when somebody else moves the stage.
    """

    def __init__(
        self,
        driver: StageDriver,
        settings: ControlSettings,
        *,
        clock: Callable[[], float],
        tell: Callable[[Event], None],
    ) -> None:
        self.driver, self._settings = driver, settings
        self._clock, self._tell = clock, tell
        self.reply_within_s = REPLY_WITHIN_S
        self.travelled_um = dict.fromkeys(AXES, 0.0)  # since arming
        self.n_confirmed = 0
        self._halted: str | None = None
        self._is_over = self._stop_is_due = False
        self._orders: dict[str, Order] = {}
        self._rest: dict[str, tuple[float, ...]] = {}  # last place without an order
        self._busy: tuple[float, float, tuple[float, ...]] | None = None
        self._seen: tuple[float, bool, StagePosition] | None = None
        self._lock = threading.Lock()  # of what is remembered; never held in a call
        self._calls = DriverCalls("lodestar-driver", afterwards=self._stop_late_move)
        self._stops = DriverCalls("lodestar-stop", afterwards=self._repeat_stop)

    # ---- the latch -------------------------------------------------------------------

    @property
    def halted(self) -> str | None:
        """Why nothing may move, or None."""
        return self._halted

    def refuse_all(self, reason: str, *, for_ever: bool = False) -> None:
        """Let no move pass; assignments only, so a signal handler may call it."""
        self._is_over = self._is_over or for_ever
        self._halted = reason

    def halt(self, reason: str, *, stop: bool = True) -> None:
        """Let no move pass until `arm`; with `stop` the stage also stands still."""
        self.refuse_all(reason)
        if stop and self._settings.armed:
            self.stop()
        halted = events.StageStopped if stop else events.StageHeld
        self._event(halted(reason=reason))

    def arm(self) -> None:
        """Take back a halt: somebody looked, and means it.

        Raises
        ------
        StageError
            The run has ended, or the driver still hangs.
        """
        if self._is_over:
            raise StageError(f"arm: {self._halted}; expected a run that goes on.")
        if self._calls.is_hung or self._stops.is_hung:
            raise StageError(
                f"arm: the stage driver still hangs ({self._halted}). Check the "
                "controller's cable and power, and try again."
            )
        with self._lock:
            self._orders.clear()
            self._rest.clear()
            self._busy = None
            self.travelled_um = dict.fromkeys(AXES, 0.0)
            self._halted = None

    @property
    def is_settled(self) -> bool:
        """True when every move that was sent is confirmed."""
        return not self._orders

    # ---- the driver's own calls ------------------------------------------------------

    def position_um(self) -> StagePosition:
        """Return where the stage is; what was sent is confirmed on the way."""
        return self._look_if_due()[1]

    def is_busy(self) -> bool:
        """Return whether the last move still runs."""
        return self._look_if_due()[0]

    def forget_reading(self) -> None:
        """Let the next question be asked of the driver, whatever it said just now."""
        self._seen = None

    def _look_if_due(self) -> tuple[bool, StagePosition]:
        seen = self._seen
        if seen is not None and 0 <= self._clock() - seen[0] <= FRESH_S:
            return seen[1], seen[2]
        return self.look()

    def look(self, within_s: float | None = None) -> tuple[bool, StagePosition]:
        """Return whether the stage is busy, and where it is; one call for both.

        Parameters
        ----------
        within_s
            How long to wait for it; None: `reply_within_s`, after which it is a halt.

        Raises
        ------
        StageError
            The driver does not answer. Whatever else it raises comes as it is.
        """
        asked_s = self._clock()
        is_busy, position = self._call(
            lambda: (bool(self.driver.is_busy()), self.driver.position_um()), within_s
        )
        position = StagePosition(*(float(v) for v in position))
        self._compare(asked_s, is_busy, position)
        return is_busy, position

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Send the motor in the plane; raise a StageError if it must not go there."""
        self.approve("xy", (y_um, x_um))
        self._call(lambda: self.driver.move_to_um(y_um, x_um))

    def move_z_to_um(self, z_um: float) -> None:
        """Send the focus drive; raise a StageError if it must not go there."""
        self.approve("z", (z_um,))
        self._call(lambda: self.driver.move_z_to_um(z_um))

    def approve(self, axis: str, goal: tuple[float, ...]) -> None:
        """Check a move that the caller is about to make, and expect it.

        Raises
        ------
        RefusedError
            It must not be made.
        """
        if self._halted is not None:
            raise RefusedError(f"halted: {self._halted}")
        here = axis_values(self.position_um(), axis)
        self._require_inside(axis, goal)
        way_um = self._allowed_way(axis, here, goal)
        with self._lock:
            before = self._orders.get(axis)
            now_s = self._clock()
            if before is None:
                self._orders[axis] = Order(goal, here, now_s, now_s)
            else:
                before.goal = goal
            self.travelled_um[axis] += way_um
            self._seen = None
        if self._halted is not None:  # between the first look at it and now
            raise RefusedError(f"halted: {self._halted}")

    def stop(self) -> None:
        """Make the stage stand still; returns within 50 ms whatever the driver does."""
        self._stop_is_due = self._stops.is_hung
        try:
            self._stops(self.driver.stop, STOP_WITHIN_S)
        except NoReplyError:
            pass  # it is under way, or will be when the driver is back
        except Exception as error:  # hardware may raise anything
            self._event(events.StageFailed(reason=f"stop: {error}"))
        finally:
            with self._lock:
                self._orders.clear()
                self._rest.clear()

    def look_quickly(self) -> bool:
        """Read the stage, if the driver answers within 5 ms; return whether it did."""
        try:
            self.look(READ_AFTER_STOP_S)
        except Exception:  # hardware may raise anything; the next reading will tell
            return False
        return True

    def close(self) -> None:
        """End the threads; a call that still comes starts them again."""
        self._calls.close()
        self._stops.close()

    def set_property(self, do: Callable[[], None]) -> None:
        """Run a call that sets a property of the same hardware, with its deadline."""
        if self._halted is not None:
            raise RefusedError(f"halted: {self._halted}")
        self._call(do)

    # ---- within limits ---------------------------------------------------------------

    def _require_inside(self, axis: str, goal: tuple[float, ...]) -> None:
        limits = self._settings.limits
        boxes: list[tuple[float, float] | None] = [None]
        if limits is not None:
            boxes = [limits.z_um] if axis == "z" else [limits.y_um, limits.x_um]
        for value, box in zip(goal, boxes, strict=False):
            if box is None:
                raise RefusedError(f"no travel limits for {axis}; nothing moves there.")
            if not box[0] <= value <= box[1]:  # NaN is outside, too
                raise RefusedError(
                    f"{axis}: motor goal {value:.6g} um is outside the travel limits "
                    f"[{box[0]}, {box[1]}]."
                )

    def _allowed_way(
        self, axis: str, here: tuple[float, ...], goal: tuple[float, ...]
    ) -> float:
        settings, way_um = self._settings, math.dist(here, goal)
        longest_um = settings.max_z_step_um if axis == "z" else settings.max_step_um
        if not way_um <= longest_um * (1 + 1e-6) + 1e-9:  # NaN: place unknown
            raise RefusedError(
                f"{axis}: a motor step of {way_um:.6g} um; at most {longest_um} um."
            )
        most_um = settings.max_z_travel_um if axis == "z" else math.inf
        if self.travelled_um[axis] + way_um > most_um:
            reason = (
                f"the focus drive has travelled {most_um:g} um since it was armed "
                "(control.max_z_travel_um): is the focus found at all?"
            )
            self.halt(reason, stop=False)
            raise RefusedError(reason)
        return way_um

    # ---- what was sent against what is there -----------------------------------------

    def _compare(self, t_s: float, is_busy: bool, position: StagePosition) -> None:
        problem, foreign = "", []
        with self._lock:
            self._seen = (self._clock(), is_busy, position)
            for axis in AXES:
                here = axis_values(position, axis)
                if not all(map(math.isfinite, here)):
                    continue
                if axis in self._orders:
                    problem = problem or self._judge(axis, here, is_busy, t_s)
                elif not is_busy:
                    rest = self._rest.setdefault(axis, here)
                    if math.dist(rest, here) > self._tolerance_um(axis):
                        foreign.append((axis, rest, here))
                        self._rest[axis] = here
            problem = problem or self._judge_busy(is_busy, position, t_s)
        if not self._settings.armed:
            return  # a dry run moves nothing, and stops nobody
        for axis, was, now in foreign:
            self._event(
                events.StageMovedByOther(axis=axis, from_um=list(was), to_um=list(now))
            )
        if problem and self._halted is None:
            self.halt(problem)

    def _judge(
        self, axis: str, here: tuple[float, ...], is_busy: bool, t_s: float
    ) -> str:
        """Confirm the order of an axis, or return why the stage does not obey."""
        order, limit_s = self._orders[axis], self._settings.confirm_s
        was_watched = t_s - order.seen_s <= limit_s / 2  # else there is nothing to tell
        order.seen_s = t_s
        way_um, whole_um = math.dist(order.start, order.goal), self._tolerance_um(axis)
        tolerance_um = min(max(way_um / 2, whole_um / 2), whole_um)
        if math.dist(here, order.goal) <= tolerance_um and not is_busy:
            del self._orders[axis]
            self._rest[axis] = here
            self.n_confirmed += 1
            return ""
        nearer_um = _along(order.start, order.goal, here)
        if is_busy or nearer_um >= tolerance_um / 2 or not was_watched:
            order.start, order.since_s = here, t_s
        if t_s - order.since_s <= limit_s:
            return ""
        return (
            f"the stage does not obey: {axis} was sent to {_text(order.goal)} um and "
            f"is at {_text(here)} um after {t_s - order.since_s:.2g} s. Check its "
            "controller, its limits and who else moves it; then arm again."
        )

    def _judge_busy(self, is_busy: bool, position: StagePosition, t_s: float) -> str:
        """Return what is wrong with a stage that is busy and goes nowhere."""
        here = tuple(v for v in position if math.isfinite(v))
        since_s, seen_s, there = self._busy or (t_s, t_s, here)
        limit_s = BUSY_FACTOR * self._settings.confirm_s
        has_moved = len(here) != len(there) or math.dist(here, there) > (
            self._settings.confirm_z_um / 2
        )
        if not is_busy:
            self._busy = None
        elif has_moved or t_s - seen_s > limit_s / 2:
            self._busy = (t_s, t_s, here)
        else:
            self._busy = (since_s, t_s, there)
        if self._busy is None or t_s - self._busy[0] <= limit_s:
            return ""
        return (
            f"the stage has called itself busy for {limit_s:g} s and stands still at "
            f"{_text(here)} um. Check its controller; then arm again."
        )

    def _tolerance_um(self, axis: str) -> float:
        settings = self._settings
        return settings.confirm_z_um if axis == "z" else settings.confirm_um

    def _event(self, details: events.Details) -> None:
        self._tell(details.at(self._clock()))

    # ---- calls -----------------------------------------------------------------------

    def _call(self, do: Callable[[], T], within_s: float | None = None) -> T:
        try:
            return self._calls(do, within_s or self.reply_within_s)
        except NoReplyError as error:
            why = f"no reply from the stage for {self._calls.hung_s:.2g} s"
            if self._halted is None and within_s is None:
                self.halt(why)
            raise StageError(why) from error

    def _stop_late_move(self) -> None:
        """Stop what a call did that returned after everybody had given it up."""
        if self._halted is not None and self._settings.armed:
            self.stop()

    def _repeat_stop(self) -> None:
        """Stop again, if that was asked for while a stop hung."""
        if self._stop_is_due:
            self._stop_is_due = False
            self.driver.stop()


def _along(
    start: tuple[float, ...], goal: tuple[float, ...], here: tuple[float, ...]
) -> float:
    """Return how far `here` lies from `start` in the direction of `goal`."""
    way_um = math.dist(start, goal)
    if way_um == 0:
        return 0.0
    parts = zip(start, goal, here, strict=True)
    return sum((h - s) * (g - s) for s, g, h in parts) / way_um


def _text(place: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in place) + ")"
