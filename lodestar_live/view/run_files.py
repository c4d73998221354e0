"""Pictures that lie beside a run's file."""

from __future__ import annotations

from pathlib import Path

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError
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
