"""A stand-in in a process of its own, for a test to talk to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


class Running:
    """One Micro-Manager; several may run, each on its own port."""

    def __init__(
        self, *, port: int = 0, size_px: int = 128, exposure_ms: float = 5.0
    ) -> None:
        arguments = ["--port", port, "--size", size_px, "--exposure-ms", exposure_ms]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.microscope.stand_in", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.port = int(self._read()["port"])

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        assert line, "the stand-in ended"
        return json.loads(line)

    def do(self, verb: str, *args: Any, **named: Any) -> Any:
        """Do something as its user; see `obey` in its main module."""
        message = json.dumps({"do": verb, "args": named or list(args)})
        self._process.stdin.write(message + "\n")
        self._process.stdin.flush()
        return self._read()["answer"]

    def core(self, name: str, *args: Any) -> Any:
        """Call the core in that process, past the bridge."""
        return self.do("core", name, *args)

    def pause(self) -> None:
        """Stall the whole process, as a long garbage collection does."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
