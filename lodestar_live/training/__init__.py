"""The method: train a detector on one particle of one image. Imports torch."""

from lodestar_live.training.fit import Progress, TrainingStep
from lodestar_live.training.model import Model
from lodestar_live.training.network.network import NetworkName
from lodestar_live.training.plan import Quality, Start
from lodestar_live.training.trainer import train

__all__ = [
    "Model",
    "NetworkName",
    "Progress",
    "Quality",
    "Start",
    "TrainingStep",
    "train",
]
