"""What travels to the page: several messages in one binary WebSocket message.

Layout: length of the head (uint32, little-endian), head (JSON), zeros up to a multiple
of 8 bytes, bodies. The head is ``{"parts": [{"topic", "offset", "size", ...}]}``;
offsets count from the start of the bodies, and every body starts at a multiple of 8,
so that a browser reads a matrix as a Float64Array without copying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lodestar_live import channels
from lodestar_live.data import SUMMARY_DTYPE, Rows
from lodestar_live.streams.messages import to_json

TRACK_COLUMNS = (
    "track_id", *(name for name, _ in channels.columns()),
    "vy_px_per_frame", "vx_px_per_frame", "age_frames", "missed_frames", "existence",
)  # fmt: skip
SUMMARY_COLUMNS = SUMMARY_DTYPE.names or ()
DETECTION_COLUMNS = ("y_px", "x_px", "score")


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One message for the page: JSON facts and bytes."""

    topic: str
    facts: Mapping[str, Any]
    body: bytes = b""


def rows_part(
    topic: str, facts: Mapping[str, Any], rows: Rows, columns: Sequence[str]
) -> Part:
    """Return rows as a matrix of float64, column after column."""
    names = [name for name in columns if name in (rows.dtype.names or ())]
    matrix = np.empty((len(names), len(rows)), "<f8")
    for column, name in zip(matrix, names, strict=True):
        column[:] = rows[name]
    return Part(topic, {**facts, "columns": names, "n": len(rows)}, matrix.tobytes())


def pack(parts: Sequence[Part]) -> bytes:
    """Return the bytes of one WebSocket message."""
    offset, heads, bodies = 0, [], []
    for part in parts:
        size = len(part.body)
        place = {"topic": part.topic, "offset": offset, "size": size}
        heads.append({**part.facts, **place})
        bodies += [part.body, bytes(-size % 8)]
        offset += size + -size % 8
    head = to_json({"parts": heads})
    padding = bytes(-(4 + len(head)) % 8)
    return b"".join([len(head).to_bytes(4, "little"), head, padding, *bodies])
