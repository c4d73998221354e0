from __future__ import annotations

import pytest

from lodestar_live.errors import SettingsError
from lodestar_live.settings import Settings, load_settings, parse_settings


def test_defaults_are_valid_and_nothing_is_armed() -> None:
    settings = parse_settings({})
    assert settings == Settings()
    assert not settings.control.armed
    assert settings.control.limits is None


def test_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="search_radius: unknown key; did you mean"):
        parse_settings({"linking": {"search_radius": 3}})


def test_unknown_key_in_an_optional_section_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="'wavelength_um'"):
        parse_settings({"holography": {"wavelenth_um": 0.6}})


def test_impossible_value_names_the_key_and_the_value() -> None:
    with pytest.raises(SettingsError, match=r"exposure_ms = -1"):
        parse_settings({"acquisition": {"exposure_ms": -1}})


def test_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        load_settings(tmp_path / "absent.toml")


def test_broken_toml_is_named(tmp_path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("a = [", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"broken\.toml: not valid TOML"):
        load_settings(path)
