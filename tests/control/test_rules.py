from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.control.rules import Rules, parse_rule
from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Frame,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.errors import SettingsError
from tests.control.test_gate import Bench


def update(n_tracks: int) -> Update:
    frame = Frame(0, np.zeros((4, 4)))
    return Update(frame, Detections.empty(), Tracks(blank_rows(TRACK_DTYPE, n_tracks)))


def test_a_rule_acts_once_when_its_condition_becomes_true() -> None:
    bench = Bench(properties={"Camera Exposure": (1, 50)})
    rules = Rules(("when n_tracks > 20: set Camera Exposure 5",), bench.gate)
    for n_tracks in (5, 21, 30, 3, 25):
        rules.apply(update(n_tracks))
    assert bench.driver.properties == [("Camera", "Exposure", "5")] * 2


def test_a_rule_waits_for_its_number_of_frames() -> None:
    bench = Bench(properties={"White Light Shutter State": ("0", "1")})
    text = 'when n_tracks < 1 for 3 frames: set "White Light Shutter" State 0'
    rules = Rules((text,), bench.gate)
    for n_tracks in (0, 0, 1, 0, 0, 0, 0):
        rules.apply(update(n_tracks))
    assert bench.driver.properties == [("White Light Shutter", "State", "0")]


def test_a_property_that_is_not_listed_is_refused_and_recorded() -> None:
    bench = Bench()
    Rules(("when n_tracks >= 1: set Laser Power 100",), bench.gate).apply(update(1))
    assert bench.driver.properties == []
    assert bench.events[-1].kind == "property.refused"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if n_tracks > 2: set A B 1", "not understood"),
        ("when tracks > 2: set A B 1", "unknown quantity 'tracks'"),
        ("when n_tracks > many: set A B 1", "'many' is not a number"),
        ("when n_tracks > nan: set A B 1", "'nan' is not a number"),
        ("when n_tracks > 2: set A B", "not understood"),
        ("when __import__('os') > 2: set A B 1", "not understood"),
    ],
)
def test_a_broken_rule_says_what_is_wrong(text, expected) -> None:
    with pytest.raises(SettingsError, match=expected):
        parse_rule(text)


@given(st.text())
def test_any_text_is_a_rule_or_a_clear_error(text) -> None:
    try:
        parse_rule(text)
    except SettingsError as error:
        assert "rule" in str(error)
