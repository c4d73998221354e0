"""The network on a GPU: half precision, fixed shapes, fixed places, one launch.

A small network on a GPU mostly waits for the next operator to be launched. So every
shape of frame gets a session of its own, in which nothing is left to be found out, its
arrays stay where they are, and the provider records the launches once and replays them.

Written from ONNX Runtime's documentation and sources, and **never run on a GPU**: the
tests run it on the CPU's provider. Hence what a new session computes is compared with
the CPU before it is used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from lodestar_live.detection.engines.cpu import (
    Array,
    Feeds,
    Network,
    session_options,
    set_pixel_type,
)
from lodestar_live.detection.model.half_precision import half_precision
from lodestar_live.detection.model.nodes import NET, copied
from lodestar_live.errors import ModelError

logger = logging.getLogger(__name__)

MAX_KEPT = 16  # a frame's tiles are of nine kinds at most, and their numbers change
_MOST_DIFFERENCE = 0.02  # root mean square; float16 costs a tenth of that
_DEVICE_ID = 0


@dataclass(frozen=True, slots=True)
class Provider:
    """How ONNX Runtime reaches a device.

    Parameters
    ----------
    name
        The execution provider's.
    options
        Always set.
    capture
        Set as well to record the launches of one run and replay them.
    device
        Where its arrays lie.
    takes_uint16
        Else pixels are cast to float32 before they are copied there.
    """

    name: str
    options: Mapping[str, str]
    capture: Mapping[str, str]
    device: str = "cuda"
    takes_uint16: bool = True


CUDA = Provider(
    "CUDAExecutionProvider",
    # TF32 has 11 bits: the normalisation would round the counts of a 16-bit camera.
    # An exhaustive search for algorithms, the default, would hold up each new shape.
    {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    {"enable_cuda_graph": "1"},
)
TENSORRT = Provider(
    "TensorrtExecutionProvider",
    # Not `trt_fp16_enable`: it frees TensorRT to round everything, the normalisation
    # too. Without it (TensorRT 10) every value has the type that the graph says.
    {},
    {"trt_cuda_graph_enable": "1"},
    takes_uint16=False,
)
PROVIDERS = {provider.name: provider for provider in (CUDA, TENSORRT)}


class GpuNetworks:
    """Compile networks for a provider; their sessions are kept for some shapes.

    Parameters
    ----------
    provider
        Where they run.
    is_half
        Convolutions in float16, if the weights fit into it.
    max_kept
        Sessions, of all networks together; the least recently used is dropped.
    """

    def __init__(
        self, provider: Provider, *, is_half: bool, max_kept: int = MAX_KEPT
    ) -> None:
        self._provider, self._is_half, self._max_kept = provider, is_half, max_kept
        self._ways = [provider.capture, {}]  # what failed once is not tried again
        self._kept: dict[tuple[object, ...], _FixedNetwork] = {}
        self._lock = threading.Lock()  # a session has one set of arrays

    def __call__(self, model: onnx.ModelProto, n_threads: int) -> Network:
        """Return a function of feeds that hold the inputs of `model`, of any shape."""
        reference = onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(n_threads),
            providers=["CPUExecutionProvider"],
        )
        return partial(self._run, self._prepared(model), reference)

    def _run(
        self,
        model: onnx.ModelProto,
        reference: onnxruntime.InferenceSession,
        feeds: Feeds,
    ) -> list[Array]:
        feeds = {value.name: feeds[value.name] for value in model.graph.input}
        n_images = max(map(len, feeds.values()))
        feeds = _to_power_of_two(feeds, n_images)
        key = (id(model), *(array.shape for array in feeds.values()))
        with self._lock:
            network = self._kept.pop(key, None) or self._begin(model, reference, feeds)
            self._kept[key] = network  # the last one is the most recently used
            if len(self._kept) > self._max_kept:
                del self._kept[next(iter(self._kept))]
            return [values[:n_images] for values in network(feeds)]

    def _prepared(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model as the device takes it."""
        copy = copied(model)
        if not self._provider.takes_uint16:
            set_pixel_type(copy, np.dtype(np.float32))
        if not self._is_half:
            return copy
        try:
            return half_precision(copy)
        except ModelError as error:
            logger.warning("%s Using float32.", error)
            return copy

    def _begin(
        self,
        model: onnx.ModelProto,
        reference: onnxruntime.InferenceSession,
        feeds: Feeds,
    ) -> _FixedNetwork:
        """Return a session for the shapes of `feeds`, checked against the CPU."""
        expected = reference.run(NET, dict(feeds))
        while self._ways:
            try:
                network = _FixedNetwork(
                    model, self._provider, self._ways[0], feeds, expected
                )
                network(feeds)  # the first run records, the second one replays
                _check(network(feeds), expected)
            except Exception as error:  # whatever a driver raises
                logger.warning(
                    "%s with options %s does not work here: %s",
                    self._provider.name,
                    self._ways.pop(0),
                    error,
                )
            else:
                return network
        raise ModelError(f"{self._provider.name}: no way to use it works here.")


