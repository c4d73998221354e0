"""Every shipped preset loads; every key in it exists."""

from __future__ import annotations

import pytest

from lodestar_live.resources import folder
from lodestar_live.settings import load_settings

PRESETS = sorted(folder("config").glob("*.toml"))


def test_presets_are_shipped() -> None:
    names = {path.stem for path in PRESETS}
    assert {"fluorescent_beads", "brightfield_cells", "offaxis_hologram"} <= names


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_preset_loads_and_arms_nothing_but_the_demo(path) -> None:
    settings = load_settings(path)
    assert settings.control.armed == (path.stem == "demo")
