"""Every measured quantity, declared once: name, unit, symmetry, columns.

Rows, run file, wire, page, tables and exports take their columns from here. LodeSTAR
learns a quantity from how it must answer when the image is changed in a known way
(Midtvedt et al., Nat. Commun. 13, 7492, 2022): that answer is its `Action` under each
`Symmetry`, and it also says what a vote of the network means (`Channel.from_votes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


class Symmetry(StrEnum):
    """A known change of the image."""

    TRANSLATION = "translation"  # of the particle in the plane
    ROTATION = "rotation"
    MIRROR = "mirror"
    PROPAGATION = "propagation"  # along the light
    AMPLITUDE = "amplitude"  # what the particle adds to the field, or image, grows


class Action(StrEnum):
    """How a quantity answers to a symmetry."""

    INVARIANT = "invariant"
    ADDS = "adds"  # the change's own amount is added to it
    TURNS = "turns"  # it is a vector of the plane, or an angle in it
    SCALES = "scales"  # it is multiplied by the change's own factor


class Pooling(StrEnum):
    """How one value per particle comes about."""

    VOTES = "votes"  # local weighted average of the network's votes
    MAP = "map"  # the graph's own map, at the detection
    IMAGE = "image"  # measured in the frame, at the detection
    FIELD = "field"  # measured in the complex field, at the detection


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity.

    Parameters
    ----------
    name
        What `train(..., channels=...)` and people call it.
    label
        What a reader sees.
    unit
        As it is written on the wire.
    column, sigma_column
        Its column in rows, and that of its 1-sigma uncertainty; None: it has none.
    pooling
        How one value per particle comes about.
    actions
        How it answers to each symmetry; invariant under those left out.
    output
        The network's output that votes for it; None: the network has none.
    is_diagnostic
        Says how a detection came about rather than what the particle is.
    dtype
        Of the column.
    """

    name: str
    label: str
    unit: str
    column: str
    sigma_column: str | None = None
    pooling: Pooling = Pooling.VOTES
    actions: Mapping[Symmetry, Action] = field(default_factory=dict)
    output: str | None = None
    is_diagnostic: bool = False
    dtype: str = "f8"

    def under(self, symmetry: Symmetry) -> Action:
        """Return how the quantity answers to a symmetry."""
        return self.actions.get(symmetry, Action.INVARIANT)

    def from_votes(self, votes: FloatArray, reference: float) -> FloatArray:
        """Return the quantity where the training particle's is `reference`.

        Votes say by how much a particle was changed with respect to the training
        particle: an amount that is added, or the logarithm of a factor.
        """
        if Action.SCALES in self.actions.values():
            return reference * np.exp(votes)
        return reference + votes


_IN_PLANE = {
    Symmetry.TRANSLATION: Action.ADDS,
    Symmetry.ROTATION: Action.TURNS,
    Symmetry.MIRROR: Action.TURNS,
}
_SCALED = {Symmetry.AMPLITUDE: Action.SCALES}

CHANNELS: tuple[Channel, ...] = (
    Channel("y", "y", "px", "y_px", "sigma_px", actions=_IN_PLANE, output="dy"),
    Channel("x", "x", "px", "x_px", "sigma_px", actions=_IN_PLANE, output="dx"),
    Channel(
        "z", "z", "um", "z_um", "sigma_z_um",
        actions={Symmetry.PROPAGATION: Action.ADDS},
        output="z_um",
    ),
    Channel(
        "polarizability", "polarizability", "um^3",
        "polarizability_um3", "sigma_polarizability_um3",
        Pooling.FIELD, _SCALED,
    ),
    # Modulo the particle's own symmetry; from the x axis (right) to the y axis (down).
    Channel(
        "angle", "angle", "deg", "angle_deg", "sigma_angle_deg",
        Pooling.IMAGE, {Symmetry.ROTATION: Action.ADDS, Symmetry.MIRROR: Action.TURNS},
    ),
    Channel("score", "score", "1", "score", pooling=Pooling.MAP),
    Channel(
        "scale", "polarizability by the network", "um^3", "scale_polarizability_um3",
        actions=_SCALED,
        output="ln_scale",
        is_diagnostic=True,
    ),
    # The spread of the local votes: small means "a particle like mine".
    Channel(
        "consistency", "consistency", "px", "consistency_px",
        pooling=Pooling.MAP,
        is_diagnostic=True,
    ),
    # Peak contrast against the background, in camera counts.
    Channel(
        "intensity", "intensity", "counts", "intensity",
        pooling=Pooling.IMAGE,
        actions=_SCALED,
        is_diagnostic=True,
    ),
    Channel(
        "flags", "flags", "bits", "flags",
        pooling=Pooling.IMAGE,
        is_diagnostic=True,
        dtype="i4",
    ),
)  # fmt: skip


def by_name(name: str) -> Channel:
    """Return a channel by its name.

    Raises
    ------
    KeyError
        There is none.
    """
    return _BY_NAME[name]


def of_output(output: str) -> Channel:
    """Return the channel that an output of the network votes for.

    Raises
    ------
    KeyError
        There is none.
    """
    return _BY_OUTPUT[output]


def columns() -> list[tuple[str, str]]:
    """Return (name, dtype) of every column of a detection.

    What is measured comes first, then how well, then how it came about.
    """
    measured = [c for c in CHANNELS if not c.is_diagnostic]
    sigmas = [c.sigma_column for c in measured if c.sigma_column is not None]
    return [
        *((c.column, c.dtype) for c in measured),
        *((name, "f8") for name in dict.fromkeys(sigmas)),
        *((c.column, c.dtype) for c in CHANNELS if c.is_diagnostic),
    ]


def units() -> dict[str, str]:
    """Return the unit of every column of a detection."""
    found = {c.column: c.unit for c in CHANNELS}
    found |= {c.sigma_column: c.unit for c in CHANNELS if c.sigma_column is not None}
    return {name: found[name] for name, _ in columns()}


def to_json() -> list[dict[str, Any]]:
    """Return what a page needs to show every quantity with its unit."""
    return [
        {
            "name": channel.name,
            "label": channel.label,
            "unit": channel.unit,
            "column": channel.column,
            "sigma_column": channel.sigma_column,
            "is_diagnostic": channel.is_diagnostic,
        }
        for channel in CHANNELS
    ]


_BY_NAME = {channel.name: channel for channel in CHANNELS}
_BY_OUTPUT = {c.output: c for c in CHANNELS if c.output is not None}
