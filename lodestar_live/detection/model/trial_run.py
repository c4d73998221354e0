"""A trial run: the graph must give its known answer to a synthetic frame.

Done once when a model is loaded. A graph that cannot run, writes something else than
detections, or was changed since it was exported fails here, with a sentence, and not on
every frame of an acquisition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from lodestar_live.detection.model.nodes import COLUMNS, INPUTS, OUTPUTS
from lodestar_live.model_card import ModelCard, TrialAnswer

Array = npt.NDArray[Any]

_LEAST_SIDE_PX = 64
_RELATIVE = 1e-3  # processors differ by some 1e-5, damage that matters by far more
_MOST_BYTES = 256 * 2**20  # for all tensors of a trial; a network takes some ten


def trial_frame(side_px: int, n_inputs: int) -> npt.NDArray[np.float32]:
    """Return a frame of one bright disk in noise, (1, n_inputs, side, side).

    Made of integers and of sums and products only: the same on every machine.
    """
    y, x = np.indices((side_px, side_px), dtype=np.uint64)
    channels = []
    for index in range(n_inputs):
        state = y * np.uint64(73856093) ^ x * np.uint64(19349663)
        state = state + np.uint64(83492791 * (index + 1))
        noise = np.zeros((side_px, side_px))
        for _ in range(4):  # a sum of four is nearly Gaussian
            state = (state * np.uint64(1103515245) + np.uint64(12345)) % 2**31
            noise += (state >> np.uint64(8)).astype(float) / 2**23 - 0.5
        squared = (y - 0.47 * side_px) ** 2 + (x - 0.53 * side_px) ** 2
        disk = np.maximum(1 - squared / (0.125 * side_px) ** 2, 0) ** 2
        channels.append(noise + 10.0 * disk)
    return np.array([channels], np.float32)


def answer_of(proto: onnx.ModelProto, card: ModelCard) -> TrialAnswer:
    """Return what a graph that was just built answers to its trial frame.

    Raises
    ------
    ValueError
        It does not run, or its outputs contradict each other or the card.
    """
    side_px = _side_px(card)
    return TrialAnswer(side_px=side_px, answer=_answer(proto, card, side_px))


def trial_problems(proto: onnx.ModelProto, card: ModelCard) -> Iterator[str]:
    """Run a graph on its trial frame and say what is wrong with it, if anything."""
    known = card.trial
    side_px = _side_px(card) if known is None else known.side_px
    try:
        found = np.array(_answer(proto, card, side_px))
    except Exception as error:  # whatever a runtime raises for a broken graph
        yield (
            f"its graph fails on a trial frame ({_first_line(error)}). Copy the file "
            "again, or train and export it again."
        )
        return
    if known is None:
        return
    expected = np.array(known.answer)
    is_same = found.shape == expected.shape and bool(
        np.all(np.abs(found - expected) <= _RELATIVE * (1 + np.abs(expected)))
    )
    if not is_same:
        yield (
            "its graph does not give the answer to the trial frame that it gave when "
            "it was exported. Copy the file again, or train and export it again."
        )


def _side_px(card: ModelCard) -> int:
    """Return the least side of whole grid steps that shows a particle."""
    grid_px = card.grid_px * card.block_px // np.gcd(card.grid_px, card.block_px)
    return int(-(-_LEAST_SIDE_PX // grid_px) * grid_px)


def _answer(proto: onnx.ModelProto, card: ModelCard, side_px: int) -> tuple[float, ...]:
    """Return mean and spread of every map, after checking the rows against them."""
    n_inputs = _n_inputs(proto)
    session = _session(proto)
    frame = trial_frame(side_px, n_inputs)
    found = _run(session, frame)
    _check_maps(found, card, n_inputs, frame.shape[2:])
    _check_rows(found, card)
    lower = frame[:, :, side_px // card.grid_px // 3 * card.grid_px :]
    _check_maps(_run(session, lower), card, n_inputs, lower.shape[2:])
    maps = [values for name in OUTPUTS[1:] for values in found[name][0]]
    return tuple(
        float(number) for values in maps for number in (values.mean(), values.std())
    )


def _run(session: onnxruntime.InferenceSession, frame: Array) -> dict[str, Array]:
    outputs = session.run(list(OUTPUTS), _feeds(frame))
    return dict(zip(OUTPUTS, outputs, strict=True))


def _feeds(frame: Array) -> dict[str, Array]:
    """Return the graph's inputs: as it is, every local maximum a detection."""
    ones = np.ones((1, 1, 1, 1), np.float32)
    values = (frame, 0 * ones, ones, *(np.float32(v) for v in (0.5, 0.5, -1e30, 1.0)))
    return {name: np.asarray(v) for name, v in zip(INPUTS, values, strict=True)}


def _n_inputs(proto: onnx.ModelProto) -> int:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    n_inputs = dims[1].dim_value if len(dims) == 4 else 0
    if not 1 <= n_inputs <= 8:
        raise ValueError(f"expected 1 to 8 channels of pixels, not {n_inputs}")
    if any(dims[axis].dim_value for axis in (0, 2, 3)):
        raise ValueError("expected pixels of any number, height and width")
    return int(n_inputs)


@cache
def _limit_memory() -> None:
    """Give trials memory of their own, with an end: a graph may ask for any amount."""
    where = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    limits = {"max_mem": _MOST_BYTES, "arena_extend_strategy": 1}
    onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg(limits))


def _session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session that starts fast, runs a graph as it is and logs nothing."""
    _limit_memory()
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _check_maps(
    found: dict[str, Array], card: ModelCard, n_inputs: int, sides_px: tuple[int, ...]
) -> None:
    """Require one finite value per cell in every map."""
    cells = tuple(side // card.stride for side in sides_px)
    for name in OUTPUTS[1:]:
        values = found[name]
        n = len(card.channels) if name == "features" else 1
        if name == "contrast" and values.ndim == 4 and values.shape[1] == n_inputs:
            n = n_inputs  # without a local normalisation each channel has its own
        if values.shape != (shape := (1, n, *cells)):
            raise ValueError(f"{name!r} has shape {values.shape}, expected {shape}")
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise ValueError(f"{name!r} holds what is no finite float32")


def _check_rows(found: dict[str, Array], card: ModelCard) -> None:
    """Require rows that say of a cell what the maps say of it."""
    rows = found["detections"]
    n_columns = len(COLUMNS) + len(card.extras)
    if rows.ndim != 2 or rows.shape[1] != n_columns or rows.dtype != np.float64:
        raise ValueError(f"'detections' has shape {rows.shape}, not (n, {n_columns})")
    if not np.isfinite(rows).all():
        raise ValueError("'detections' holds what is not finite")
    at = {name: rows[:, index] for index, name in enumerate(COLUMNS)}
    score = found["score"][0, 0]
    row, column = at["row"].astype(int), at["column"].astype(int)
    if not len(rows):
        raise ValueError("not one local maximum was found")
    if not ((rows[:, :3] >= 0).all() and (row < len(score)).all()):
        raise ValueError("detections of cells that there are not")
    if not (column < score.shape[1]).all() or (at["image"] != 0).any():
        raise ValueError("detections of cells that there are not")
    if np.abs(at["score"] - score[row, column]).max() > _RELATIVE * 10:
        raise ValueError("detections have other scores than their cells")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
