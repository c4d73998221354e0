"""Batch: any number of recordings, on every core of one machine or of many.

Chunks of frames are detected on Dask's workers and linked in order; what was done is
kept as files, so that a run that was killed goes on where it was.
"""

from lodestar_live.batch.coordinate import BatchResult, run_batch
from lodestar_live.batch.plan import BatchPlan, gather_inputs

__all__ = ["BatchPlan", "BatchResult", "gather_inputs", "run_batch"]
