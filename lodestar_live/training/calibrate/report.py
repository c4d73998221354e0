"""Did the training work? Views the network has never seen give the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lodestar_live.model_card import ReportFacts
from lodestar_live.training.augment.views import ViewMaker, ViewSettings
from lodestar_live.training.losses import normalised_weights, pool
from lodestar_live.training.network.network import Network
from lodestar_live.training.particle.measure import Particle

N_VIEWS = 96
SNRS = (2.0, 3.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Self-examination of a freshly trained network.

    Parameters
    ----------
    error_px
        Per-axis root-mean-square disagreement between unseen views, mapped back into
        the crop, at the crop's own noise; of several crops, over the views of all.
    consistency_px
        Root-mean-square spread of the weighted votes inside a view.
    weight
        Median over views of the largest weight; near 0: nothing is found.
    predicted_error_px
        The same error on views with the given peak signal-to-noise ratios.
    centre_px
        The tracked point in the first crop, (y, x).
    crop_centre_px, crop_error_px
        The same of each crop.
    problem
        Why the training failed; empty if it did not.
    """

    error_px: float
    consistency_px: float
    weight: float
    predicted_error_px: dict[str, float]
    centre_px: tuple[float, float]
    crop_centre_px: tuple[tuple[float, float], ...]
    crop_error_px: tuple[float, ...]
    problem: str

    def to_card(self, *, factor: int = 1) -> ReportFacts:
        """Return the form that travels with the model.

        What concerns single crops is listed with them, see `crops.crop_cards`.

        Parameters
        ----------
        factor
            Camera pixels per pixel of the network's: errors are camera pixels there.
        """
        predicted = self.predicted_error_px.items()
        return ReportFacts(
            error_px=factor * self.error_px,
            consistency_px=factor * self.consistency_px,
            weight=self.weight,
            predicted_error_px={snr: factor * error for snr, error in predicted},
            centre_px=self.centre_px,
            problem=self.problem,
        )


@torch.no_grad()
def examine(
    network: Network,
    particles: Sequence[Particle],
    settings: ViewSettings,
    *,
    anchor: Tensor,
    seed: int,
) -> TrainingReport:
    """Examine a trained network on unseen views of its own particles.

    `settings` are the ones it was trained with; noise and neighbours are set here.
    `anchor` (crops, 2): the tracked point of each.
    """

    def measure(index: int, level: float, offset: int) -> tuple[Tensor, ...]:
        generator = torch.Generator(device=anchor.device).manual_seed(seed + offset)
        alone = replace(settings, noise=(level, level), crowded=0.0, apparent=False)
        maker = ViewMaker([particles[index]], alone, generator=generator)
        views = maker.draw(N_VIEWS)
        votes, rho = network.votes(views.images)
        pooled = pool(votes, normalised_weights(rho))
        off = (pooled.positions - views.place(anchor[index : index + 1]))[:, :2]
        weights = normalised_weights(rho)
        squared = ((votes - pooled.positions[..., None, None])[:, :2] ** 2).sum(1)
        return off, (squared * weights).sum((-2, -1)), torch.sigmoid(rho).amax((-2, -1))

    own = [measure(index, 1.0, 1) for index in range(len(particles))]
    errors = [_rms(off) for off, _, _ in own]
    weights = [float(weight.median()) for _, _, weight in own]
    predicted = {}
    for i, snr in enumerate(SNRS):
        at_snr = [
            measure(index, particle.snr / snr, 2 + i)[0]
            for index, particle in enumerate(particles)
        ]
        predicted[f"{snr:g}"] = _rms(torch.cat(at_snr))
    middle = (particles[0].size_px - 1) / 2
    centres = tuple((y + middle, x + middle) for y, x in anchor[:, :2].tolist())
    return TrainingReport(
        error_px=_rms(torch.cat([off for off, _, _ in own])),
        consistency_px=float(torch.cat([v for _, v, _ in own]).mean().sqrt()),
        weight=min(weights),
        predicted_error_px=predicted,
        centre_px=centres[0],
        crop_centre_px=centres,
        crop_error_px=tuple(errors),
        problem=_first_problem(errors, weights, particles),
    )


def _rms(errors: Tensor) -> float:
    return float(errors.square().mean().sqrt())


def _first_problem(
    errors_px: list[float], weights: list[float], particles: Sequence[Particle]
) -> str:
    """Name the first crop that was not learnt, if any, and why."""
    for index, judged in enumerate(zip(errors_px, weights, particles, strict=True)):
        problem = _problem(*judged)
        if problem:
            return problem if len(particles) == 1 else f"crop {index + 1}: {problem}"
    return ""


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