class _FixedNetwork:
    """A session for one shape, whose arrays stay at one place of the device."""

    def __init__(
        self,
        model: onnx.ModelProto,
        provider: Provider,
        capture: Mapping[str, str],
        feeds: Feeds,
        results: Sequence[Array],
    ) -> None:
        fixed = _with_shapes(model, feeds)
        self._session = onnxruntime.InferenceSession(
            fixed.SerializeToString(),
            session_options(1),
            providers=[(provider.name, {**provider.options, **capture})],
            enable_fallback=0,  # else it prints, and goes on without the provider
        )
        if provider.name not in self._session.get_providers():
            raise ModelError("not loaded. Are CUDA 12 and cuDNN 9 (TensorRT 10) there?")
        types = {value.name: _dtype(value) for value in fixed.graph.input}
        self._inputs = {
            name: _place(feeds[name].shape, dtype, provider.device)
            for name, dtype in types.items()
        }
        self._outputs = [_place(m.shape, m.dtype, provider.device) for m in results]
        self._types = types
        self._binding = self._session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in zip(NET, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def __call__(self, feeds: Feeds) -> list[Array]:
        """Return the maps; the caller's from then on."""
        for name, value in self._inputs.items():
            value.update_inplace(feeds[name].astype(self._types[name], copy=False))
        self._session.run_with_iobinding(self._binding)
        return [np.array(value.numpy()) for value in self._outputs]


def _place(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], device: str
) -> onnxruntime.OrtValue:
    """Return memory of its own: made from an array it might share the caller's."""
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        shape, dtype, device, _DEVICE_ID
    )


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[np.generic]:
    dtype: np.dtype[np.generic] = helper.tensor_dtype_to_np_dtype(
        value.type.tensor_type.elem_type
    )
    return dtype


def _with_shapes(model: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """Return a copy whose inputs have the shapes of `feeds`.

    ONNX Runtime then computes every size beforehand, and nothing is left for the CPU.
    """
    copy = copied(model)
    for value in copy.graph.input:
        sizes = feeds[value.name].shape
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            dim.dim_value = size
    return copy


def _to_power_of_two(feeds: Feeds, n_images: int) -> Feeds:
    """Repeat the first of many tiles, so that their number is seldom a new one.

    A session for each number would cost more than the tiles computed in vain.
    """
    n_missing = (1 << (n_images - 1).bit_length()) - n_images
    if not n_missing:
        return feeds
    return {
        name: np.concatenate([array, array[:1].repeat(n_missing, axis=0)])
        if len(array) == n_images
        else array
        for name, array in feeds.items()
    }


def _check(found: Sequence[Array], expected: Sequence[Array]) -> None:
    """Compare maps with the CPU's; the engine's trial compares the positions.

    Relative to the map, but to 1 (px, or the frame's noise) at least: a flat frame's
    maps are nothing but rounding.
    """
    for name, one, other in zip(NET, found, expected, strict=True):
        size = np.linalg.norm(other) + np.sqrt(other.size)
        if not np.linalg.norm(one - other) <= _MOST_DIFFERENCE * size:
            raise ModelError(f"`{name}` differs from the CPU's.")
