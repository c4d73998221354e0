"""Why no frames come, in one sentence: the first cause, not what followed from it."""

from __future__ import annotations

import re
import time

from lodestar_live.microscope.bridge import give_up, listens
from lodestar_live.microscope.core import Microscope, MicroscopeError
from lodestar_live.microscope.engine import within

RETRIES = 5  # failures in a row, without a frame between them, that are survived
_ANSWER_WITHIN_S = 1.0
_SILENCES = 4  # in a row, after which the acquisition starts anew
_JAVA_CLASS = re.compile(r"^(?:java|mmcorej|org)\.[\w.$]+: ")


class UncurableError(MicroscopeError):
    """A cause that trying again does not mend."""


def first_line(error: BaseException) -> str:
    """Return an error's first line without Java's class names and stack."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    line = text[0]
    while _JAVA_CLASS.match(line):
        line = _JAVA_CLASS.sub("", line)
    return line or type(error).__name__


def require_ready(microscope: Microscope) -> None:
    """Refuse an acquisition that could only fail or wait.

    Raises
    ------
    MicroscopeError
        Micro-Manager is gone, has no camera, runs Live, or shows colours.
    """
    cause = find_cause(microscope, in_sequence=False)
    if cause:
        raise UncurableError(f"{microscope.name}: {cause}")
    core = microscope.core
    n_components = int(core.get_number_of_components())
    if n_components != 1:
        raise UncurableError(
            f"{microscope.name}: camera {core.get_camera_device()} sends colour images "
            f"({n_components} components per pixel); expected grey ones. Set its "
            "PixelType to 8bit or 16bit."
        )


def find_cause(
    microscope: Microscope,
    *,
    in_sequence: bool,
    shape: tuple[int, int] | None = None,
) -> str:
    """Ask a microscope what is wrong; "" when it finds nothing.

    Parameters
    ----------
    in_sequence
        A sequence of our own may run just now.
    shape
        (height, width) of its images before the trouble.
    """
    if not microscope.is_python and not listens(microscope.port):
        return "it is gone: it has ended or crashed. Start it and run again."

    def ask() -> str:
        core = microscope.core
        if not core.get_camera_device():
            return "no camera is set (Core-Camera is empty). Load the configuration."
        if not in_sequence and core.is_sequence_running():
            return (
                "Live or another acquisition is on. Stop it, or watch it with "
                'acquisition.source = "watch".'
            )
        now = int(core.get_image_height()), int(core.get_image_width())
        if shape is not None and now != shape:
            return (
                f"the ROI or binning was changed during the run ({shape[1]} x "
                f"{shape[0]} px before, {now[1]} x {now[0]} px now)."
            )
        return ""

    try:
        return within(_ANSWER_WITHIN_S, ask, "it")
    except MicroscopeError:
        if not microscope.is_python:
            give_up(microscope.port)
        return "it does not answer (stalled, or its camera's driver is stuck)."
    except Exception as error:
        return first_line(error)


class Patience:
    """How many failures in a row are survived, and how long a silence.

    Parameters
    ----------
    silent_s
        Without a frame for so long the cause is asked for.
    """

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._n_seen, self._n_in_a_row, self._n_silent = 0, 0, 0
        self._since_s = time.perf_counter()
        self.n_failures = 0

    def saw(self, n_frames: int) -> None:
        """Note how many frames have come so far."""
        if n_frames != self._n_seen:
            self._n_seen, self._n_in_a_row, self._n_silent = n_frames, 0, 0
            self._since_s = time.perf_counter()

    def is_silent(self) -> bool:
        """Tell, once per such time, that nothing has come for too long."""
        if time.perf_counter() - self._since_s < self._silent_s:
            return False
        self._since_s = time.perf_counter()
        self._n_silent += 1
        return True

    def is_spent(self) -> bool:
        """Tell whether a silence without a visible cause has lasted too long.

        A busy machine, or a camera that takes seconds to start, is no failure.
        """
        return self._n_silent >= _SILENCES

    def spend(self, error: BaseException) -> None:
        """Count a failure.

        Raises
        ------
        MicroscopeError
            It was the last that is survived; with the cause.
        """
        self.n_failures += 1
        self._n_in_a_row += 1
        if self._n_in_a_row >= RETRIES:
            raise UncurableError(
                f"the camera failed {RETRIES} times in a row, last with: "
                f"{first_line(error)}"
            ) from error
        time.sleep(0.02 * 2**self._n_in_a_row)
