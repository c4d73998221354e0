"""Read a model file, refusing anything that is not a whole model of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from lodestar_live.detection.model.nodes import (
    CARD_KEY,
    INPUTS,
    LOOKS_KEY,
    OPSET,
    OUTPUTS,
)
from lodestar_live.detection.model.seal import has_checksum, is_intact
from lodestar_live.detection.model.trial_run import trial_problems
from lodestar_live.errors import ModelError
from lodestar_live.model_card import (
    ModelCard,
    is_later_than_first,
    read_card,
)

MAX_BYTES = 64 * 2**20
OPERATORS = frozenset(
    "Abs Add And AveragePool Cast Ceil Concat Conv DepthToSpace Div Equal Exp Flatten "
    "Gather GatherElements GatherND Greater GreaterOrEqual LeakyRelu Less Log Max "
    "MaxPool Min Mul Neg NonZero Not Or Pad Reciprocal ReduceMax ReduceMin ReduceSum "
    "Relu Reshape Shape Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub "
    "TopK Transpose Unsqueeze Where".split()
)


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A checked model: where it came from, its graph and its card.

    `looks`: the training particles, see `Look.of`; none in older files. `sha256`: of
    the file, as it lay on the disk.
    """

    name: str
    proto: onnx.ModelProto
    card: ModelCard
    looks: tuple[npt.NDArray[np.float64], ...]
    sha256: str


def read_model(source: str | Path | bytes) -> ModelFile:
    """Read and check a model.

    Parameters
    ----------
    source
        Path of an .onnx file written by `train`, or its bytes.

    Raises
    ------
    ModelError
        The file is missing, cut short, too large, not ours, changed since it was
        written, refers to other files, holds numbers that are not finite, or its graph
        fails on a trial frame.
    """
    name = "model" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(Path(source))
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise ModelError(
            f"{name}: {len(data)} bytes that are not a whole ONNX file; copy it again."
        ) from error
    for problem in _problems(proto, data):
        raise ModelError(f"{name}: {problem}")
    try:
        card = read_card(_text(proto, CARD_KEY) or "")
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    for problem in trial_problems(proto, card):
        raise ModelError(f"{name}: {problem}")
    looks = tuple(np.asarray(look, dtype=float) for look in _looks(proto))
    return ModelFile(name, proto, card, looks, hashlib.sha256(data).hexdigest())


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{path}: {size} bytes; expected at most {MAX_BYTES}: a LodeSTAR model "
                "has well under a megabyte. Is this another kind of file?"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); expected a model written by "
            "`lodestar-live train IMAGE -o MODEL.onnx`."
        ) from error


def _problems(proto: onnx.ModelProto, data: bytes) -> Iterator[str]:
    retrain = "Train and export it again with this version."
    keys = sorted({entry.key for entry in proto.metadata_props})
    card = _text(proto, CARD_KEY)
    if card is None:
        yield (
            f"its metadata ({keys}) hold no {CARD_KEY!r} card; expected a model "
            "written by `lodestar-live train`."
        )
        return
    if (has_checksum(proto) or is_later_than_first(card)) and not is_intact(data):
        yield (
            "its checksum is not that of its bytes: the file was changed or damaged "
            "after it was written. Copy it again, or train and export it again."
        )
    for domain in proto.opset_import:
        if (domain.domain, domain.version) != ("", OPSET):
            found = f"{domain.domain or 'ai.onnx'} {domain.version}"
            yield f"operator set {found}; expected ai.onnx {OPSET}. {retrain}"
    used = {node.op_type for node in proto.graph.node} - OPERATORS
    domains = {node.domain for node in proto.graph.node} - {"", "ai.onnx"}
    if used or domains or proto.functions:
        names = sorted(used | domains | {f.name for f in proto.functions})
        yield f"operators {names}; expected only those our exporter writes. {retrain}"
    inputs = [value.name for value in proto.graph.input]
    outputs = [value.name for value in proto.graph.output]
    if inputs != list(INPUTS) or outputs != list(OUTPUTS):
        yield (
            f"inputs {inputs} and outputs {outputs}; expected {list(INPUTS)} and "
            f"{list(OUTPUTS)}. {retrain}"
        )
    if not all(map(_is_square, _looks(proto))):
        yield (
            f"its {LOOKS_KEY!r} are not the training particles: expected squares of "
            f"finite numbers. Copy the file again. {retrain}"
        )
    yield from _tensor_problems(proto)
    if not _is_in_order(proto.graph):
        yield f"nodes that use what no node before them gives. {retrain}"


def _is_in_order(graph: onnx.GraphProto) -> bool:
    """Tell whether every value is given once, before it is used.

    What else makes a graph valid shows in its trial run; `onnx.checker` says it as
    well, and holds 8 MiB for the rest of the process.
    """
    known = {"", *(value.name for value in (*graph.input, *graph.initializer))}
    for node in graph.node:
        if not known.issuperset(node.input) or known.intersection(node.output) - {""}:
            return False
        known.update(node.output)
    return True


def _tensor_problems(proto: onnx.ModelProto) -> Iterator[str]:
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield (
                f"tensor {tensor.name!r} lies in another file; expected one file with "
                "everything inside. Export it again."
            )
            continue
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            yield f"tensor {tensor.name!r} is damaged ({error}); copy the file again."
            continue
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            yield (
                f"tensor {tensor.name!r} holds NaN or infinity; expected finite "
                "numbers: its training failed. Train again, with another seed."
            )


def _looks(proto: onnx.ModelProto) -> list[Any]:
    try:
        looks = json.loads(_text(proto, LOOKS_KEY) or "[]")
    except (ValueError, RecursionError):
        return [None]  # refused, as what is no square is
    return looks if isinstance(looks, list) else [looks]


def _text(proto: onnx.ModelProto, key: str) -> str | None:
    values = (entry.value for entry in proto.metadata_props if entry.key == key)
    return next(values, None)


def _is_square(look: Any) -> bool:
    """Say whether a look is a square of finite numbers with a middle pixel."""
    try:
        values = np.asarray(look, dtype=float)
    except (ValueError, TypeError):
        return False
    sides = {*values.shape}
    return (
        values.ndim == 2
        and len(sides) == 1
        and values.size % 2 == 1
        and max(sides) >= 3
        and bool(np.isfinite(values).all())
    )
