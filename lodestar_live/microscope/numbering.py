"""The numbers that hosts give to images, as one count that never starts again.

MMCore numbers the images of every hardware sequence from 0, and every acquisition its
time points. What a run needs is one count per camera in which the same number is the
same image, a lower one came late and a jump was lost.
"""

from __future__ import annotations

from collections import OrderedDict

_REMEMBERED = 128  # images of one camera that a late one is compared with


class SourceNumbers:
    """Turn the raw numbers of one camera into a count without restarts.

    A number lower than the last is a new start if its stamp is later, or if nothing
    carries a stamp and it is 0; else the image is late or the same again.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, tuple[int, float | None]] = OrderedDict()
        self._last: tuple[int, int, float | None] | None = None  # raw, count, stamp
        self._stride = 0

    def count(self, raw: int, stamp_s: float | None) -> int:
        """Return the count of an image.

        Parameters
        ----------
        raw
            The host's own number.
        stamp_s
            The host's own time stamp, on any clock; None if it has none.
        """
        if self._last is None:
            return self._note(raw, 0, stamp_s)
        last_raw, last, last_stamp_s = self._last
        if raw > last_raw:
            step = raw - last_raw
            self._stride = min(self._stride or step, step)
            return self._note(raw, last + round(step / self._stride), stamp_s)
        is_again = raw in self._seen and self._seen[raw][1] == stamp_s
        if is_again and (stamp_s is not None or (raw and self._stride)):
            return self._seen[raw][0]
        if self._is_new_start(raw, stamp_s, last_stamp_s):
            self._seen.clear()
            return self._note(raw, last + 1, stamp_s)
        return last - max(round((last_raw - raw) / self._stride), 1)

    def _is_new_start(
        self, raw: int, stamp_s: float | None, last_stamp_s: float | None
    ) -> bool:
        if stamp_s is not None and last_stamp_s is not None:
            return stamp_s > last_stamp_s or not self._stride
        return raw == 0 or not self._stride

    def _note(self, raw: int, count: int, stamp_s: float | None) -> int:
        self._last = raw, count, stamp_s
        self._seen[raw] = count, stamp_s
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return count
