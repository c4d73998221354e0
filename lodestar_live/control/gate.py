"""The safety gate: the only way from this package to any actuator.

A command passes when it is finite, inside the travel box, not too long a step, not too
frequent, made from fresh data, alone in flight, and nothing has called a halt. Whatever
passes is recorded, and whatever is refused is recorded with its reason. Without arming
the same checks run and nothing is sent (dry run). What passes goes to the supervisor,
which has the last word.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from lodestar_live import events
from lodestar_live.control.backlash import BacklashStage
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
from lodestar_live.control.driver import KnowsDrives, PropertyDriver, StageDriver
from lodestar_live.control.moves import MoveLog
from lodestar_live.control.supervisor import RefusedError, Supervisor
from lodestar_live.data import Event, StagePosition
from lodestar_live.errors import SettingsError
from lodestar_live.settings import ControlSettings

MAX_FAILURES = 3
CYCLES_ALLOWED = 3  # until a frame is there, and what a driver waits for the camera


class SafetyGate:
    """Checks every command and sends those that pass.

    Parameters
    ----------
    driver
        The stage: a driver, which gets a supervisor of its own, or with `supervisor`
        what stands before it.
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
    supervisor
        Owns the stage behind `driver`.

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
        supervisor: Supervisor | None = None,
    ) -> None:
        self.settings, self.moves = settings, moves
        if supervisor is None:
            supervisor = Supervisor(driver, settings, clock=clock, tell=tell)
            driver = supervisor
        self.supervisor, self.cycle_s = supervisor, 0.0  # exposure + readout
        self._driver, self._properties = driver, properties
        self._moves_at_once = moves_at_once
        self._clock, self._tell = clock, tell
        self._lock = threading.Lock()
        self._t_sent_s = {"xy": -math.inf, "z": -math.inf}
        self._t_data_s = {"xy": -math.inf, "z": -math.inf}
        self._failures = 0
        if settings.armed:
            self._require_limits()
            supervisor.forget_reading()

    @property
    def halted(self) -> str | None:
        """Why nothing may move, or None."""
        return self.supervisor.halted

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
            reason = reason or self._drive(device)
            if reason:
                return self._refuse(events.PropertyRefused(reason=reason, **details))
            details["value"] = text
            if not self.is_armed or self._properties is None:
                return self._dry_run(events.PropertyDryRun(**details))
            properties = self._properties
            return self._send(
                events.PropertySet(**details),
                lambda: self.supervisor.set_property(
                    lambda: properties.set_property(device, name, text)
                ),
                details,
            )

    def stop(self, reason: str) -> None:
        """Make the stage stand still at once and refuse everything until `allow`.

        Answers within 50 ms, whatever the driver does: a command that another thread
        is just sending is followed by a second stop.
        """
        self.supervisor.refuse_all(reason)
        self.stand_still()
        self._event(events.StageStopped(reason=reason))

    def refuse_all(self, reason: str) -> None:
        """Send nothing from now on; one assignment, so a signal handler may call it."""
        self.supervisor.refuse_all(reason)

    def hold(self, reason: str) -> None:
        """Refuse everything until `allow`; the move under way may end."""
        self.supervisor.refuse_all(reason)
        self._event(events.StageHeld(reason=reason))

    def stand_still(self) -> None:
        """Stop the stage where it is; fresh commands are taken again."""
        if self.is_armed:
            self.supervisor.stop()
            self._note_where_it_stopped()

    def allow(self) -> None:
        """Take back a stop or hold, after a person asked for it on purpose.

        Raises
        ------
        StageError
            The run has ended, or the driver still hangs.
        """
        after, self._failures = self.halted, 0
        self.supervisor.arm()
        if after is not None:
            self._event(events.StageAllowed(after=after))

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
        return self.halted is None and not is_soon and not self.is_busy()

    def now_s(self) -> float:
        """Return the run's time."""
        return self._clock()

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
                self.moves.moved(t_sent_s, self._arrives(axis, goal))
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
        if self.halted is not None:
            return f"halted: {self.halted}"
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
        oldest_s = settings.max_age_s + CYCLES_ALLOWED * self.cycle_s
        if not 0 <= now_s - t_data_s <= oldest_s:
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
        if self.halted is not None:
            return "", f"halted: {self.halted}"
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

    def _arrives(self, axis: str, goal: StagePosition) -> StagePosition:
        """Where a move will end: play may need more than one of the longest steps."""
        if axis == "z" or not isinstance(self._driver, BacklashStage):
            return goal
        return StagePosition(goal.z_um, *self._driver.arrives_um(*goal[1:]))

    def _drive(self, device: str) -> str:
        """Return why a property of a drive is not set: it would go round the limits."""
        properties: object = self._properties
        if not isinstance(properties, KnowsDrives):
            return ""
        try:
            is_drive = properties.is_drive(device)
        except Exception as error:  # hardware may raise anything
            return f"whether {device!r} drives the stage is not known: {error}"
        if not is_drive:
            return ""
        return (
            f"{device!r} drives the stage or the focus, and the travel limits do not "
            "hold for properties; expected another device"
        )

    def _move(self, axis: str, goal: StagePosition) -> None:
        if axis == "z":
            self._driver.move_z_to_um(goal.z_um)
        else:
            self._driver.move_to_um(goal.y_um, goal.x_um)

    def _send(
        self, sent: events.Details, call: Callable[[], None], where: dict[str, Any]
    ) -> Verdict:
        try:
            call()
        except RefusedError as error:
            self._note_where_it_stopped()
            return self._refuse(_refused(sent, str(error)))
        except Exception as error:  # hardware may raise anything; it must not spread
            return self._failed(error, where)
        self._failures = 0
        self._event(sent)
        if self.halted is not None:  # stopped while the call was under way
            self.stand_still()
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

    def _note_where_it_stopped(self) -> None:
        if self.is_armed and self.supervisor.look_quickly():
            self.moves.stopped(self._clock(), self._driver.position_um())

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


def _refused(
    sent: events.Details, reason: str
) -> events.StageRefused | events.PropertyRefused:
    if isinstance(sent, events.PropertySet):
        return events.PropertyRefused(**sent.as_json(), reason=reason)
    return events.StageRefused(**sent.as_json(), reason=reason)
