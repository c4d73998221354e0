"""Write an ONNX graph node by node, without an exporter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Collects nodes and constants; every result gets a name as it comes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def split(self, value: str, n: int, axis: int) -> list[str]:
        """Split `value` into `n` slices of length 1."""
        names = [f"split_{len(self.nodes)}_{index}" for index in range(n)]
        node = helper.make_node("Split", [value], names, axis=axis, num_outputs=n)
        self.nodes.append(node)
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Store a constant and return its name."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Store a vector of int64."""
        return self.constant(values, np.int64)

    def size(self, value: str, axis: int) -> str:
        """Length of one axis, as a vector of one int64."""
        return self.add("Shape", value, start=axis, end=axis + 1)
