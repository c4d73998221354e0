"""Who gives way to whom on busy cores: the camera first, then tracking, then the rest.

Niceness is what Linux and macOS call it: of two that want one core, who is nicer by 5
gets a quarter of the time. Windows has classes of priority for processes instead.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import psutil
from threadpoolctl import threadpool_limits

TRACKING = 10  # nicer than the camera's thread and MMCore
BESIDE = 15  # nicer than tracking: training, and pages, during a run
_NICEST = 19
_lowered = threading.local()  # set in threads that were lowered
_TURN_S = 50e-6  # of one thread in the interpreter while another waits for it
_live_lock = threading.Lock()
_live_runs: set[object] = set()
_live_limits: list[threadpool_limits] = []
_live_before: list[float] = []  # the switch interval, while there are runs


def lower_process(pid: int, by: int) -> None:
    """Make a process nicer than the caller; on Windows, "below normal"."""
    if sys.platform == "win32":
        psutil.Process(pid).nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + by
        os.setpriority(os.PRIO_PROCESS, pid, min(niceness, _NICEST))


def lower_this_thread(by: int) -> None:
    """Make the calling thread, and those it will start, nicer than they were.

    Only Linux knows the niceness of threads; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        lower_process(threading.get_native_id(), by)
        _lowered.is_so = True


def is_lowered() -> bool:
    """Tell whether `lower_this_thread` was called in this thread."""
    return getattr(_lowered, "is_so", False)


def use_idle_time() -> None:
    """Let the calling thread have what no other thread wants of the cores.

    Niceness shares out time, but who wakes up for a moment, as the engine does some
    thirty times a frame, still waits for the end of a nice thread's turn: 1 to 3 ms.
    Threads of this class make room at once. Only Linux has it.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def live_process() -> Callable[[], None]:
    """Set up this process for live runs: BLAS on one thread, short turns of threads.

    BLAS threads spin: beside one busy process refocusing took six times as long.
    Niceness does not say whose turn it is in the interpreter: the engine asks for it
    some thirty times between two exposures, and with Python's own 5 ms it would wait
    each time until the worker pauses, and the camera with it.

    Returns
    -------
    A function that ends this; may be called twice. What was before is restored when the
    last of several runs has ended, in whatever order they end.
    """
    with _live_lock:
        if not _live_runs:
            _live_before.append(sys.getswitchinterval())
        _live_limits.append(threadpool_limits(limits=1, user_api="blas"))
        sys.setswitchinterval(min(_live_before[0], _TURN_S))
        run = object()
        _live_runs.add(run)

    def end() -> None:
        with _live_lock:
            if run not in _live_runs:
                return
            _live_runs.discard(run)
            if not _live_runs:
                while _live_limits:  # a library that was loaded later is in a later one
                    _live_limits.pop().restore_original_limits()
                sys.setswitchinterval(_live_before.pop())

    return end
