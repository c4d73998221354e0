"""The whole job from one page: what `lodestar-live start` serves.

Every slow step (train, calibrate, run, plot, export) is one of our own commands in a
process of its own, which the page can show: what is done by hand and what is done here
cannot differ. In this process the microscope is only looked at, and let go of before
another takes it.
"""

from lodestar_live.start.feed import StartFeed
from lodestar_live.start.job import Job

__all__ = ["Job", "StartFeed"]
