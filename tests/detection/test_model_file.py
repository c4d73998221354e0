"""Files that are not whole models of ours are refused, with name, value and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lodestar_live.detection import Detector
from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.model_file import MAX_BYTES
from lodestar_live.detection.model.seal import sealed
from lodestar_live.errors import ModelError
from tests.detection import networks


def fresh() -> onnx.ModelProto:
    return build_model(networks.thin())


def test_a_written_model_is_one_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "thin.onnx"
    path.write_bytes(networks.model(networks.thin(), network="bead"))
    onnx.checker.check_model(str(path), full_check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thin.onnx"]
    assert Detector(path).card.network == "bead"


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def not_finite(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11


def custom_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Loop"


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "images"


def no_card(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def broken_card(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = "{"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (external, "another file.*Export it again"),
        (not_finite, "NaN.*Train again"),
        (other_opset, "ai.onnx 11; expected ai.onnx 18"),
        (custom_domain, "com.example 1; expected"),
        (custom_operator, "Loop"),
        (other_input, "images.*expected"),
        (no_card, "lodestar-live train"),
        (broken_card, "lodestar-live train"),
    ],
)
def test_damaged_models_are_refused(
    tmp_path: Path, damage: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = fresh()
    damage(model)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(sealed(model))
    with pytest.raises(ModelError, match=message) as caught:
        Detector(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("factor", [0, -1, 2.5, 10000, "x", None, True, [2]])
def test_impossible_scales_are_refused(tmp_path: Path, factor: object) -> None:
    path = tmp_path / "scaled.onnx"
    path.write_bytes(networks.first_version(networks.thin(), downsample=factor))
    expected = rf"downsample = {re.escape(repr(factor))}: .*again"
    with pytest.raises(ModelError, match=expected) as caught:
        Detector(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_models_are_refused(share: float) -> None:
    data = fresh().SerializeToString()
    with pytest.raises(ModelError):
        Detector(data[: int(share * len(data))])


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No such file.*lodestar-live train"):
        Detector(tmp_path / "none.onnx")
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ModelError, match="at most"):
        Detector(huge)
