"""The method: train a detector on one particle of one image. Imports torch."""

from lodestar_live.lodestar.model import Model
from lodestar_live.lodestar.network import NetworkName
from lodestar_live.lodestar.plan import Quality, Start
from lodestar_live.lodestar.trainer import train
from lodestar_live.lodestar.training import Progress, TrainingStep

__all__ = [
    "Model",
    "NetworkName",
    "Progress",
    "Quality",
    "Start",
    "TrainingStep",
    "train",
]
