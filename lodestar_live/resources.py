"""Find the shipped presets, models and hook scripts, in a checkout or a wheel."""

from __future__ import annotations

from pathlib import Path

from lodestar_live.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def folder(kind: str) -> Path:
    """Return the folder that holds ``hooks``, ``models`` or ``config``."""
    shipped = _PACKAGE / "_shipped" / kind
    return shipped if shipped.is_dir() else _PACKAGE.parent / kind


def find(kind: str, name: str) -> Path:
    """Return the path of a shipped file, or of `name` itself if that exists.

    Raises
    ------
    InputError
        Neither a file called `name` nor a shipped one exists.
    """
    # A README's "config/beads.toml" is meant, too, where only the wheel is installed.
    shipped = folder(kind) / name.removeprefix(f"{kind}/")
    for candidate in (Path(name), shipped):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.name for p in folder(kind).glob("*") if p.is_file()))
    raise InputError(
        f"{name}: no such file, and none shipped in {kind}/ (has: {known})."
    )
