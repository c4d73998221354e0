"""Did the training work? Views the network has never seen give the answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from lodestar_live.lodestar.losses import normalised_weights, pool
from lodestar_live.lodestar.network import Network
from lodestar_live.lodestar.particle import Particle
from lodestar_live.lodestar.views import ViewMaker, ViewSettings

N_VIEWS = 96
SNRS = (2.0, 3.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Self-examination of a freshly trained network.

    Parameters
    ----------
    error_px
        Per-axis root-mean-square disagreement between unseen views, mapped back into
        the crop, at the crop's own noise.
    consistency_px
        Root-mean-square spread of the weighted votes inside a view.
    weight
        Median over views of the largest weight; near 0: nothing is found.
    predicted_error_px
        The same error on views with the given peak signal-to-noise ratios.
    centre_px
        The tracked point in the crop, (y, x).
    problem
        Why the training failed; empty if it did not.
    """

    error_px: float
    consistency_px: float
    weight: float
    predicted_error_px: dict[str, float]
    centre_px: tuple[float, float]
    problem: str

    def to_card(self) -> dict[str, object]:
        """Return the JSON-safe form that travels with the model."""
        return asdict(self)


@torch.no_grad()
def examine(
    network: Network,
    particle: Particle,
    settings: ViewSettings,
    *,
    anchor: Tensor,
    seed: int,
) -> TrainingReport:
    """Examine a trained network on unseen views of its own particle.

    `settings` are the ones it was trained with; noise and neighbours are set here.
    """

    def measure(level: float, offset: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator(device=anchor.device).manual_seed(seed + offset)
        alone = replace(settings, noise=(level, level), crowded=0.0)
        maker = ViewMaker(particle, alone, generator=generator)
        views = maker.draw(N_VIEWS)
        votes, rho = network.votes(views.images)
        pooled = pool(votes, normalised_weights(rho))
        off = (pooled.positions - views.place(anchor))[:, :2]
        weights = normalised_weights(rho)
        squared = ((votes - pooled.positions[..., None, None])[:, :2] ** 2).sum(1)
        return off, (squared * weights).sum((-2, -1)), torch.sigmoid(rho).amax((-2, -1))

    off, variance, weight = measure(1.0, 1)
    error = float(off.square().mean().sqrt())
    predicted = {}
    for i, snr in enumerate(SNRS):
        at_snr, _, _ = measure(particle.snr / snr, 2 + i)
        predicted[f"{snr:g}"] = float(at_snr.square().mean().sqrt())
    found = float(weight.median())
    middle = (particle.size_px - 1) / 2
    return TrainingReport(
        error_px=error,
        consistency_px=float(variance.mean().sqrt()),
        weight=found,
        predicted_error_px=predicted,
        centre_px=(float(anchor[0]) + middle, float(anchor[1]) + middle),
        problem=_problem(error, found, particle),
    )


def _problem(error_px: float, weight: float, particle: Particle) -> str:
    """Name the collapse, if any."""
    limit = max(0.5, 0.15 * particle.radius_px, 2.0 / particle.snr)
    if weight < 0.05:
        return f"all weights are near zero (largest {weight:.2g})"
    if error_px > limit:
        return (
            f"unseen views of the particle disagree by {error_px:.2f} px "
            f"(expected under {limit:.2f} px)"
        )
    return ""
