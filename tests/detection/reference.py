"""The detector once more, in float64 numpy: plain formulas, absolute coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import correlate

from lodestar_live.detection.model.weights import (
    Conv,
    LocalContrast,
    MaxPool,
    NetworkWeights,
)


def features(
    image: np.ndarray, weights: NetworkWeights, background: float, scale: float
) -> np.ndarray:
    """(channels, y, x) float64 -> (outputs, rows, columns)."""
    grid = 4 if isinstance(weights.layers[0], LocalContrast) else weights.stride
    value = (image.astype(float) - background) / scale
    least = 3 * weights.stride
    target = [math.ceil(max(least, s) / grid) * grid for s in value.shape[1:]]
    pad = [(0, t - s) for t, s in zip(target, value.shape[1:], strict=True)]
    value = np.pad(value, [(0, 0), *pad], mode="edge")
    for layer in weights.layers:
        if isinstance(layer, Conv):
            value = convolve(value, layer)
        elif isinstance(layer, MaxPool):
            value = blocks(value, layer.factor).max(axis=(2, 4))
        elif isinstance(layer, LocalContrast):
            value = local_contrast(value[0], layer)[None]
        else:
            parts = blocks(value, layer.factor).transpose(0, 2, 4, 1, 3)
            value = parts.reshape(-1, *parts.shape[3:])
    return value


def local_contrast(image: np.ndarray, layer: LocalContrast) -> np.ndarray:
    means = blocks(image[None], layer.cell_px).mean(axis=(2, 4))[0]
    background = box_mean(means, layer.background_cells)
    power = box_mean((means - background) ** 2, layer.contrast_cells)
    one = np.ones((layer.cell_px, layer.cell_px))
    return (image - np.kron(background, one)) / np.sqrt(
        np.kron(power, one) + layer.floor
    )


def box_mean(means: np.ndarray, side: int) -> np.ndarray:
    result = np.empty_like(means)
    for i, j in np.ndindex(means.shape):
        result[i, j] = means[near(i, j, side // 2)].mean()
    return result


def blocks(value: np.ndarray, factor: int) -> np.ndarray:
    channels, height, width = value.shape
    return value.reshape(channels, height // factor, factor, width // factor, factor)


def convolve(value: np.ndarray, layer: Conv) -> np.ndarray:
    n_out, n_in, height, width = layer.weight.shape
    d = layer.dilation
    kernel = np.zeros((n_out, n_in, d * (height - 1) + 1, d * (width - 1) + 1))
    kernel[:, :, ::d, ::d] = layer.weight
    pad_y, pad_x = layer.padding
    padded = np.pad(value, [(0, 0), (pad_y, pad_y), (pad_x, pad_x)])
    maps = [correlate(padded, one, mode="valid", method="auto")[0] for one in kernel]
    result = np.stack(maps)[:, :: layer.stride, :: layer.stride]
    result = result + layer.bias[:, None, None]
    return np.maximum(result, layer.leak * result) if layer.relu else result


@dataclass
class Row:
    y_px: float
    x_px: float
    score: float
    consistency_px: float


def scores(maps: np.ndarray, weights: NetworkWeights, alpha: float, beta: float):
    """Log score from absolute votes; the outermost cells take their neighbour's c."""
    y, x, log_weight = votes(maps, weights)
    rows, columns = log_weight.shape
    variance = np.zeros((rows, columns))
    for i in range(1, rows - 1):
        for j in range(1, columns - 1):
            around = np.s_[i - 1 : i + 2, j - 1 : j + 2]
            variance[i, j] = y[around].var() + x[around].var()
    variance = np.pad(variance[1:-1, 1:-1], 1, mode="edge")
    return alpha * log_weight - beta * np.log(1e-6 + variance)


def votes(maps: np.ndarray, weights: NetworkWeights):
    k = weights.stride
    named = dict(zip(weights.channels, maps, strict=True))
    i, j = np.indices(named["rho"].shape)
    y = k * i + (k - 1) / 2 + named["dy"]
    x = k * j + (k - 1) / 2 + named["dx"]
    return y, x, -np.logaddexp(0, -named["rho"])


def detect(
    maps: np.ndarray,
    weights: NetworkWeights,
    *,
    threshold: float,
    alpha: float = 0.5,
    beta: float = 0.5,
    window_px: float = 8.0,
    vote_px: float = 2.0,
) -> list[Row]:
    score = scores(maps, weights, alpha, beta)
    y, x, log_weight = votes(maps, weights)
    radius = max(1, round(window_px / weights.stride))
    k, found = weights.stride, []

    def middle(index: int) -> float:
        return k * index + (k - 1) / 2

    for i, j in np.argwhere(score > threshold):
        is_home = max(abs(y[i, j] - middle(i)), abs(x[i, j] - middle(j))) < 0.6 * k
        if score[i, j] < score[near(i, j, 1)].max() and not is_home:
            continue
        _, _, consistency = average(y, x, np.exp(log_weight), near(i, j, 1))
        place = y[i, j], x[i, j]
        window, width_px2 = near(i, j, radius), vote_px**2
        for _ in range(2):
            apart = (y - place[0]) ** 2 + (x - place[1]) ** 2
            log_gated = log_weight - apart / (2 * width_px2)
            gated = np.exp(log_gated - log_gated[window].max())
            *place, scatter = average(y, x, gated, window)
            width_px2 = max(scatter**2, 1.0)
        found.append(Row(*place, float(score[i, j]), consistency))
    return found


def near(i: int, j: int, radius: int) -> tuple[slice, slice]:
    return (
        slice(max(0, i - radius), i + radius + 1),
        slice(max(0, j - radius), j + radius + 1),
    )


def average(y, x, weight, window) -> tuple[float, float, float]:
    share = weight[window] / weight[window].sum()
    y0, x0 = (share * y[window]).sum(), (share * x[window]).sum()
    spread = share * ((y[window] - y0) ** 2 + (x[window] - x0) ** 2)
    return float(y0), float(x0), float(np.sqrt(spread.sum()))
