"""Who gives way to whom on busy cores: the camera first, then tracking, then the rest.

Niceness is what Linux and macOS call it: of two that want one core, who is nicer by 5
gets a quarter of the time.
"""

from __future__ import annotations

import os
import sys
import threading

TRACKING = 10  # nicer than the camera's thread and MMCore
BESIDE = 15  # nicer than tracking: training, and pages, during a run
_NICEST = 19


def lower_process(pid: int, by: int) -> None:
    """Make a process nicer than the caller; where there is no niceness, do nothing."""
    if hasattr(os, "setpriority"):
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + by
        os.setpriority(os.PRIO_PROCESS, pid, min(niceness, _NICEST))


def lower_this_thread(by: int) -> None:
    """Make the calling thread, and those it will start, nicer than they were.

    Only Linux knows the niceness of threads; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        lower_process(threading.get_native_id(), by)
