"""What happened to images before they came here, by the source's own numbers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

from lodestar_live.data import Frame

_REMEMBERED = 1024  # numbers of one camera
_MOST_LOST = 100_000  # a jump beyond that is another numbering, not a loss


class Verdict(NamedTuple):
    """Whether a frame is what should come next, and how many are missing before it."""

    fault: Literal["", "duplicated", "disordered"] = ""
    n_lost: int = 0


class Upstream:
    """Compare the numbers of each camera's frames with what came before.

    See `lodestar_live.sources.Reception.take` for what the numbers mean.
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._seen: dict[str, OrderedDict[int, None]] = {}

    def judge(self, frame: Frame) -> Verdict:
        """Return what the frame's number says; nothing for a frame without one."""
        number = frame.source_number
        if number is None:
            return Verdict()
        seen = self._seen.setdefault(frame.camera, OrderedDict())
        newest = self._newest.get(frame.camera)
        is_known = number in seen
        seen[number] = None
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)
        if newest is not None and number <= newest:
            return Verdict("duplicated" if is_known else "disordered")
        self._newest[frame.camera] = number
        n_lost = 0 if newest is None else number - newest - 1
        return Verdict("", n_lost if n_lost <= _MOST_LOST else 0)
