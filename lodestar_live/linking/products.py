"""Small matrices times many columns, on the thread that asks.

BLAS wakes its other threads for products above a size, and they spin while they wait:
in a live run that costs the detector more than it gains here. Blocks stay below it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lodestar_live.data import FloatArray

BLOCK = 4096  # columns; OpenBLAS starts threads at 2**18 multiplications, 64 a column


def transform(matrix: FloatArray, columns: FloatArray) -> FloatArray:
    """Return `matrix @ columns`, shapes (..., m, f) and (..., f, n)."""
    n = columns.shape[-1]
    if n <= BLOCK:
        return np.asarray(matrix @ columns)
    out = np.empty((*columns.shape[:-2], matrix.shape[-2], n))
    for block in _blocks(n):
        np.matmul(matrix, columns[..., block], out=out[..., block])
    return out


def summed(weight: FloatArray, columns: FloatArray) -> FloatArray:
    """Return `weight @ columns.T`, shapes (k, n) and (f, n): sums over the columns."""
    n = weight.shape[1]
    if n <= BLOCK:
        return np.asarray(weight @ columns.T)
    total = np.zeros((len(weight), len(columns)))
    for block in _blocks(n):
        total += weight[:, block] @ columns[:, block].T
    return total


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))
