"""Muon on tied kernels against the singular value decomposition, and Adam."""

from __future__ import annotations

import pytest
import torch

from lodestar_live.training.adam import Adam
from lodestar_live.training.muon import REST_RATE, Muon, orthogonalise
from lodestar_live.training.network.equivariant import (
    SymmetricStack,
    output_action,
    pixels_action,
    regular_action,
)


def _stack(seed: int = 0) -> SymmetricStack:
    hidden = regular_action(2)
    stack = SymmetricStack(
        [pixels_action(4), hidden, hidden, output_action(1)], dilations=(1, 2)
    )
    stack.initialise(torch.Generator().manual_seed(seed))
    return stack


def _step(stack: SymmetricStack, rate: float) -> torch.Tensor:
    """Take one step on some loss of the votes; return the gradient followed."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(4, 16, 9, 9, generator=generator)
    target = torch.randn(4, 3, 9, 9, generator=generator)
    muon = Muon(stack)
    (stack(images) - target).square().mean().backward()
    assert stack.free.grad is not None
    gradient = stack.free.grad.clone()
    muon.step(rate)
    assert stack.free.grad is None
    return gradient


def test_orthogonalised_matrices_keep_their_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(3, 16, 144, generator=generator)
    matrices[1] *= 1e-6  # size does not matter
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalise(matrices)
    in_their_frame = u.transpose(1, 2) @ found @ v.transpose(1, 2)
    diagonal = in_their_frame.diagonal(dim1=1, dim2=2)
    assert (diagonal > 0.6).all()
    assert (diagonal < 1.3).all()
    torch.testing.assert_close(
        in_their_frame, torch.diag_embed(diagonal), atol=1e-3, rtol=0
    )


def test_a_step_is_the_orthogonal_factor_of_every_kernels_gradient() -> None:
    stack, rate = _stack(), 1e-2
    before = [weight.detach().clone() for weight, _ in stack.kernels()]
    gradient = _step(stack, rate)
    after = [weight.detach() for weight, _ in stack.kernels()]
    for tie, old, new in list(zip(stack.ties, before, after, strict=True))[:2]:
        # What the plain kernel's gradient is on the tied ones: each orbit's mean.
        orbit, sign = stack.orbit[tie.weight], stack.sign[tie.weight]
        count = torch.bincount(orbit[sign != 0], minlength=len(gradient)).clamp(min=1)
        plain = ((gradient / count)[orbit] * sign).view(tie.shape[0], -1)
        u, _, v = torch.linalg.svd(plain, full_matrices=False)
        moved = (old - new).view(tie.shape[0], -1) / rate
        assert torch.cosine_similarity(moved.ravel(), (u @ v).ravel(), 0) > 0.98
        assert moved.norm() / (u @ v).norm() == pytest.approx(1, abs=0.2)


def test_what_is_no_kernel_follows_adam_at_a_third_of_the_rate() -> None:
    stack, rate = _stack(), 1e-2
    expected = stack.free.detach().clone().requires_grad_()
    gradient = _step(stack, rate)
    expected.grad = gradient
    Adam([expected], betas=(0.9, 0.99)).step(REST_RATE * rate)
    rest = torch.unique(
        torch.cat(
            [stack.orbit[tie.bias] for tie in stack.ties]
            + [stack.orbit[stack.ties[-1].weight]]
        )
    )
    torch.testing.assert_close(stack.free.detach()[rest], expected.detach()[rest])
    hidden = torch.ones(len(expected), dtype=torch.bool)
    hidden[rest] = False
    assert not torch.allclose(stack.free.detach()[hidden], expected.detach()[hidden])


def test_the_trained_network_still_turns_with_the_image() -> None:
    stack = _stack()
    for _ in range(3):
        _step(stack, 0.03)
    image = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(2))
    unfold = torch.nn.PixelUnshuffle(4)
    votes = stack(unfold(image))
    turned = stack(unfold(torch.rot90(image, 1, (2, 3))))
    # np.rot90's quarter turn maps (y, x) offsets to (-x, y).
    expected = torch.rot90(votes, 1, (2, 3))
    torch.testing.assert_close(turned[:, 0], -expected[:, 1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned[:, 1], expected[:, 0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned[:, 2], expected[:, 2], atol=1e-4, rtol=1e-3)
