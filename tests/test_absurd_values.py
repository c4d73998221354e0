"""Values that would switch a check off, or that nobody means: refused in a sentence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodestar_live.control import Calibration, load_calibration
from lodestar_live.errors import CalibrationError, LodestarError, SettingsError
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import load_settings, parse_settings
from lodestar_live.streams import Publisher
from lodestar_live.streams.commands import Commands

INF, NAN = float("inf"), float("nan")
DEEP = "[" * 5000 + "]" * 5000
LONG = "9" * 4200


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def control(**values: Any) -> dict[str, Any]:
    return {"control": values}


SETTINGS = [
    *(
        (control(**{name: value}), f"control.{name}")
        for name in ("max_step_um", "max_rate_hz", "max_age_s", "max_z_step_um")
        for value in (INF, NAN, -1.0, 0, 1e308, "5", True)
    ),
    *((control(armed=value), "control.armed") for value in ("yes", 1, "true", [True])),
    (control(limits={"y_um": [-INF, INF], "x_um": [-1, 1]}), "control.limits.y_um"),
    (control(limits={"y_um": [-1e308, 1e308], "x_um": [-1, 1]}), "control.limits.y_um"),
    (control(limits={"y_um": [5, -5], "x_um": [-1, 1]}), "control.limits.y_um"),
    (control(limits={"y_um": [1], "x_um": [-1, 1]}), "control.limits.y_um"),
    (control(coast_frames=10**18), "control.coast_frames"),
    (control(coast_frames=int(LONG)), "control.coast_frames"),
    (control(dwell_s=INF), "control.dwell_s"),
    (control(rules=nested(5000)), "control.rules"),
    (control(mode="both"), "control.mode"),
    ({"microscope": {"port": 65536}}, "microscope.port"),
    ({"microscope": {"port": 4827.0}}, "microscope.port"),
    *(
        ({"streams": {name: f"tcp://127.0.0.1:{port}"}}, f"streams.{name}")
        for name in ("stream", "latest", "control")
        for port in (65536, 99999, LONG)
    ),
    ({"streams": {"control": "http://127.0.0.1:5558"}}, "streams.control"),
    ({"acquisition": {"exposure_ms": INF}}, "acquisition.exposure_ms"),
]


@pytest.mark.parametrize(("data", "named"), SETTINGS)
def test_a_setting_is_refused_by_its_name(data: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(data)
    said = str(refused.value)
    assert named in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    "text",
    [
        f"[control]\nrules = {DEEP}",
        f"[training]\nseed = {'9' * 5000}",
        f"[control]\ncoast_frames = {LONG}",
        "[control]\nmax_step_um = inf",
        "[control]\nmax_age_s = nan",
        '[control]\narmed = "yes"',
        "[control]\narmed = 1",
    ],
    ids=lambda text: text[:34],
)
def test_a_settings_file_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"run\.toml: "):
        load_settings(path)


GOOD = {
    "measured": '"2026-01-01T00:00:00+00:00"', "matrix_um_per_px": "[[1, 0], [0, 1]]",
    "residual_px": "0.1", "particles_px": "nan", "backlash_um": "[0.5, 0.2]",
    "dead_s": "0.01", "tau_s": "0.02", "speed_um_per_s": "inf", "z_sign": "1",
    "objective": '"10x"',
}  # fmt: skip


def calibration_file(folder: Path, **changed: str) -> Path:
    path = folder / "calibration.toml"
    path.write_text("".join(f"{k} = {v}\n" for k, v in {**GOOD, **changed}.items()))
    return path


def test_the_calibration_all_others_differ_from_is_read(tmp_path: Path) -> None:
    assert load_calibration(calibration_file(tmp_path)).z_sign == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, v) for name in ("dead_s", "tau_s") for v in ("nan", "-0.1", "inf")),
        ("speed_um_per_s", "0"), ("speed_um_per_s", "-5"), ("speed_um_per_s", "nan"),
        ("z_sign", "5"), ("z_sign", "0.5"), ("z_sign", "true"), ("z_sign", LONG),
        ("backlash_um", "[1e6, 0]"), ("backlash_um", "[0, -1]"),
        ("backlash_um", "[nan, 0]"), ("backlash_um", "[1]"),
        ("matrix_um_per_px", DEEP), ("dead_s", LONG), ("measured", '"yesterday"'),
    ],
)  # fmt: skip
def test_a_calibration_is_refused_when_read(
    tmp_path: Path, name: str, value: str
) -> None:
    path = calibration_file(tmp_path, **{name: value})
    with pytest.raises(CalibrationError, match="calibration") as refused:
        load_calibration(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("days", [1, 400, 26_000])
def test_a_calibration_from_the_future_is_refused(days: float) -> None:
    now = datetime.now(UTC)
    made = Calibration(
        PixelToStage(np.eye(2)), residual_px=0.1, measured=now + timedelta(days=days)
    )
    with pytest.raises(CalibrationError, match="lies in the future"):
        made.require_usable(max_age_days=30, now=now)
    made.require_usable(max_age_days=30, now=now + timedelta(days=days, minutes=-5))


@pytest.mark.parametrize("port", [65536, 99999, LONG])
@pytest.mark.parametrize("name", ["stream", "latest", "control"])
def test_a_port_that_does_not_exist_is_not_bound(name: str, port: Any) -> None:
    addresses = {"stream": "tcp://127.0.0.1:0", "latest": None, "control": None}
    with pytest.raises(LodestarError, match="does not exist; expected 0 to 65535"):
        Publisher(**{**addresses, name: f"tcp://127.0.0.1:{port}"})


def asked(**more: Any) -> str:
    return json.dumps({"v": 1, "id": 1, "verb": "follow", **more})


@pytest.mark.parametrize(
    "body",
    [
        asked(args=0).replace("0}", DEEP + "}"),
        asked(v=0).replace('"v": 0', f'"v": {DEEP}'),
        asked(verb=0).replace("0", DEEP.replace("[", "[1,").replace(",]", "]")),
        '{"v": ' + '{"a":' * 2000 + "1" + "}" * 2000 + ', "verb": "ping"}',
        asked(args={"track_id": int(LONG)}),
        asked(args={"track_ids": [int(LONG)]}),
        asked(id=int(LONG), args={"track_id": 1}),
        asked(args={"y_px": int(LONG), "x_px": 0}),
        asked(args={"y_px": 1e308, "x_px": 0}),
        asked(verb="set", args={"values": {"coast_frames": int(LONG)}}),
        asked(verb="set", args={"values": {"dwell_s": 1e308}}),
    ],
    ids=lambda body: body[:50],
)
def test_an_absurd_request_is_answered_with_a_short_sentence(body: str) -> None:
    calls: list[Any] = []
    commands = Commands({"follow": calls.append, "set": calls.append})
    reply = json.loads(commands.answer(body.encode()))
    assert not reply["ok"]
    assert "failed with" not in reply["error"]
    assert len(reply["error"]) < 600
    assert calls == []
