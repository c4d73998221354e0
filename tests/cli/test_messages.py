"""What the command line says when something is wrong, in any name and encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zmq

from lodestar_live import cli
from lodestar_live.data import Detections
from lodestar_live.errors import InputError, LodestarError
from lodestar_live.live import LiveTracker
from lodestar_live.resources import find, folder
from lodestar_live.settings import Settings
from lodestar_live.streams.ports import with_free_ports
from tests.needs import ROOT
from tests.streams.samples import make_update, publisher, wait_for

__all__ = ["publisher"]

SAY_TORCH = """
import sys
from lodestar_live.cli import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def run(folder: Path, *arguments: str, **variables: str):
    return subprocess.run(
        [sys.executable, "-c", SAY_TORCH, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        cwd=folder,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    "text", ["pip install 'lodestar-live[parquet]'", "exp[/beads].tif: none", ":smile:"]
)
def test_square_brackets_of_an_error_are_printed(monkeypatch, capsys, text) -> None:
    def fail() -> None:
        raise InputError(text)

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert f"error: {text}" in capsys.readouterr().err


def test_brackets_of_a_file_name_are_printed_by_train(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "a[b].tif", np.zeros((64, 64), np.uint8))
    done = run(tmp_path, "train", "a[b].tif", "-o", "no[/folder]/m.onnx")
    assert done.returncode == 1
    assert b"no[/folder]/m.onnx" in done.stderr.replace(b"\\", b"/")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "none.tif", "-o", "m.onnx"),
        ("train", "here.tif", "-o", "none/m.onnx"),
        ("train", "here.tif", "-o", "m.onnx", "--at", "5"),
        ("detect", "none.tif", "m.onnx", "-o", "d.csv"),
        ("detect", "here.tif", "none.onnx", "-o", "d.csv"),
        ("run", "none.toml"),
        ("run", "wrong_model.toml"),
        ("replay", "none.tif"),
    ],
    ids=" ".join,
)
def test_a_wrong_path_is_told_before_torch_is_imported(tmp_path, arguments) -> None:
    tifffile.imwrite(tmp_path / "here.tif", np.zeros((64, 64), np.uint8))
    (tmp_path / "m.onnx").touch()
    (tmp_path / "wrong_model.toml").write_text('[detection]\nmodel = "none.onnx"\n')
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stdout.split()[-1] == b"False"
    wrong = next(a for a in arguments if "none" in a or a in ("5", "wrong_model.toml"))
    said = done.stderr.replace(b"\\", b"/")
    assert wrong.encode() in said or b"none.onnx" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "sections",
    [
        {"detection": {"model": "none.onnx"}},
        {"streams": {"stream": "tcp://256.1.1.1:5"}},
    ],
    ids=["model", "address"],
)
def test_a_refused_start_leaves_no_folder(tmp_path, sections) -> None:
    settings = Settings(recording={"folder": str(tmp_path)}, **sections)
    with pytest.raises(LodestarError):
        LiveTracker(settings, detect=None).start()
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_replaced_and_named() -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        streams = Settings(
            streams={"stream": f"tcp://127.0.0.1:{port}", "latest": "tcp://127.0.0.1:0"}
        ).streams
        changed, said = with_free_ports(streams)
    assert changed.stream != streams.stream
    assert changed.latest == streams.latest
    assert str(port) in said[0] and changed.stream in said[0]


def test_an_address_for_other_machines_is_kept() -> None:
    keys = {"keys": "a.key_secret", "clients": "clients"}
    streams = Settings(streams={"stream": "tcp://0.0.0.0:5556", **keys}).streams
    assert with_free_ports(streams)[0].stream == streams.stream


def test_listen_writes_a_file_in_a_narrow_encoding(tmp_path, publisher) -> None:
    """As ``lodestar-live listen > tracks.txt`` does in a Windows console."""
    with (tmp_path / "tracks.txt").open("wb") as file:
        listening = subprocess.Popen(
            [sys.executable, "-m", "lodestar_live", "listen",
             publisher.endpoints["stream"]],
            stdout=file, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0",
                 "PYTHONIOENCODING": "cp1252"},
        )  # fmt: skip
        try:
            wait_for(lambda: {"tracks", "end"} <= publisher.wanted_topics)
            publisher.write(make_update(3, n=4))
            publisher.close()
            _, complaint = listening.communicate(timeout=60)
        finally:
            listening.kill()
    assert listening.returncode == 0, complaint.decode()
    said = (tmp_path / "tracks.txt").read_text(encoding="cp1252")
    assert "z µm" in said and "4 tracks" in said


@pytest.mark.parametrize("name", ["demo.toml", "config/demo.toml"])
def test_shipped_presets_are_found_from_any_folder(monkeypatch, tmp_path, name) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("config", name) == folder("config") / "demo.toml"


def test_a_run_that_ends_before_its_model_says_so(tmp_path) -> None:
    rng = np.random.default_rng(0)
    settings = Settings(recording={"folder": str(tmp_path)}, streams={"enabled": False})
    with LiveTracker(settings) as tracker:
        for _ in range(3):
            tracker(rng.poisson(100, (128, 128)).astype(np.uint16), {})
        wait_for(lambda: tracker.counts.waiting >= 1)
    assert tracker.first_error is not None
    assert "ended before its model was trained" in tracker.first_error


def test_events_need_no_extra_frame_where_a_model_is_given(tmp_path) -> None:
    settings = Settings(recording={"folder": str(tmp_path)}, streams={"enabled": False})
    with LiveTracker(settings, detect=lambda pixels: Detections.empty()) as tracker:
        times = [event["axes"]["time"] for event in tracker.events(3)]
    assert times == [0, 1, 2]
