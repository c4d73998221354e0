"""The checksum inside a model file: a copy that differs in one bit is noticed.

A file is the model followed by one more metadata entry, its SHA-256. Concatenated
messages are one message to protobuf (repeated fields are appended), so any ONNX reader
sees a model with an entry more, and the checksum covers every byte before it.
"""

from __future__ import annotations

import hashlib

import onnx

CHECKSUM_KEY = "lodestar_live.sha256"


def sealed(proto: onnx.ModelProto) -> bytes:
    """Return a model's bytes with their checksum; an older checksum is replaced."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    kept = [entry for entry in proto.metadata_props if entry.key != CHECKSUM_KEY]
    del bare.metadata_props[:]
    bare.metadata_props.extend(kept)
    data: bytes = bare.SerializeToString()
    return data + _tail(hashlib.sha256(data).hexdigest())


def has_checksum(proto: onnx.ModelProto) -> bool:
    """Tell whether a model has an entry for its checksum."""
    return any(entry.key == CHECKSUM_KEY for entry in proto.metadata_props)


def is_intact(data: bytes) -> bool:
    """Tell whether a file ends in the checksum of all bytes before it."""
    size = len(_tail("0" * 64))
    expected = _tail(hashlib.sha256(memoryview(data)[:-size]).hexdigest())
    return data[-size:] == expected


def _tail(checksum: str) -> bytes:
    entry = onnx.StringStringEntryProto(key=CHECKSUM_KEY, value=checksum)
    tail: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return tail
