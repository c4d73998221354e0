"""The commands as a user types them, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from lodestar_live.demo import run_demo
from lodestar_live.errors import SettingsError
from lodestar_live.recording import Recording

ROOT = Path(__file__).resolve().parents[2]


def cli(*arguments, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lodestar_live", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        check=False,
    )


def config(folder, **sections) -> Path:
    base = {
        "microscope": {"backend": "demo"},
        "acquisition": {"n_frames": 20, "exposure_ms": 5.0},
        "recording": {"folder": str(folder)},
        "streams": {"enabled": False},
    }
    lines = []
    for name, values in {**base, **sections}.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = folder / "settings.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_demo_trains_tracks_follows_and_draws_its_report(tmp_path) -> None:
    result = cli("demo", "--out", tmp_path, "--port", "0", "--frames", "150", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    counts = facts["summary"]["counts"]
    assert counts["received"] == 150
    assert counts["failed"] == counts["in_flight"] == 0
    score = facts["score"]
    assert score["true_positive_rate"] >= 0.99
    assert score["false_discovery_rate"] <= 0.01
    assert score["rmse_px"] <= 0.1
    assert score["link_error_rate"] <= 0.01
    assert facts["follow"]["n_targets"] == 1
    assert facts["follow"]["rms_error_um"] < 10.0
    assert Path(facts["report_path"]).stat().st_size > 50_000


def test_demo_refocuses_holograms_and_measures_z_and_polarizability(tmp_path) -> None:
    arguments = ("demo", "--scene", "holograms", "--frames", "40", "--port", "0")
    result = cli(*arguments, "--out", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["summary"]["counts"]["failed"] == 0
    assert facts["score"]["true_positive_rate"] >= 0.97
    assert facts["score"]["false_discovery_rate"] <= 0.02
    small, large = facts["spheres"]
    assert (small["radius_um"], large["radius_um"]) == (0.15, 0.228)
    assert large["z_rmse_um"] < 0.05  # the training species
    assert small["z_scatter_um"] < 0.1
    # A small sphere's phase includes some of a neighbour's: up to 18 % seen.
    for kind, rel in ((small, 0.35), (large, 0.1)):
        for name in ("polarizability_um3", "scale_polarizability_um3"):
            assert kind[name] == pytest.approx(kind["theory_um3"], rel=rel)
    assert Path(facts["report_path"]).stat().st_size > 200_000
    assert cli("plot", facts["run_folder"]).returncode == 0
    assert (Path(facts["run_folder"]) / "plots.png").stat().st_size > 200_000


@pytest.mark.parametrize("options", [{"pick": True}, {"steps": 100}])
def test_a_scene_that_trains_on_nothing_takes_no_word_on_training(options) -> None:
    with pytest.raises(SettingsError, match="shipped model"):
        run_demo(scene="holograms", **options)


def test_run_with_a_model_tracks_on_the_demo_microscope(tmp_path, bead_model) -> None:
    path = config(tmp_path, detection={"model": str(bead_model)})
    result = cli("run", path, "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["counts"]["received"] == 20
    assert facts["counts"]["failed"] == 0
    frames = Recording(facts["run_folder"]).frames()
    assert 80 <= frames["n_detections"].max() <= 110  # 100 beads per 512 um tile


def test_run_trains_on_the_first_frame_and_then_tracks(tmp_path) -> None:
    path = config(tmp_path, acquisition={"exposure_ms": 10.0}, training={"steps": 400})
    command = [sys.executable, "-m", "lodestar_live", "run", str(path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        try:
            wait_for_tracking(tmp_path, run)
            run.send_signal(signal.SIGTERM)
            said, _ = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 0
    counts = json.loads(said)["counts"]
    assert counts["waiting"] > 0
    assert counts["processed"] > 0
    assert counts["failed"] == 0


def wait_for_tracking(folder: Path, run: subprocess.Popen[str]) -> None:
    """Wait until the run in `folder` has trained and recorded a tracked frame."""
    deadline_s = time.monotonic() + 150
    while not any(has_tracked(path.parent) for path in folder.glob("*/model.onnx")):
        assert run.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.2)


def has_tracked(folder: Path) -> bool:
    with Recording(folder) as recording:
        return "processed" in recording.frames()["state"]


def test_replay_of_a_real_movie_gives_tracks(tmp_path, real_data) -> None:
    movie = real_data / "ring_beads/bf_00-49.tif"
    path = config(tmp_path, training={"steps": 400})
    result = cli("replay", movie, "--config", path, "--out", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["counts"]["processed"] == 50
    tracks = Recording(facts["run_folder"]).tracks(min_frames=40)
    assert len(set(tracks["track_id"])) == 5  # the five beads, each seen throughout


def test_a_run_takes_a_free_port_where_its_own_is_in_use(tmp_path, bead_model) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        path = config(
            tmp_path,
            detection={"model": str(bead_model)},
            streams={
                "stream": f"tcp://127.0.0.1:{port}",
                "latest": "tcp://127.0.0.1:0",
            },
        )
        result = cli("run", path)
    assert result.returncode == 0, result.stderr
    assert f"port {port} is in use" in result.stderr
    taken_instead = result.stderr.split("this run takes ")[1].split()[0]
    assert f"stream: {taken_instead}" in result.stdout


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"detection": {"model": "absent.onnx"}}, "absent.onnx"),
        ({"linking": {"serch_radius_px": 3}}, "did you mean"),
        ({"control": {"follow": True, "armed": True}}, "calibration is missing"),
    ],
    ids=["missing-model", "unknown-key", "armed-without-calibration"],
)
def test_bad_settings_are_refused_with_one_readable_error(
    tmp_path, bead_model, sections, message
) -> None:
    sections = {"detection": {"model": str(bead_model)}, **sections}
    result = cli("run", config(tmp_path, **sections))
    assert result.returncode == 1
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_doctor_checks_a_model_and_finds_the_matching_pair(bead_model) -> None:
    result = cli("doctor", bead_model, "--json")
    findings = json.loads(result.stdout)
    assert findings["demo microscope"]["ok"]
    assert findings[f"model {bead_model}"]["ok"]


def test_unknown_command_is_bad_usage() -> None:
    assert cli("dance").returncode == 2
