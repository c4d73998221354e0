"""A trained network as plain numpy arrays: what training hands to the exporter."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
        Whether negative outputs are multiplied by `leak`.
    leak
        0: they become 0.
    """

    weight: Float32Array
    bias: Float32Array
    stride: int = 1
    dilation: int = 1
    relu: bool = True
    leak: float = 0.0

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


@dataclass(frozen=True, slots=True)
class LocalContrast:
    """Subtract the local mean, divide by the local contrast; always the first layer.

    With m the means over blocks of `cell_px` x `cell_px`, B a square box mean over
    `background_cells` and C one over `contrast_cells` (blocks outside the image do not
    count)::

        out = (x - B(m)) / sqrt(C((m - B(m))^2) + floor)

    B and C are constant inside a block. `floor` is in units of the frame's noise
    variance, so that a frame without particles is not blown up.
    """

    cell_px: int
    background_cells: int
    contrast_cells: int
    floor: float


Layer = Conv | MaxPool | SpaceToDepth | LocalContrast


@dataclass(frozen=True, slots=True, eq=False)
class NetworkWeights:
    """The layers of a LodeSTAR network, first to last.

    The input is padded below and right, by its edge, to a multiple of `grid_px`. Cell
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
    def contrast(self) -> LocalContrast | None:
        """The local normalisation in front, if there is one."""
        first = self.layers[0]
        return first if isinstance(first, LocalContrast) else None

    @property
    def grid_px(self) -> int:
        """Tiles and paddings are multiples of this."""
        cell_px = self.contrast.cell_px if self.contrast else 1
        return math.lcm(self.stride, cell_px)

    @property
    def contrast_margin_px(self) -> int:
        """Farthest pixel, beyond `margin_px`, that the local normalisation reads."""
        if self.contrast is None:
            return 0
        reach = self.contrast.background_cells // 2 + self.contrast.contrast_cells // 2
        return self.contrast.cell_px * reach

    @property
    def margin_px(self) -> int:
        """Farthest input pixel that reaches a cell, measured from the cell's block."""
        reach, scale = 0, 1
        for layer in self.layers:
            if isinstance(layer, Conv):
                reach += scale * max(layer.padding)
            scale *= _reduction(layer)
        return reach

    @property
    def flop_per_px(self) -> float:
        """Multiplications and additions per input pixel."""
        flop, area = 0.0, 1
        for layer in self.layers:
            area *= _reduction(layer) ** 2
            if isinstance(layer, Conv):
                flop += 2.0 * layer.weight.size / area
        return flop

    @property
    def moved_bytes_per_px(self) -> float:
        """What the layers read and write per input pixel, weights left out."""
        return sum(before + after for before, after in self._bytes_per_px())

    @property
    def bytes_per_px(self) -> float:
        """Memory of the widest layer with its input, per input pixel."""
        return max(before + after for before, after in self._bytes_per_px())

    def _bytes_per_px(self) -> Iterator[tuple[float, float]]:
        """Yield what goes into each layer and what comes out, per input pixel."""
        area, n_channels, before = 1.0, self.n_inputs, 4.0 * self.n_inputs
        for layer in self.layers:
            area *= _reduction(layer) ** 2
            if isinstance(layer, Conv):
                n_channels = len(layer.weight)
            elif isinstance(layer, SpaceToDepth):
                n_channels *= layer.factor**2
            after = 4.0 * n_channels / area
            yield before, after
            before = after

    def _problem(self) -> str:
        product = 1
        for index, layer in enumerate(self.layers):
            product *= _reduction(layer)
            if (
                isinstance(layer, Conv)
                and min(s % 2 for s in layer.weight.shape[2:]) < 1
            ):
                return f"layer {index} has a kernel {layer.weight.shape}; expected odd"
            if isinstance(layer, Conv) and not _is_finite(layer):
                return f"layer {index} is not finite; train again"
        if product != self.stride:
            return f"stride = {self.stride}, but the layers reduce by {product}"
        if any(isinstance(layer, LocalContrast) for layer in self.layers[1:]):
            return "LocalContrast must be the first layer"
        if self.contrast is not None and self.n_inputs != 1:
            return "LocalContrast takes images, not fields"
        missing = {"dy", "dx", "rho"} - set(self.channels)
        if missing:
            return f"channels = {self.channels}; missing {sorted(missing)}"
        last = self.layers[-1]
        if not isinstance(last, Conv) or len(last.weight) != len(self.channels):
            return f"the last layer must be a Conv with {len(self.channels)} outputs"
        return ""


def _reduction(layer: Layer) -> int:
    """Return how many times fewer rows come out than go in."""
    if isinstance(layer, Conv):
        return layer.stride
    return 1 if isinstance(layer, LocalContrast) else layer.factor


def _is_finite(layer: Conv) -> bool:
    return bool(np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all())
