"""A trained network as plain numpy arrays: what training hands to the exporter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.errors import ModelError

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """A 2-D convolution with zero padding `dilation * (kernel - 1) / 2` on each side.

    Parameters
    ----------
    weight
        Shape (out, in, kh, kw), float32, odd kernel sides; as torch's `Conv2d.weight`.
    bias
        Shape (out,), float32.
    stride, dilation
        The same along both axes.
    relu
        Whether negative outputs become 0.
    """

    weight: Float32Array
    bias: Float32Array
    stride: int = 1
    dilation: int = 1
    relu: bool = True

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros added on each side, (y, x)."""
        height, width = self.weight.shape[2:]
        return (
            self.dilation * (height - 1) // 2,
            self.dilation * (width - 1) // 2,
        )


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Maximum over blocks of `factor` x `factor`."""

    factor: int = 2


@dataclass(frozen=True, slots=True)
class SpaceToDepth:
    """Turn blocks of `factor` x `factor` into channels (torch's `pixel_unshuffle`)."""

    factor: int = 2


Layer = Conv | MaxPool | SpaceToDepth


@dataclass(frozen=True, slots=True, eq=False)
class NetworkWeights:
    """The layers of a LodeSTAR network, first to last.

    The input is padded below and right, by its edge, to a multiple of `stride`. Cell
    (i, j) of the output votes for y = k i + (k - 1)/2 + dy, x = k j + (k - 1)/2 + dx
    (px, k = `stride`) with the weight sigmoid(rho).

    Parameters
    ----------
    layers
        First to last; the last is a `Conv` with one output per name in `channels`.
    stride
        Input pixels per output cell.
    channels
        Names of the outputs, in order: ``dy``, ``dx``, ``rho``, and optionally
        ``z_um`` and ``ln_scale``.
    """

    layers: tuple[Layer, ...]
    stride: int
    channels: tuple[str, ...] = ("dy", "dx", "rho")

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ModelError(f"network weights: {problem}.")

    @property
    def n_inputs(self) -> int:
        """Channels of the input: 1 for images, 2 (real, imaginary) for fields."""
        area = 1
        for layer in self.layers:
            if isinstance(layer, Conv):
                return int(layer.weight.shape[1]) // area
            if isinstance(layer, SpaceToDepth):
                area *= layer.factor**2
        return 1

    @property
    def margin_px(self) -> int:
        """Farthest input pixel that reaches a cell, measured from the cell's block."""
        reach, scale = 0, 1
        for layer in self.layers:
            if isinstance(layer, Conv):
                reach += scale * max(layer.padding)
                scale *= layer.stride
            else:
                scale *= layer.factor
        return reach

    @property
    def flop_per_px(self) -> float:
        """Multiplications and additions per input pixel."""
        flop, area = 0.0, 1
        for layer in self.layers:
            if isinstance(layer, Conv):
                area *= layer.stride**2
                flop += 2.0 * layer.weight.size / area
            else:
                area *= layer.factor**2
        return flop

    def _problem(self) -> str:
        product = 1
        for index, layer in enumerate(self.layers):
            product *= layer.stride if isinstance(layer, Conv) else layer.factor
            if (
                isinstance(layer, Conv)
                and min(s % 2 for s in layer.weight.shape[2:]) < 1
            ):
                return f"layer {index} has a kernel {layer.weight.shape}; expected odd"
            if isinstance(layer, Conv) and not _is_finite(layer):
                return f"layer {index} is not finite; train again"
        if product != self.stride:
            return f"stride = {self.stride}, but the layers reduce by {product}"
        missing = {"dy", "dx", "rho"} - set(self.channels)
        if missing:
            return f"channels = {self.channels}; missing {sorted(missing)}"
        last = self.layers[-1]
        if not isinstance(last, Conv) or len(last.weight) != len(self.channels):
            return f"the last layer must be a Conv with {len(self.channels)} outputs"
        return ""


def _is_finite(layer: Conv) -> bool:
    return bool(np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all())
