"""Runs with known truth, made from mathematics: for tests of the view room."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import Event, RunInfo, blank_rows
from lodestar_live.view import RUN_TRACK_DTYPE, RunArrays

PIXEL_SIZE_UM = 0.1
FRAME_DTYPE = np.dtype(
    [("frame", "i8"), ("t_exposure_s", "f8"), ("t_arrival_s", "f8"), ("state", "U10")]
    + [(f"stage_{a}_um", "f8") for a in "zyx"]
    + [(f"{s}_ms", "f8") for s in ("prepare", "detect", "link", "latency")]
)


def brownian_run(
    *,
    n_tracks=30,
    n_frames=300,
    diffusion_um2_per_s=0.5,
    noise_px=0.05,
    interval_s=0.02,
    size_px=512,
    seed=0,
    follow=False,
    swim_px=0.0,
    with_z=False,
):
    """Return (RunArrays, truth rows): free diffusion seen with localisation noise."""
    draw = np.random.default_rng(seed)
    sigma_px = np.sqrt(2 * diffusion_um2_per_s * interval_s) / PIXEL_SIZE_UM
    steps = draw.normal(0, sigma_px, (n_frames, n_tracks, 2))
    angle = draw.uniform(0, 2 * np.pi, n_tracks) + np.cumsum(
        draw.normal(0, 0.05, (n_frames, n_tracks)), 0
    )
    steps += swim_px * np.stack([np.sin(angle), np.cos(angle)], -1)
    start = draw.uniform(40, size_px - 40, (1, n_tracks, 2))
    sample = start + np.cumsum(steps, axis=0)
    moved = np.zeros((n_frames, 2))
    if follow:
        target, centre = sample[:, 0], (size_px - 1) / 2
        for i in range(1, n_frames):
            moved[i] = moved[i - 1] + 0.3 * (target[i - 1] - moved[i - 1] - centre)
    true = sample - moved[:, None]
    seen = true + draw.normal(0, noise_px, true.shape)
    rows = blank_rows(RUN_TRACK_DTYPE, n_frames * n_tracks).reshape(n_frames, n_tracks)
    rows["frame"] = np.arange(n_frames)[:, None]
    rows["t_exposure_s"] = rows["frame"] * interval_s
    rows["track_id"] = np.arange(1, n_tracks + 1)
    rows["y_px"], rows["x_px"] = seen[..., 0], seen[..., 1]
    rows["score"], rows["sigma_px"] = 0.9, noise_px
    if with_z:
        rows["z_um"] = draw.normal(0, 2, n_tracks) + np.cumsum(
            draw.normal(0, 0.05, rows.shape), 0
        )
        rows["polarizability_um3"] = draw.normal(0.08, 0.01, rows.shape)
    truth = np.zeros(
        rows.size, [("frame", "i8"), ("particle", "i8"), ("y_px", "f8"), ("x_px", "f8")]
    )
    truth["frame"], truth["particle"] = rows["frame"].ravel(), rows["track_id"].ravel()
    truth["y_px"], truth["x_px"] = true[..., 0].ravel(), true[..., 1].ravel()
    frames = blank_rows(FRAME_DTYPE, n_frames)
    frames["frame"], frames["t_exposure_s"] = (
        np.arange(n_frames),
        np.arange(n_frames) * interval_s,
    )
    frames["t_arrival_s"] = frames["t_exposure_s"] + 0.004
    frames["state"] = "processed"
    frames["stage_z_um"] = 0
    frames["stage_y_um"], frames["stage_x_um"] = (moved * PIXEL_SIZE_UM).T
    frames["prepare_ms"] = draw.lognormal(np.log(0.6), 0.15, n_frames)
    frames["detect_ms"] = draw.lognormal(np.log(8), 0.12, n_frames)
    frames["link_ms"] = draw.lognormal(np.log(0.4), 0.2, n_frames)
    frames["latency_ms"] = (
        4 + frames["prepare_ms"] + frames["detect_ms"] + frames["link_ms"]
    )
    events = [
        Event("stage.moved", i * interval_s, i, {"track_id": 1, "y_um": y, "x_um": x})
        for i, (y, x) in enumerate(moved * PIXEL_SIZE_UM)
        if follow
    ]
    info = RunInfo(
        "0123456789ab",
        "2026-11-22T19:00:00+00:00",
        {"name": "brownian"},
        pixel_size_um=PIXEL_SIZE_UM,
    )
    return RunArrays(rows.ravel(), frames, events, info), truth


def picture(run, truth, frame=0, *, size_px=512, spread_px=2.0, seed=0):
    """Return the frame as a camera would show it: Gaussian spots, shot noise."""
    y, x = np.mgrid[:size_px, :size_px]
    image = np.full((size_px, size_px), 200.0)
    for row in truth[truth["frame"] == frame]:
        image += 900 * np.exp(
            -((y - row["y_px"]) ** 2 + (x - row["x_px"]) ** 2) / (2 * spread_px**2)
        )
    return np.random.default_rng(seed).poisson(image).astype(np.uint16)
