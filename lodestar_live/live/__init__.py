"""Live tracking: the image processor, its mailbox, worker, accounting and shutdown."""

from lodestar_live.live.accounts import Latency, Summary
from lodestar_live.live.tracker import LiveTracker

__all__ = ["Latency", "LiveTracker", "Summary"]
