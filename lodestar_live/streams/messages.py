"""Wire format v1: what one message looks like, both directions.

A message has three parts: topic, UTF-8 JSON header, matrix. The matrix is
little-endian float64, one column per field, column after column, so that any
language decodes it with one cast; see PROTOCOL.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lodestar_live.data import (
    DETECTION_DTYPE,
    SUMMARY_DTYPE,
    SUMMARY_UNITS,
    TRACK_DTYPE,
    UNITS,
    Detections,
    Event,
    Frame,
    Rows,
    StagePosition,
    Tracks,
    blank_rows,
)
from lodestar_live.errors import StreamError

VERSION = 1
TOPICS = (
    "run", "tracks", "detections", "stage", "summary", "status", "event", "end",
    "image",
)  # fmt: skip
GREETING_TOPICS = ("run", "status")  # resent to late joiners
STAGE_DTYPE = np.dtype([("z_um", "f8"), ("y_um", "f8"), ("x_um", "f8")])
_UNITS = {**UNITS, **SUMMARY_UNITS, "y_um": "um", "x_um": "um"}
_FEW = 12  # rows
_MAX_HEADER_BYTES = 1_000_000
_MAX_ROWS = 1_000_000
_DEEPEST = 32  # nesting of JSON that anything here needs, and much more

Header = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message of the stream, decoded.

    Parameters
    ----------
    topic
        One of `TOPICS`; says which of the payloads below is set.
    header
        The whole header; keys unknown to this version are kept.
    missed
        Messages of this topic lost between the previous one and this one.
    age_s
        Time since it was published: exact on the publisher's machine, elsewhere
        relative to the fastest message seen so far.
    image
        Encoded picture of the ``image`` topic, see ``header["encoding"]``.
    summary
        What is known of each track's motion, rows of `SUMMARY_DTYPE`.
    """

    topic: str
    header: Header
    missed: int = 0
    age_s: float = 0.0
    tracks: Tracks | None = None
    detections: Detections | None = None
    stage_um: StagePosition | None = None
    event: Event | None = None
    image: bytes | None = None
    summary: Rows | None = None

    @property
    def frame(self) -> int:
        """Frame index, -1 when the message belongs to no frame."""
        return int(self.header.get("frame", -1))

    @property
    def seq(self) -> int:
        """Running number within this topic and run."""
        return int(self.header["seq"])


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return strict, compact JSON; NaN and infinities become null."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(finite(value), allow_nan=False, separators=(",", ":"))
    return text.encode()


def from_json(raw: bytes) -> dict[str, Any]:
    """Parse strict JSON that must be an object.

    Raises
    ------
    StreamError
        Not UTF-8, not JSON, not an object, nested too deeply, or holds NaN.
    """
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StreamError(f"message is not strict JSON: {error}.") from error
    if raw.count(b"[") + raw.count(b"{") > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise StreamError(
            f"message is not strict JSON of ours: nested more than {_DEEPEST} deep."
        )
    if not isinstance(value, dict):
        raise StreamError(f"message is a JSON {type(value).__name__}, not an object.")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Tell whether lists and objects are nested deeper; by levels, not by recursion."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(value, dict | list) for value in level)


def finite(value: Any) -> Any:
    """Return `value` with every NaN and infinity replaced by None, for strict JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def known(value: float) -> float | None:
    """Return a number as strict JSON has it: None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def stage_json(stage_um: StagePosition) -> dict[str, float | None]:
    """Return a stage position as strict JSON: unknown is null."""
    z, y, x = map(known, stage_um)
    return {"z": z, "y": y, "x": x}


def stage_from_json(value: Mapping[str, float | None] | None) -> StagePosition:
    """Return a stage position from its JSON form; null is NaN."""
    given = {k: v for k, v in (value or {}).items() if v is not None}
    return StagePosition(*(float(given.get(axis, math.nan)) for axis in "zyx"))


def frame_json(frame: Frame) -> dict[str, Any]:
    """Return the header keys that describe one frame."""
    height, width = frame.pixels.shape[:2]
    return {
        "frame": frame.index,
        "t_exposure_s": known(frame.t_exposure_s),
        "t_arrival_s": frame.t_arrival_s,
        "stage_um": stage_json(frame.stage_um),
        "shape_px": [height, width],
        "exposure_ms": known(frame.exposure_ms),
        "pixel_size_um": known(frame.pixel_size_um),
        "position": frame.position,
        "channel": frame.channel,
        "time_index": frame.time_index,
        "z_index": frame.z_index,
    }


