"""Votes must turn with the image, exactly, before and after any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lodestar_live.detection.model.weights import LocalContrast
from lodestar_live.training.network.equivariant import SymmetricStack
from lodestar_live.training.network.network import Network, initialise, live_network


def _turned(x: Tensor, g: int) -> Tensor:
    mirrored = x.flip(-1) if g >= 4 else x
    return torch.rot90(mirrored, g % 4, (-2, -1))


@pytest.mark.parametrize("dilations", [(1, 1, 1, 1, 1), (1, 2, 2, 2, 1)])
@pytest.mark.parametrize("g", range(8))
def test_pooled_position_turns_with_the_image(
    g: int, dilations: tuple[int, ...]
) -> None:
    layers = live_network(LocalContrast(4, 9, 3, 0.15), dilations=dilations)
    network = Network(layers, stride=4)
    initialise(network, torch.Generator().manual_seed(1))
    network = network.double()
    image = torch.from_numpy(np.random.default_rng(g).normal(size=(1, 1, 48, 48)))
    votes, rho = network.votes(image)
    turned_votes, turned_rho = network.votes(_turned(image, g))
    torch.testing.assert_close(turned_rho, _turned(rho, g))
    centre = (48 - 1) / 2
    offset = _turned(votes[0] - centre, g)
    if g >= 4:  # mirrored along x first
        offset = torch.stack([offset[0], -offset[1]])
    for _ in range(g % 4):  # a quarter turn takes (y, x) to (-x, y)
        offset = torch.stack([-offset[1], offset[0]])
    torch.testing.assert_close(turned_votes[0] - centre, offset)


@pytest.mark.parametrize("side_px", [48, 52])  # an even and an odd number of cells
def test_a_stack_is_its_plain_kernels_one_after_the_other(side_px: int) -> None:
    layers = live_network(LocalContrast(4, 9, 3, 0.15), dilations=(1, 2, 2), leak=0.2)
    network = Network(layers, stride=4)
    initialise(network, torch.Generator().manual_seed(2))
    image = torch.randn(2, 1, side_px, side_px, generator=torch.Generator())
    x = network.prepare(image)
    stack = layers[-1]
    assert isinstance(stack, SymmetricStack)
    for dilation, (weight, bias) in zip((1, 2, 2, 1), stack.kernels(), strict=True):
        padding = dilation * (weight.shape[-1] // 2)
        x = torch.nn.functional.conv2d(
            x, weight, bias, padding=padding, dilation=dilation
        )
        if weight.shape[-1] == 3:
            x = torch.nn.functional.leaky_relu(x, 0.2)
    torch.testing.assert_close(network(image), x)
    whole, prepared = (
        network.votes(image),
        network.votes(network.prepare(image), prepared=True),
    )
    torch.testing.assert_close(whole, prepared)
