"""Holograms live: the field, refocusing, z and polarizability."""

from lodestar_live.holography.background import Background
from lodestar_live.holography.inline import Inline
from lodestar_live.holography.offaxis import OffAxis
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import Propagator, refocus

__all__ = ["Background", "Inline", "OffAxis", "Optics", "Propagator", "refocus"]