def encode(topic: str, header: dict[str, Any], rows: Rows | None = None) -> list[bytes]:
    """Return the three parts of a message.

    Parameters
    ----------
    header
        Everything but the keys that describe the matrix; those are added here.
    rows
        Structured array of numbers; None: no matrix.
    """
    names: tuple[str, ...] = () if rows is None else (rows.dtype.names or ())
    n = 0 if rows is None else len(rows)
    header = {**header, "n": n, "shape": [n, len(names)]}
    # What all messages of a kind end in is written once.
    text = to_json(header)[:-1] + _columns_json(names)
    body = b"" if rows is None else _matrix(rows, names)
    return [topic.encode(), text, body]


@cache
def _columns_json(names: tuple[str, ...]) -> bytes:
    """Return the end of a header, which describes the matrix."""
    facts = {
        "dtype": "<f8",
        "order": "columns",
        "columns": names,
        "units": [_UNITS.get(name, "1") for name in names],
    }
    return b"," + to_json(facts)[1:]


def _matrix(rows: Rows, names: Sequence[str]) -> bytes:
    """Return the rows, column after column."""
    if len(rows) <= _FEW:  # quicker than to ask for each column
        values = np.array(rows.tolist(), "<f8").reshape(len(rows), len(names))
        return values.T.tobytes()
    matrix = np.empty((len(names), len(rows)), "<f8")
    for column, name in zip(matrix, names, strict=True):
        column[:] = rows[name]
    return matrix.tobytes()


def decode(parts: Sequence[bytes]) -> Message:
    """Return the typed message behind three parts.

    Raises
    ------
    StreamError
        The parts are not a message of this version.
    """
    topic, header = _open_envelope(parts)
    body = parts[2]
    if topic == "image":
        return Message(topic, header, image=bytes(body))
    columns = _columns(topic, header, body)
    if topic == "tracks":
        rows = _rows(columns, header["n"], TRACK_DTYPE)
        return Message(topic, header, tracks=Tracks(rows))
    if topic == "detections":
        rows = _rows(columns, header["n"], DETECTION_DTYPE)
        return Message(topic, header, detections=Detections(rows))
    if topic == "summary":
        rows = _rows(columns, header["n"], SUMMARY_DTYPE)
        return Message(topic, header, summary=rows)
    if topic == "stage":
        stage_um = StagePosition(*(float(values[0]) for values in columns.values()))
        return Message(topic, header, stage_um=stage_um)
    if topic == "event":
        return Message(topic, header, event=_event(header))
    return Message(topic, header)


def _open_envelope(parts: Sequence[bytes]) -> tuple[str, dict[str, Any]]:
    if len(parts) != 3:
        raise StreamError(f"message has {len(parts)} parts; expected 3.")
    topic = parts[0].decode("ascii", "replace")
    if topic not in TOPICS or len(parts[1]) > _MAX_HEADER_BYTES:
        raise StreamError(f"topic {topic!r}: not one of {TOPICS}, or header too long.")
    header = from_json(parts[1])
    version = header.get("v")
    if version != VERSION:
        raise StreamError(
            f"{topic}: speaks version {version!r} of the wire format; this program "
            f"reads {VERSION}. Use the same lodestar-live on both sides."
        )
    if not isinstance(header.get("seq"), int):
        raise StreamError(f"{topic}: header has no running number 'seq'.")
    if not isinstance(header.get("frame", -1), int):
        raise StreamError(f"{topic}: frame = {header['frame']!r}; expected an integer.")
    return topic, header


def _columns(
    topic: str, header: Header, body: bytes
) -> dict[str, np.ndarray[Any, Any]]:
    names, n = header.get("columns"), header.get("n")
    if not isinstance(names, list) or not isinstance(n, int):
        raise StreamError(f"{topic}: header has no columns or n.")
    is_sound = (
        all(isinstance(name, str) for name in names)
        and 0 <= n <= _MAX_ROWS
        and header.get("dtype") == "<f8"
        and header.get("order") == "columns"
        and len(body) == 8 * n * len(names)
        and (topic != "stage" or (n == 1 and len(names) == 3))
    )
    if not is_sound:
        raise StreamError(f"{topic}: header and matrix do not agree.")
    matrix = np.frombuffer(body, "<f8").reshape(len(names), n)
    return dict(zip(names, matrix, strict=True))


def _rows(
    columns: Mapping[str, np.ndarray[Any, Any]], n: int, dtype: np.dtype[Any]
) -> Rows:
    rows = blank_rows(dtype, n)
    for name in dtype.names or ():
        if name in columns:
            with np.errstate(invalid="ignore"):  # NaN in an integer column
                rows[name] = columns[name]
    return rows


def _event(header: Header) -> Event:
    try:
        return Event(
            str(header["kind"]),
            float(header["t_s"]),
            int(header["frame"]),
            dict(header["details"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StreamError(f"event: header is incomplete: {error!r}.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
