"""Fixtures every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of recorded microscopy data; it lies beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    assert folder.is_dir(), f"{folder}: recorded data missing; expected beside the repo"
    return folder
