"""What one run has of a microscope: always the same one, let go of at its end."""

from __future__ import annotations

from lodestar_live.microscope.bridge import is_in_use
from lodestar_live.microscope.core import (
    Microscope,
    active_core,
    has_active_core,
    open_microscope,
)
from lodestar_live.microscope.snaps import note_snaps
from lodestar_live.microscope.stage import CoreStage
from lodestar_live.settings import MicroscopeSettings


class Access:
    """A run's hold on one microscope.

    Parameters
    ----------
    is_own
        The microscope was opened for this run, and is closed with it.
    """

    def __init__(
        self, microscope: Microscope, settings: MicroscopeSettings, *, is_own: bool
    ) -> None:
        self.microscope, self._is_own = microscope, is_own
        self.stage = CoreStage(
            microscope, xy=settings.xy_stage or "", z=settings.z_stage or ""
        )
        self._forget = note_snaps(microscope.core) if microscope.is_python else None

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        if self._forget is not None:
            self._forget()
            self._forget = None
        self.stage.close()
        if self._is_own:
            self.microscope.close()


def reach(
    settings: MicroscopeSettings, given: Microscope | None, *, is_needed: bool
) -> Access | None:
    """Take hold of the microscope a run is about; None where there is none.

    The one that is given; else the core of this process; else the Micro-Manager at
    ``settings.port``, if the stage is needed or this process talks to it already.

    Raises
    ------
    LodestarError
        The named stage does not exist, or a Micro-Manager that is needed is not there.
    """
    if given is not None:
        return Access(given, settings, is_own=False)
    if has_active_core():
        return Access(active_core(), settings, is_own=False)
    if settings.backend == "running" and (is_needed or is_in_use(settings.port)):
        return Access(open_microscope(settings), settings, is_own=True)
    return None
