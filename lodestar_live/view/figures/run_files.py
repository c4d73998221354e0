"""Pictures that lie beside a run's file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.recording.movies import open_movie


def snapshot_of(run: str | Path) -> Pixels | None:
    """Return the snapshot of a recorded run, or None when there is none.

    Parameters
    ----------
    run
        The run's folder or its run.sqlite.
    """
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    path = folder / "snapshot.tif"
    if not path.is_file():
        return None
    try:
        return open_movie(path)[0]
    except InputError:  # a broken snapshot must not hide the tracks
        return None


@dataclass(frozen=True, slots=True, eq=False)
class KeptField:
    """One field of a run with holograms: complex, (y, x), background 1."""

    field: ComplexImage
    frame: int
    pixel_size_um: float


def field_of(run: str | Path) -> KeptField | None:
    """Return the field kept with a recorded run, or None when there is none."""
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    try:
        with np.load(folder / "field.npz") as kept:
            return KeptField(
                kept["field"], int(kept["frame"]), float(kept["pixel_size_um"])
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
