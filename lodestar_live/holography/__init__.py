"""Holograms live: the field, refocusing, z and polarizability."""

from lodestar_live.holography.background import Background
from lodestar_live.holography.focus import Focus, autofocus, autofocus_classical
from lodestar_live.holography.inline import Inline
from lodestar_live.holography.offaxis import OffAxis
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.particles import ParticleRefiner, Reference
from lodestar_live.holography.polarizability import clausius_mossotti_um3
from lodestar_live.holography.prepare import HologramPreparer
from lodestar_live.holography.propagation import Propagator, refocus

__all__ = [
    "Background",
    "Focus",
    "HologramPreparer",
    "Inline",
    "OffAxis",
    "Optics",
    "ParticleRefiner",
    "Propagator",
    "Reference",
    "autofocus",
    "autofocus_classical",
    "clausius_mossotti_um3",
    "refocus",
]
