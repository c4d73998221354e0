"""The page ends when it is told to, whoever started it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.mark.parametrize("word", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_page_also_where_it_was_ignored(tmp_path: Path, word) -> None:
    number = getattr(signal, word)
    command = [sys.executable, "-u", "-m", "lodestar_live", "start", "--no-browser"]
    with subprocess.Popen(
        [*command, "--port", "0", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
        cwd=Path(__file__).resolve().parents[2],
    ) as process:
        assert "http://" in process.stdout.readline()
        try:
            # the handlers are set right after the address is told
            for _ in range(30):
                process.send_signal(number)
                try:
                    process.wait(1.0)
                    break
                except subprocess.TimeoutExpired:
                    continue
            assert process.returncode is not None
        finally:
            process.kill()
