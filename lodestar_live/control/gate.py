"""The safety gate: the only way from this package to any actuator.

A command passes when it is finite, inside the travel box, not too long a step, not too
frequent, made from fresh data, alone in flight, and nothing has called a halt. Whatever
passes is recorded, and whatever is refused is recorded with its reason. Without arming
the same checks run and nothing is sent (dry run).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from lodestar_live import events
from lodestar_live.control.commands import (
    NAN,
    Verdict,
    axis_values,
    finite_or_none,
    named,
    rate_hz,
    require_inside,
    shortest_s,
    to_number,
)
from lodestar_live.control.driver import PropertyDriver, StageDriver
from lodestar_live.control.moves import MoveLog
from lodestar_live.data import Event, StagePosition
from lodestar_live.errors import SettingsError
from lodestar_live.settings import ControlSettings

MAX_FAILURES = 3
SLOW_REPLY_S = 0.5


class SafetyGate:
    """Checks every command and sends those that pass.

    Parameters
    ----------
    driver
        The stage.
    settings
        Limits, steps, rates; `armed` says whether anything is sent at all.
    clock
        Monotonic seconds since the run's start, the clock of frames.
    tell
        Takes an event for every command, refusal and stop.
    moves
        Log in which own moves are noted.
    properties
        Where device properties are set. None: none may be set.
    moves_at_once
        False: moves in the plane wait for an event, and the driver notes them itself.

    Raises
    ------
    SettingsError
        Armed without travel limits.
    StageError
        Armed while the stage stands outside its limits.
    """

    def __init__(
        self,
        driver: StageDriver,
        settings: ControlSettings,
        *,
        clock: Callable[[], float],
        tell: Callable[[Event], None],
        moves: MoveLog,
        properties: PropertyDriver | None = None,
        moves_at_once: bool = True,
    ) -> None:
        self.settings, self.moves = settings, moves
        self._driver, self._properties = driver, properties
        self._moves_at_once = moves_at_once
        self._clock, self._tell = clock, tell
        self._lock = threading.Lock()
        self._halted: str | None = None
        self._t_sent_s = {"xy": -math.inf, "z": -math.inf}
        self._t_data_s = {"xy": -math.inf, "z": -math.inf}
        self._failures = 0
        self._call_began_s: float | None = None
        if settings.armed:
            self._require_limits()

    @property
    def halted(self) -> str | None:
        """Why nothing may move, or None."""
        return self._halted

    @property
    def is_armed(self) -> bool:
        """True when commands that pass are really sent."""
        return self.settings.armed

    def move_xy(
        self,
        y_um: Any,
        x_um: Any,
        *,
        t_data_s: Any,
        stage_known: bool = False,
        **details: Any,
    ) -> Verdict:
        """Ask for a move in the plane.

        Parameters
        ----------
        y_um, x_um
            Absolute goal.
        t_data_s
            Exposure of the newest frame the command rests on.
        stage_known
            The stage position at that exposure came from the move log. Otherwise a
            frame exposed before the last own move had settled is refused.
        details
            For the record: track, error, prediction.
        """
        goal = StagePosition(NAN, to_number(y_um), to_number(x_um))
        return self._command("xy", goal, to_number(t_data_s), stage_known, details)

    def move_z(self, z_um: Any, *, t_data_s: Any, **details: Any) -> Verdict:
        """Ask for a focus move.

        Stricter than the plane: own limits, short steps, low rate, and never from a
        frame exposed before the last focus move had settled.
        """
        goal = StagePosition(to_number(z_um), NAN, NAN)
        return self._command("z", goal, to_number(t_data_s), False, details)

    def set_property(self, device: str, name: str, value: Any) -> Verdict:
        """Ask for a device property; only those listed in the settings pass."""
        details = {"device": device, "name": name, "value": str(value)}
        with self._lock:
            text, reason = self._checked_property(f"{device} {name}", value)
            if reason:
                return self._refuse(events.PropertyRefused(reason=reason, **details))
            details["value"] = text
            if not self.is_armed or self._properties is None:
                return self._dry_run(events.PropertyDryRun(**details))
            properties = self._properties
            return self._send(
                events.PropertySet(**details),
                lambda: properties.set_property(device, name, text),
                details,
            )

    def stop(self, reason: str) -> None:
        """Make the stage stand still at once and refuse everything until `allow`.

        Waits for nothing: a command that another thread is just sending is followed
        by a second stop from that thread.
        """
        self._halted = reason
        if self.is_armed:
            self._stop_driver()
        self._event(events.StageStopped(reason=reason))

    def refuse_all(self, reason: str) -> None:
        """Send nothing from now on; one assignment, so a signal handler may call it."""
        self._halted = reason

    def hold(self, reason: str) -> None:
        """Refuse everything until `allow`; the move under way may end."""
        self._halted = reason
        self._event(events.StageHeld(reason=reason))

    def stand_still(self) -> None:
        """Stop the stage where it is; fresh commands are taken again."""
        if self.is_armed:
            self._stop_driver()

    def allow(self) -> None:
        """Take back a stop or hold, after a person asked for it."""
        if self._halted is not None:
            self._event(events.StageAllowed(after=self._halted))
        self._halted, self._failures = None, 0

    def check_reply(self) -> None:
        """Hold when the stage has not answered a call for half a second."""
        began_s = self._call_began_s
        if began_s is not None and self._clock() - began_s > SLOW_REPLY_S:
            self._call_began_s = None
            self.hold(f"no reply from the stage for {SLOW_REPLY_S} s")

    def is_busy(self) -> bool:
        """Return whether the last move still runs; a stage that cannot say is busy."""
        try:
            return bool(self._driver.is_busy())
        except Exception:  # hardware may raise anything
            return True

    def is_ready(self, axis: str) -> bool:
        """Return whether a command for "xy" or "z" could pass just now.

        Asked before, so that a busy stage or a fast camera is no refusal.
        """
        elapsed_s = self._clock() - self._t_sent_s[axis]
        is_soon = elapsed_s < shortest_s(self.settings, axis)
        return self._halted is None and not is_soon and not self.is_busy()

    def t_sent_s(self, axis: str) -> float:
        """Return when the last command for "xy" or "z" passed; -inf: never."""
        return self._t_sent_s[axis]

    def read_position(self) -> StagePosition:
        """Read the stage and note it in the log; NaN when it cannot be read.

        What is read on the way is not noted: it would look as if the move had ended
        there, and the next command would make up for it once more.
        """
        is_resting = not self.is_busy()
        try:
            position = StagePosition(*(float(v) for v in self._driver.position_um()))
        except Exception:  # hardware may raise anything
            return StagePosition()
        if is_resting:
            self.moves.read(self._clock(), position)
        return position

    def limits_for(self, axis: str) -> tuple[tuple[float, float], ...] | None:
        """Return the limits of "xy" as (y, x), of "z" as (z,); None: not set."""
        limits = self.settings.limits
        if limits is None:
            return None
        if axis == "xy":
            return (limits.y_um, limits.x_um)
        return None if limits.z_um is None else (limits.z_um,)

    def _command(
        self,
        axis: str,
        goal: StagePosition,
        t_data_s: float,
        stage_known: bool,
        details: dict[str, Any],
    ) -> Verdict:
        where = {"axis": axis, **named(goal, axis)}
        facts = {**where, "t_data_s": finite_or_none(t_data_s), **details}
        move = events.StageMove(**facts)  # an unknown field shows before anything moves
        with self._lock:
            now_s = self._clock()
            reason = self._why_not(axis, goal, now_s, t_data_s, stage_known)
            if reason:
                return self._refuse(events.StageRefused(reason=reason, **facts))
            # The checks asked the stage, which may have taken a whole exposure.
            t_sent_s = self._clock()
            self._t_sent_s[axis], self._t_data_s[axis] = t_sent_s, t_data_s
            if not self.is_armed:
                return self._dry_run(events.StageDryRun(**facts))
            if axis == "z" or self._moves_at_once:
                self.moves.moved(t_sent_s, goal)
            return self._send(move, lambda: self._move(axis, goal), where)

    def _why_not(
        self,
        axis: str,
        goal: StagePosition,
        now_s: float,
        t_data_s: float,
        stage_known: bool,
    ) -> str:
        """Return why a move must not be made; empty when it may."""
        values = axis_values(goal, axis)
        if self._halted is not None:
            return f"halted: {self._halted}"
        if not all(map(math.isfinite, values)):
            return "not a finite position"
        return (
            self._outside(axis, values)
            or self._wrong_time(axis, now_s, t_data_s, stage_known)
            or self._too_far(axis, values)
            or ("the last move still runs" if self.is_busy() else "")
        )

    def _outside(self, axis: str, values: tuple[float, ...]) -> str:
        limits = self.limits_for(axis)
        if limits is None:
            return f"no travel limits for {axis}" if self._needs_limits(axis) else ""
        for value, (low, high) in zip(values, limits, strict=True):
            if not low <= value <= high:
                return f"outside the travel limits: {value:.6g} not in [{low}, {high}]"
        return ""

    def _needs_limits(self, axis: str) -> bool:
        return self.is_armed or axis == "z"

    def _wrong_time(
        self, axis: str, now_s: float, t_data_s: float, stage_known: bool
    ) -> str:
        settings = self.settings
        if now_s - self._t_sent_s[axis] < shortest_s(settings, axis):
            return f"more than {rate_hz(settings, axis)} moves per second"
        if not 0 <= now_s - t_data_s <= settings.max_age_s:
            return f"made from a frame {now_s - t_data_s:.3g} s old"
        settled_s = self._t_sent_s[axis] + self.moves.response.settle_s
        since = self._t_data_s[axis] if stage_known else settled_s
        if t_data_s < since:
            return "made from a frame older than the last own move"
        return ""

    def _too_far(self, axis: str, values: tuple[float, ...]) -> str:
        longest = self.settings.max_z_step_um if axis == "z" else None
        longest = longest or self.settings.max_step_um
        here = axis_values(self.read_position(), axis)
        step_um = math.dist(values, here)
        if not step_um <= longest * (1 + 1e-9):  # NaN: position unknown
            return f"a step of {step_um:.6g} um; at most {longest} um"
        return ""

    def _checked_property(self, name: str, value: Any) -> tuple[str, str]:
        """Return the text to set, which is what was checked, and why not to."""
        if self._halted is not None:
            return "", f"halted: {self._halted}"
        allowed = self.settings.properties.get(name)
        if allowed is None:
            return "", f"{name!r} is not among control.properties"
        for word in allowed:
            if isinstance(word, str) and value == word:
                return word, ""
        number = NAN if isinstance(allowed[0], str) else to_number(value)
        if math.isfinite(number) and float(allowed[0]) <= number <= float(allowed[1]):
            return f"{int(number) if number.is_integer() else number!r}", ""
        return "", f"{value!r} is not allowed for {name!r}: {list(allowed)}"

    def _move(self, axis: str, goal: StagePosition) -> None:
        if axis == "z":
            self._driver.move_z_to_um(goal.z_um)
        else:
            self._driver.move_to_um(goal.y_um, goal.x_um)

    def _send(
        self, sent: events.Details, call: Callable[[], None], where: dict[str, Any]
    ) -> Verdict:
        self._call_began_s = self._clock()
        try:
            call()
        except Exception as error:  # hardware may raise anything; it must not spread
            return self._failed(error, where)
        finally:
            self._call_began_s = None
        self._failures = 0
        self._event(sent)
        if self._halted is not None:  # stopped while the call was under way
            self._stop_driver()
        return Verdict(True, "sent")

    def _failed(self, error: Exception, where: dict[str, Any]) -> Verdict:
        self._failures += 1
        reason = f"{type(error).__name__}: {error}"
        self._event(events.StageFailed(reason=reason, **where))
        if self._failures >= MAX_FAILURES:
            self.hold(f"the stage failed {self._failures} times in a row: {reason}")
        return Verdict(False, reason)

    def _refuse(self, refused: events.StageRefused | events.PropertyRefused) -> Verdict:
        self._event(refused)
        return Verdict(False, refused.reason)

    def _dry_run(self, details: events.Details) -> Verdict:
        self._event(details)
        return Verdict(True, "dry run")

    def _stop_driver(self) -> None:
        try:
            self._driver.stop()
            position = StagePosition(*(float(v) for v in self._driver.position_um()))
            self.moves.stopped(self._clock(), position)
        except Exception as error:  # hardware may raise anything
            self._event(events.StageFailed(reason=f"stop: {error}"))

    def _event(self, details: events.Details) -> None:
        self._tell(details.at(self._clock()))

    def _require_limits(self) -> None:
        limits = self.settings.limits
        if limits is None:
            raise SettingsError(
                "control.armed = true, but control.limits is missing; expected the "
                "travel box, e.g. limits = { y_um = [-500, 500], x_um = [-500, 500] }. "
                "Micro-Manager cannot tell it."
            )
        require_inside(StagePosition(*self._driver.position_um()), limits)
