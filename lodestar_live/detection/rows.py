"""Turn the graph's rows into detections: merge, limit, flag, calibrate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from lodestar_live.data import DETECTION_DTYPE, Detections, Flag, Rows, blank_rows
from lodestar_live.detection.graph import COLUMNS

Found = npt.NDArray[np.float64]  # (n, columns) as the graph writes it
_AT = {name: index for index, name in enumerate(COLUMNS)}


def strongest(found: Found, limit: int) -> Found:
    """Return the `limit` rows of highest score, best first."""
    order = np.argsort(-found[:, _AT["score"]], kind="stable")
    return found[order[:limit]]


def merge(found: Found, distance_px: float) -> Found:
    """Keep the best of rows whose positions coincide within `distance_px`.

    `found` must be sorted by falling score. Two maxima of one particle have the same
    local weighted average; two particles do not.
    """
    if len(found) < 2:
        return found
    positions = found[:, [_AT["y_px"], _AT["x_px"]]]
    pairs = cKDTree(positions).query_pairs(distance_px, output_type="ndarray")
    is_kept = np.ones(len(found), bool)
    for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if is_kept[better]:
            is_kept[worse] = False
    return found[is_kept]


def inside(found: Found, shape: tuple[int, int]) -> Found:
    """Keep positions on the frame's pixels."""
    yx = found[:, [_AT["y_px"], _AT["x_px"]]]
    return found[((yx >= -0.5) & (yx <= np.subtract(shape, 0.5))).all(axis=1)]


def to_detections(
    found: Found,
    *,
    shape: tuple[int, int],
    card: Mapping[str, Any],
    scale: float,
    noise: float,
) -> Detections:
    """Write the contract's columns.

    Parameters
    ----------
    found
        The graph's rows.
    shape
        (height, width) of the frame.
    card
        The model's card: calibration of sigma, consistency limit, object radius.
    scale
        Camera counts per unit of normalised contrast.
    noise
        Standard deviation of the frame's background, camera counts.
    """
    rows = blank_rows(DETECTION_DTYPE, len(found))
    for name in ("y_px", "x_px", "score", "consistency_px"):
        rows[name] = found[:, _AT[name]]
    rows["intensity"] = found[:, _AT["contrast"]] * scale
    rows["sigma_px"] = sigma_px(rows, card.get("sigma"), noise)
    extras = [c for c in card["channels"] if c not in ("dy", "dx", "rho")]
    for index, name in enumerate(extras, start=len(COLUMNS)):
        _write_extra(rows, name, found[:, index], card)
    rows["flags"] = _flags(rows, shape, card)
    return Detections(rows)


def sigma_px(
    rows: Rows, factors: Mapping[str, float] | None, noise: float
) -> npt.NDArray[np.float64]:
    """Predict the localisation error from what was measured.

    sigma^2 = floor^2 + (spread * consistency)^2 + (noise_px / snr)^2, with
    snr = |intensity| / noise; NaN for a model that was not calibrated.
    """
    if factors is None:
        return np.full(len(rows), np.nan)
    inverse_snr = noise / np.maximum(np.abs(rows["intensity"]), 1e-12)
    spread = factors["spread"] * rows["consistency_px"]
    total = factors["floor_px"] ** 2 + spread**2
    result: npt.NDArray[np.float64] = np.sqrt(
        total + (factors["noise_px"] * inverse_snr) ** 2
    )
    return result


def _write_extra(rows: Rows, name: str, values: Found, card: Mapping[str, Any]) -> None:
    if name == "z_um":
        rows["z_um"] = values + card.get("z_um", 0.0)
    elif name == "ln_scale" and "polarizability_um3" in card:
        rows["polarizability_um3"] = card["polarizability_um3"] * np.exp(values)


def _flags(
    rows: Rows, shape: tuple[int, int], card: Mapping[str, Any]
) -> npt.NDArray[np.int32]:
    flags = np.zeros(len(rows), np.int32)
    yx = np.column_stack([rows["y_px"], rows["x_px"]])
    to_edge = np.minimum(yx, np.subtract(shape, 1) - yx).min(axis=1, initial=np.inf)
    flags[to_edge < card.get("radius_px", 0.0)] |= Flag.BORDER
    limit = card.get("consistency_px")
    if limit is not None:
        flags[rows["consistency_px"] > limit] |= Flag.UNLIKE
    return flags
