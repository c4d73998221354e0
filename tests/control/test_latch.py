"""A stop stays until somebody arms again on purpose; a changed microscope stops."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.control import load_calibration
from lodestar_live.errors import StageError
from tests.control.rig import Rig, circle


def followed(**settings) -> Rig:
    rig = Rig(**settings)
    for _ in range(50):
        rig.frame({1: (0, 0)}, pixel_size_um=1.0)
    return rig


@pytest.mark.parametrize("way", ["stop", "hold", "degraded"])
def test_follow_alone_never_arms_again(way) -> None:
    rig = followed()
    if way == "hold":
        rig.controller.gate.hold("doubt")
    else:
        rig.controller.stop("hand")
    n_moves, reason = rig.stage.n_moves, rig.halted
    verbs = rig.controller.verbs()
    for verb, args in [
        ("follow", {"track_id": 1}),
        ("follow", {"target": "nearest"}),
        ("follow", {"y_px": 50.0, "x_px": 50.0}),
        ("recenter", {"y_px": 70.0, "x_px": 70.0}),
        ("release", {}),
        ("follow", {"track_id": 1}),
    ]:
        assert verbs[verb](args)["halted"] == reason
        for k in range(10):
            rig.frame({1: circle(k)}, pixel_size_um=1.0)
    assert rig.stage.n_moves == n_moves
    assert verbs["arm"]({})["halted"] is None
    for k in range(60):
        rig.frame({1: circle(k)}, pixel_size_um=1.0)
    assert rig.stage.n_moves > n_moves
    assert rig.kinds("stage.allowed")[0].details == {"after": reason}


def test_a_run_that_has_ended_is_not_armed_again() -> None:
    rig = followed()
    rig.controller.close()
    with pytest.raises(StageError, match="the run has ended"):
        rig.controller.arm()
    assert rig.halted == "stop: the run has ended"


def test_a_dry_run_is_not_armed_by_a_command() -> None:
    with pytest.raises(StageError, match=r"control\.armed = false"):
        Rig(armed=False).controller.arm()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pixel_size_um": 0.25}, "0.25 um per pixel, the calibration has 1"),
        ({"shape": (50, 50)}, "shape (y, x) (50, 50)"),
        ({"origin_px": (10, 0)}, "place on the sensor (y, x) (10, 0)"),
        ({"camera": "Right"}, "camera Right, frame 0 had Left"),
    ],
)
def test_a_frame_that_contradicts_halts_before_the_next_move(change, reason) -> None:
    rig = Rig()
    for k in range(100):
        rig.frame({1: circle(k)}, pixel_size_um=1.0, camera="Left")
    n_moves = rig.stage.n_moves
    assert n_moves > 0 and rig.halted is None
    for k in range(100, 200):
        rig.frame({1: circle(k)}, **({"pixel_size_um": 1.0, "camera": "Left"} | change))
    assert rig.stage.n_moves == n_moves
    assert reason in rig.halted


def test_against_the_calibration_arming_does_not_help() -> None:
    """Another view may be right; another magnification than calibrated cannot be."""
    rig = followed()
    rig.frame({1: (0, 0)}, pixel_size_um=0.5)
    rig.controller.arm()
    n_moves = rig.stage.n_moves
    for k in range(50):
        rig.frame({1: circle(k)}, pixel_size_um=0.5)
    assert "magnification" in rig.halted and rig.stage.n_moves == n_moves
    rig.controller.arm()
    for k in range(50):
        rig.frame({1: circle(k)}, pixel_size_um=1.0, shape=(80, 80))
    assert rig.halted is None


class Turret:
    """The microscope beside its stage, as its devices tell."""

    def __init__(self) -> None:
        self.now = {"objective": "10x", "camera": "Left", "TransposeXY": "0"}

    def set_property(self, device: str, name: str, value: str) -> None:
        raise AssertionError("nothing was to be set")

    def objective(self) -> str:
        return self.now["objective"]

    def optics(self) -> dict[str, str]:
        return dict(self.now)


@pytest.mark.parametrize(
    "change", [{"objective": "40x"}, {"TransposeXY": "1"}, {"camera": "Right"}]
)
def test_a_device_that_changes_halts_within_half_a_second(change) -> None:
    rig, turret = Rig(), Turret()
    rig.controller._properties = turret
    for k in range(60):
        rig.frame({1: circle(k)})
    assert rig.halted is None
    turret.now |= change
    for k in range(60, 90):
        rig.frame({1: circle(k)})
    assert "the microscope has changed" in rig.halted
    assert next(iter(change)) in rig.halted


def test_optics_that_were_calibrated_are_kept_in_its_file(tmp_path) -> None:
    rig = Rig(optics={"Binning": "2", "camera": 'the "left" one'})
    rig.calibration.save(tmp_path / "c.toml")
    assert load_calibration(tmp_path / "c.toml").optics == rig.calibration.optics
    turret = Turret()
    turret.now = {"Binning": "1"}
    rig.controller._properties = turret
    for k in range(30):
        rig.frame({1: circle(k)})
    assert "Binning is '1', expected '2'" in rig.halted
    assert rig.stage.n_moves == 0


@pytest.mark.parametrize("exposure_ms", [300.0, 700.0, 1200.0])
def test_long_exposures_are_followed(exposure_ms) -> None:
    """A frame is there half an exposure after its middle; its age is not its fault."""
    rig = Rig()
    period_s = exposure_ms / 1e3 + 0.02
    rig.clock.now_s = 1.0
    for k in range(20):
        exposed_s = 1.0 + (k + 0.5) * period_s
        rig.clock.now_s = exposed_s + period_s / 2
        rig.index = round(exposed_s / 0.02) - 1
        late(rig, k, exposed_s, exposure_ms)
    assert not rig.kinds("stage.refused")
    assert len(rig.kinds("stage.move")) > 10


def late(rig: Rig, k: int, exposed_s: float, exposure_ms: float) -> None:
    """Give a frame of a target at 3 µm/s when its exposure is over."""
    from lodestar_live.data import (
        TRACK_DTYPE,
        Detections,
        Frame,
        Tracks,
        Update,
        blank_rows,
    )

    arrived_s = rig.clock.now_s
    rows = blank_rows(TRACK_DTYPE, 1)
    place = np.array(rig.controller.stage_at(exposed_s)[1:])
    place = np.nan_to_num(place)
    rows["y_px"], rows["x_px"] = np.array([3.0 * exposed_s, 0.0]) - place + 49.5
    rows["track_id"], rows["sigma_px"], rows["age_frames"] = 1, 0.05, 1000
    rows["vy_px_per_frame"] = rows["vx_px_per_frame"] = 0.0
    frame = Frame(
        k, np.zeros((100, 100)), exposed_s, arrived_s, exposure_ms=exposure_ms
    )
    rig.clock.now_s += 0.005
    rig.controller.process(Update(frame, Detections.empty(), Tracks(rows)))
