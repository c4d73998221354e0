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


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ([120, 88.5], (120.0, 88.5)),
        ([[120, 88], [40, 210]], ((120.0, 88.0), (40.0, 210.0))),
        (None, None),
    ],
)
def test_one_particle_or_several_can_be_learnt_from(given, read) -> None:
    assert parse_settings({"training": {"at_px": given}}).training.at_px == read


def test_a_network_without_starting_weights_is_refused_before_the_run() -> None:
    with pytest.raises(SettingsError, match="only 'live' has generic weights"):
        parse_settings({"training": {"network": "paper", "start": "warm"}})


@pytest.mark.parametrize(
    "given", [[], [[]], [1], [1, 2, 3], [[1, 2], [3]], "1,2", [1, float("nan")]]
)
def test_what_is_no_place_of_a_particle_is_refused_in_one_sentence(given) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_settings({"training": {"at_px": given}})
    said = str(raised.value)
    assert f"training.at_px = {given!r}" in said
    assert said.count("expected") == 1
    assert "(y, x) of one particle in px, or a list of such pairs" in said
