"""What the demo came to, compared with the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.data import Rows
from lodestar_live.live import Summary
from lodestar_live.simulation.score import TrackingScore, particle_of_track


@dataclass(frozen=True, slots=True)
class FollowScore:
    """How well the stage kept its target in the middle of the frame."""

    n_frames: int
    n_targets: int
    rms_error_um: float
    p95_error_um: float
    path_um: float


@dataclass(frozen=True, slots=True)
class SphereScore:
    """Errors of one kind of sphere, and the median of its two polarizabilities.

    `z_rmse_um` includes the offset that another species than the training particle
    has; `z_scatter_um` is what is left without it. `n_disagree` positions are flagged
    because the two polarizabilities disagree.
    """

    radius_um: float
    n: int
    y_rmse_um: float
    x_rmse_um: float
    z_rmse_um: float
    z_offset_um: float
    z_scatter_um: float
    polarizability_um3: float
    scale_polarizability_um3: float
    theory_um3: float
    n_disagree: int

    def truth_rows(self) -> list[tuple[str, str]]:
        """Return (name, value) rows."""
        name = f"{1e3 * self.radius_um:.0f} nm, n = {self.n}"
        nm = [1e3 * v for v in (self.x_rmse_um, self.y_rmse_um, self.z_rmse_um)]
        two = (self.polarizability_um3, self.scale_polarizability_um3)
        phase, scale = (f"{v:.2e} ({v / self.theory_um3 - 1:+.0%})" for v in two)
        return [
            (f"{name}: x, y, z RMSE", " ".join(f"{v:.0f}" for v in nm) + " nm"),
            (
                "  of z: offset, scatter",
                f"{1e3 * self.z_offset_um:+.0f}, {1e3 * self.z_scatter_um:.0f} nm",
            ),
            ("  polarizability, phase", f"{phase} um3"),
            ("  polarizability, scale", f"{scale} um3, {self.n_disagree} flagged"),
        ]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo came to."""

    summary: Summary
    score: TrackingScore
    follow: FollowScore | None
    crop: tuple[float, float, float] | None
    run_folder: Path
    report_path: Path
    spheres: tuple[SphereScore, ...] = ()

    def truth_rows(self) -> list[tuple[str, str]]:
        """Return the comparison with the truth as (name, value) rows."""
        score = self.score
        rows = [
            ("true positives", f"{score.true_positive_rate:.2%} of {score.n_truth}"),
            ("false discoveries", f"{score.false_discovery_rate:.2%}"),
            ("position error", f"{score.rmse_px:.3f} px rms (2-D)"),
            ("link errors", f"{score.link_error_rate:.2%} of {score.n_steps}"),
        ]
        if self.follow is not None:
            follow = self.follow
            rows += [
                ("followed", f"{follow.n_frames} frames, {follow.n_targets} target(s)"),
                ("centring error", f"{follow.rms_error_um:.2f} um rms"),
                ("stage path", f"{follow.path_um:.0f} um"),
            ]
        return rows + [row for kind in self.spheres for row in kind.truth_rows()]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-safe values."""
        facts = asdict(self)
        facts["run_folder"], facts["report_path"] = (
            str(self.run_folder),
            str(self.report_path),
        )
        return facts


def score_following(
    tracks: Rows,
    frames: Rows,
    truth: Rows,
    *,
    targets: list[tuple[int, int | None]],
    shape: tuple[int, int],
    gate_px: float,
) -> FollowScore | None:
    """Compare the true place of the followed particle with the frame's centre."""
    chosen = [(frame, target) for frame, target in targets if target is not None]
    if not chosen:
        return None
    names = particle_of_track(tracks, truth, gate_px)
    where = {
        (int(row["frame"]), int(row["particle"])): (row["y_px"], row["x_px"])
        for row in truth
    }
    particles = {names[key] for key in chosen if key in names}
    centre = (np.array(shape) - 1) / 2
    errors = [
        np.hypot(*(np.array(where[frame, names[frame, target]]) - centre))
        for frame, target in chosen
        if (frame, target) in names
    ]
    stage = np.column_stack([frames["stage_y_um"], frames["stage_x_um"]])
    stage = stage[np.all(np.isfinite(stage), axis=1)]
    steady = np.array(errors[len(errors) // 10 :])  # after the first approach
    steady *= float(frames["pixel_size_um"][0])
    return FollowScore(
        n_frames=len(chosen),
        n_targets=len(particles),
        rms_error_um=float(np.sqrt(np.mean(np.square(steady)))),
        p95_error_um=float(np.percentile(steady, 95)),
        path_um=float(np.hypot(*np.diff(stage, axis=0).T).sum()),
    )
