"""Model files that were hit by chance or made up: refused when loaded, or they work."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lodestar_live.detection import Detector
from lodestar_live.detection.model.model_file import read_model
from lodestar_live.detection.model.seal import is_intact, sealed
from lodestar_live.errors import ModelError
from lodestar_live.resources import find
from tests.detection import networks

WHOLE = networks.model(networks.spot_finder(), threshold=-1.5)
OLD = find("models", "beads_inline.onnx").read_bytes()
_rng = np.random.default_rng(0)
FRAMES = [
    _rng.integers(0, 200, (61, 70)).astype(np.uint8),
    _rng.normal(100, 5, (96, 128)).astype(np.float32),
]
_OTHER = ("Add", "Mul", "Abs", "Relu", "Concat", "Transpose", "Reshape", "NonZero")
_NUMBERS = (0, 1, -1, 7, 1000, 2**31 - 1)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def works(data: bytes) -> bool:
    """Load a file; if it is not refused, it must find particles in frames."""
    try:
        detector = Detector(data, n_threads=1)
    except ModelError as error:
        assert len(str(error)) > 40 and str(error).endswith("."), error
        return False
    for frame in FRAMES:
        assert np.isfinite(detector(frame).positions_px).all()
    return True


def test_every_flipped_bit_is_noticed() -> None:
    rng = random.Random(1)
    n_bits = 8 * len(WHOLE)
    tail = range(n_bits - 8 * 96, n_bits, 8)  # the checksum's own bytes
    for bit in [*(rng.randrange(n_bits) for _ in range(300)), *tail]:
        data = flipped(WHOLE, bit)
        assert not is_intact(data)
        with pytest.raises(ModelError):
            read_model(data)


def test_a_flipped_bit_in_a_first_version_is_noticed_or_harms_no_frame() -> None:
    """They have no checksum: a weight that changes a little cannot be noticed."""
    rng = random.Random(2)
    assert works(OLD)
    for _ in range(8):
        works(flipped(OLD, rng.randrange(8 * len(OLD))))


Craft = Callable[[onnx.GraphProto, random.Random], None]


def drop_a_node(graph: onnx.GraphProto, rng: random.Random) -> None:
    graph.node.remove(rng.choice(graph.node))


def swap_an_operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    rng.choice(graph.node).op_type = rng.choice(_OTHER)


def feed_another_value(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice([n for n in graph.node if n.input])
    node.input[rng.randrange(len(node.input))] = rng.choice(graph.node).output[0]


def change_a_number(graph: onnx.GraphProto, rng: random.Random) -> None:
    tensor = rng.choice(graph.initializer)
    values = numpy_helper.to_array(tensor).copy().reshape(-1)
    if len(values):
        values[rng.randrange(len(values))] = rng.choice(_NUMBERS)
    values = values.reshape(numpy_helper.to_array(tensor).shape)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def double_a_tensor(graph: onnx.GraphProto, rng: random.Random) -> None:
    tensor = rng.choice(graph.initializer)
    values = np.tile(numpy_helper.to_array(tensor).ravel(), 2)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_an_attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    attributes = [a for node in graph.node for a in node.attribute if a.ints]
    chosen = rng.choice(attributes)
    chosen.ints[rng.randrange(len(chosen.ints))] = rng.choice(_NUMBERS)


def fix_a_side(graph: onnx.GraphProto, rng: random.Random) -> None:
    dims = graph.input[0].type.tensor_type.shape.dim
    dims[rng.choice([0, 2, 3])].dim_value = 64


def change_a_type(graph: onnx.GraphProto, rng: random.Random) -> None:
    value = rng.choice([*graph.input, *graph.output])
    value.type.tensor_type.elem_type = rng.choice([2, 6, 7, 10, 11])


def shuffle_the_nodes(graph: onnx.GraphProto, rng: random.Random) -> None:
    nodes = list(graph.node)
    rng.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def ask_for_all_memory(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Sixteen copies of a value whose size nobody knows, nine times over."""
    graph.node.append(helper.make_node("NonZero", ["score"], ["all_0"]))
    graph.node.extend(
        helper.make_node("Concat", [f"all_{i}"] * 16, [f"all_{i + 1}"], axis=0)
        for i in range(9)
    )


@pytest.mark.parametrize(
    "craft",
    [
        drop_a_node,
        swap_an_operator,
        feed_another_value,
        change_a_number,
        double_a_tensor,
        change_an_attribute,
        fix_a_side,
        change_a_type,
        shuffle_the_nodes,
        ask_for_all_memory,
    ],
)
def test_crafted_graphs_are_refused_or_work(craft: Craft) -> None:
    rng = random.Random(3)
    for _ in range(4):
        proto = onnx.load_model_from_string(WHOLE)
        craft(proto.graph, rng)
        works(sealed(proto))  # with a right checksum, as who crafts it would


def test_an_answer_that_differs_is_noticed() -> None:
    """The graph is intact and runs, but computes something else than it did."""
    proto = onnx.load_model_from_string(WHOLE)
    tensor = max(proto.graph.initializer, key=lambda t: np.prod(t.dims))
    values = 1.1 * numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ModelError, match="answer to the trial frame"):
        Detector(sealed(proto))


def test_a_file_without_its_checksum_is_refused_if_it_should_have_one() -> None:
    proto = onnx.load_model_from_string(WHOLE)
    (entry,) = (e for e in proto.metadata_props if e.key == "lodestar_live.sha256")
    proto.metadata_props.remove(entry)
    with pytest.raises(ModelError, match="checksum"):
        Detector(proto.SerializeToString())


def test_a_checksum_survives_an_onnx_tool() -> None:
    """Who loads and saves a model unchanged writes the same bytes."""
    assert onnx.load_model_from_string(WHOLE).SerializeToString() == WHOLE
