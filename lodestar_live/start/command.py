"""One of our own commands at work in a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

_KEPT_LINES = 200
_ENDS_WITHIN_S = 15.0


def as_typed(words: Sequence[str]) -> str:
    """Return a command as it would be typed in this system's shell."""
    line = ["lodestar-live", *words]
    return subprocess.list2cmdline(line) if os.name == "nt" else shlex.join(line)


class Command:
    """``lodestar-live WORDS`` in a process of its own.

    Parameters
    ----------
    words
        What follows the program's name.
    on_line
        Takes each line of its output, on this object's thread.
    on_end
        Called at the end with None, or with why it failed, on this object's thread.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        on_line: Callable[[str], None] = lambda line: None,
        on_end: Callable[[str | None], None] = lambda why: None,
    ) -> None:
        self._on_line, self._on_end = on_line, on_end
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self.is_cancelled = False
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-u", "-m", "lodestar_live", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8",
                 "COLUMNS": "1000"},
            start_new_session=True,  # Ctrl-C ends the page first, which ends this
        )  # fmt: skip
        self._complaints = threading.Thread(target=self._listen, daemon=True)
        self._thread = threading.Thread(
            target=self._work, name=f"lodestar-{words[0]}", daemon=True
        )
        self._complaints.start()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it is still at work."""
        return self._process.poll() is None

    def end_input(self) -> None:
        """Close its input: the polite word that ends a run."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def cancel(self) -> None:
        """Interrupt it as Ctrl-C does, so that a stage that moves is stopped."""
        self.is_cancelled = True
        if self.is_alive:
            if os.name == "nt":
                self._process.terminate()
            else:
                self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End it, politely first; bounded."""
        self.end_input()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_ENDS_WITHIN_S)

    def _listen(self) -> None:
        if self._process.stderr is not None:
            with self._process.stderr as lines:
                self._said.extend(line.rstrip() for line in lines)

    def _hear(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    self._on_line(line.rstrip("\n"))

    def _work(self) -> None:
        # Its own end counts, not that of its pipes: what it forked may hold them.
        hearing = threading.Thread(target=self._hear, daemon=True)
        hearing.start()
        status = self._process.wait()
        hearing.join(1.0)
        self._complaints.join(1.0)
        self._on_end(None if status == 0 else self._reason(status))

    def _reason(self, status: int) -> str:
        if self.is_cancelled:
            return "cancelled"
        said = "\n".join(self._said)
        _, found, why = said.rpartition("error: ")
        why = " ".join(why.split()[:80]) if found else " ".join(said.split()[-40:])
        return why or f"ended with status {status}"
