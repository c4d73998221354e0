"""A Micro-Manager without Java: its ZeroMQ bridge before the real MMCore demo core.

Written from what `pyjavaz` reads and what a real Java Micro-Manager was seen to send:
tags, order, timing, locks, stalls and death. `python -m tests.microscope.stand_in`
starts one; `Running` does so from a test and plays the user in front of it.
"""

from tests.microscope.stand_in.running import Running

__all__ = ["Running"]
