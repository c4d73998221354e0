"""The networks: a stack of plain convolutions whose cells vote for a position.

Cell (i, j) of stride k votes for ``y = k i + (k-1)/2 + dy`` and
``x = k j + (k-1)/2 + dx`` with weight ``sigmoid(rho)``. The paper prints the grid as
``dx + ik - N/(2k)``; the origin must lie at the centre of the *image*, (N-1)/2 input
pixels for pixel centres on integers, or rotations turn about the wrong point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lodestar_live.data import FloatArray
from lodestar_live.detection.model.weights import (
    Conv,
    Layer,
    LocalContrast,
    MaxPool,
    NetworkWeights,
    SpaceToDepth,
)
from lodestar_live.training.network.equivariant import (
    SymmetricStack,
    output_action,
    pixels_action,
    regular_action,
)

NetworkName = Literal["live", "paper"]

#: Up to this radius no layer is dilated, and one more for every so many cells beyond.
NARROW_CELLS = 1.875
CELLS_PER_WIDE_LAYER = 1.5


class LocalContrastNorm(nn.Module):
    """Subtract the local mean and divide by the local contrast; see `LocalContrast`."""

    def __init__(self, spec: LocalContrast) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images (n, 1, H, W) whose sides are multiples of 4."""
        spec = self.spec
        means = nn.functional.avg_pool2d(x, spec.cell_px)
        local = _box_mean(means, spec.background_cells)
        power = _box_mean((means - local) ** 2, spec.contrast_cells)
        gain = torch.rsqrt(power + spec.floor)
        grid = nn.functional.pixel_unshuffle(x, spec.cell_px)
        return nn.functional.pixel_shuffle((grid - local) * gain, spec.cell_px)


def _box_mean(x: Tensor, side: int) -> Tensor:
    """Mean over a square window; cells outside the image do not count."""
    for kernel in ((side, 1), (1, side)):
        x = nn.functional.avg_pool2d(
            x,
            kernel,
            stride=1,
            padding=(kernel[0] // 2, kernel[1] // 2),
            count_include_pad=False,
        )
    return x


class Network(nn.Module):
    """A trainable stack of layers ending in (dy, dx, …, rho) per cell.

    Parameters
    ----------
    layers
        Torch modules applied in order.
    stride
        Input pixels per cell, k.
    channels
        Names of the outputs; the last one is ``rho``.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        stride: int,
        channels: tuple[str, ...] = ("dy", "dx", "rho"),
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.stride = stride
        self.channels = channels
        learns = [any(True for _ in layer.parameters()) for layer in layers]
        self._n_fixed = learns.index(True)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw outputs, (n, channels, H / stride, W / stride)."""
        out: Tensor = self.layers(images)
        return out

    @torch.no_grad()
    def prepare(self, images: Tensor) -> Tensor:
        """Apply the first layers, which learn nothing (`votes` with `prepared`)."""
        out: Tensor = self.layers[: self._n_fixed](images)
        return out.contiguous(memory_format=torch.channels_last)

    def votes(self, images: Tensor, *, prepared: bool = False) -> tuple[Tensor, Tensor]:
        """Return votes and log-weights of all cells.

        Parameters
        ----------
        images
            (n, channels, H, W), or what `prepare` made of them.
        prepared
            Whether it did.

        Returns
        -------
        votes
            (n, channels - 1, h, w): absolute y, x in px, then the additive channels.
        rho
            (n, h, w): logit of the weight.
        """
        raw = self.layers[self._n_fixed if prepared else 0 :](images)
        k = self.stride
        h, w = raw.shape[-2:]
        rows = torch.arange(h, device=raw.device) * k + (k - 1) / 2
        columns = torch.arange(w, device=raw.device) * k + (k - 1) / 2
        y = raw[:, 0] + rows[:, None]
        x = raw[:, 1] + columns[None, :]
        votes = torch.cat([y[:, None], x[:, None], raw[:, 2:-1]], dim=1)
        return votes, raw[:, -1]


def paper_network(
    normalise: LocalContrast, *, in_channels: int = 1, out_channels: int = 3
) -> list[nn.Module]:
    """Return the paper's layers (Methods): 3 convolutions, pool, 8 convolutions, 1x1.

    All 3x3 with 32 channels and ReLU, stride 2 in the end. (The Results text says two
    and seven; both reference implementations follow that, with other widths.)
    """
    layers: list[nn.Module] = [LocalContrastNorm(normalise)]
    layers += _conv(in_channels, 32) + _conv(32, 32) + _conv(32, 32)
    layers += [nn.MaxPool2d(2)]
    for _ in range(8):
        layers += _conv(32, 32)
    return [*layers, nn.Conv2d(32, out_channels, 1)]


def live_network(
    normalise: LocalContrast | None,
    *,
    fields: int = 2,
    dilations: Sequence[int] = (1, 1, 1, 1, 1),
    in_channels: int = 1,
    n_extra: int = 0,
    stride: int = 4,
    leak: float = 0.0,
) -> list[nn.Module]:
    """Return the live layers: pixels folded into channels, dilated 3x3 convolutions.

    All work is done on the coarse grid, with 8 `fields` channels, so a frame costs a
    fiftieth of the paper's network; dilation lets every cell see the whole particle.
    Weights are tied so that the votes turn with the image (`symmetric`), and the first
    kernels have no mean, so that the brightness of the surroundings does not matter.
    With a `leak` units let that share of negative values through: none ever dies.
    """
    hidden = regular_action(fields)
    stack = SymmetricStack(
        [
            pixels_action(stride, copies=in_channels),
            *[hidden] * len(dilations),
            output_action(1 + n_extra),
        ],
        dilations=dilations,
        leak=leak,
        zero_mean=normalise is not None,  # a field's background is absolute
    )
    first = [] if normalise is None else [LocalContrastNorm(normalise)]
    return [*first, nn.PixelUnshuffle(stride), stack]


def dilations_for(radius_px: float, stride: int) -> tuple[int, ...]:
    """Return dilations of five layers with which a cell sees enough around itself.

    `radius_px` holds 90 % of the particle's energy. What a cell cannot see (neighbours,
    dirt) cannot disturb its vote, and taps set wide apart learn sub-pixel places less
    well: annuli of 12 px radius reach 1.3 times the bound at SNR 20 with one wide
    layer, 1.65 with three; at 18 px two are best (1.29; one 1.40, five 1.34).
    """
    wide = math.ceil((radius_px / stride - NARROW_CELLS) / CELLS_PER_WIDE_LAYER)
    order = (2, 1, 3, 0, 4)  # widen from the middle
    return tuple(1 + (order.index(i) < wide) for i in range(5))


def _conv(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]


@torch.no_grad()
def initialise(network: Network, generator: torch.Generator) -> None:
    """Draw all weights anew from `generator` (He et al.); biases and votes start at 0.

    The last layer starts at half that size: first votes lie close to their cells.
    """
    convolutions = [m for m in network.layers if isinstance(m, nn.Conv2d)]
    for module in convolutions:
        size = (2 / module.weight[0].numel()) ** 0.5
        if module is convolutions[-1]:
            size *= 0.5
        module.weight.normal_(0, size, generator=generator)
        assert module.bias is not None  # noqa: S101 - we always make one
        module.bias.zero_()
    for layer in network.layers:
        if isinstance(layer, SymmetricStack):
            layer.initialise(generator)


def export_weights(network: Network) -> NetworkWeights:
    """Return the trained network as plain numpy layers."""
    modules = list(network.layers)
    layers: list[Layer] = []
    for position, module in enumerate(modules):
        after = modules[position + 1] if position + 1 < len(modules) else None
        layers += _export_layers(module, after)
    return NetworkWeights(tuple(layers), network.stride, network.channels)


def _export_layers(module: nn.Module, after: nn.Module | None) -> list[Layer]:
    if isinstance(module, nn.Conv2d):
        assert module.bias is not None  # noqa: S101 - we always make one
        weight, bias = _plain(module.weight), _plain(module.bias)
        return [Conv(weight, bias, relu=isinstance(after, nn.ReLU))]
    if isinstance(module, SymmetricStack):
        return [
            Conv(
                _plain(weight),
                _plain(bias),
                dilation=tie.dilation,
                relu=tie is not module.ties[-1],
                leak=module.leak if tie is not module.ties[-1] else 0.0,
            )
            for tie, (weight, bias) in zip(module.ties, module.kernels(), strict=True)
        ]
    if isinstance(module, nn.MaxPool2d):
        return [MaxPool(2)]
    if isinstance(module, nn.PixelUnshuffle):
        return [SpaceToDepth(module.downscale_factor)]
    if isinstance(module, LocalContrastNorm):
        return [module.spec]
    return []


def _plain(values: Tensor) -> FloatArray:
    plain: FloatArray = values.detach().cpu().numpy().copy()
    return plain
