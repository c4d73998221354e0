"""The user's own Micro-Manager: found, and matched by its device interface."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import mm_test_adapters
import pytest
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.microscope import MicroscopeError, installation, open_microscope
from lodestar_live.settings import MicroscopeSettings
from tests.microscope.stand_in import Running

ADAPTERS = Path(mm_test_adapters.device_adapter_path())


def test_adapters_tell_their_device_interface() -> None:
    assert installation.adapter_interface(ADAPTERS) == installation.core_interface()
    assert installation.mismatch(ADAPTERS) == ""


@pytest.fixture
def older_adapters(tmp_path: Path) -> Path:
    """Give a folder whose one adapter library says 74, compiled here."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make an adapter of another interface")
    source = tmp_path / "adapter.c"
    source.write_text("long GetDeviceInterfaceVersion(void) { return 74; }\n")
    folder = tmp_path / "Micro-Manager"
    folder.mkdir()
    library = folder / "libmmgr_dal_DemoCamera.so.0"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True
    )
    return folder


def test_another_interface_is_refused_with_both_numbers_and_the_command(
    older_adapters: Path,
) -> None:
    config = older_adapters / "mine.cfg"
    config.write_text("")
    settings = MicroscopeSettings(
        backend="headless", config_file=str(config), app_path=str(older_adapters)
    )
    with pytest.raises(MicroscopeError) as caught:
        open_microscope(settings)
    said = str(caught.value)
    assert "interface 74" in said
    assert f"speaks {installation.core_interface()}" in said
    assert 'pip install "pymmcore==11.10.0.74.1"' in said


def doctor(tmp_path: Path, text: str) -> tuple[int, dict]:
    config = tmp_path / "mine.toml"
    config.write_text(text)
    result = CliRunner().invoke(app, ["doctor", str(config), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_doctor_goes_through_a_settings_file_and_takes_a_frame(tmp_path) -> None:
    with Running() as running:
        code, found = doctor(
            tmp_path,
            f"[microscope]\nport = {running.port}\n[streams]\nenabled = false\n",
        )
    assert code == 0, found
    assert found[f"Micro-Manager on port {running.port}"]["ok"]
    assert "128 x 128 px, uint16, 5 ms, 1 um" in found["a frame"]["what"]


def test_doctor_names_what_is_wrong_in_a_settings_file(tmp_path) -> None:
    code, found = doctor(tmp_path, "[microscope]\nport = 1\n")
    assert code == 1
    assert "nothing answers" in found["Micro-Manager on port 1"]["what"]
    code, found = doctor(tmp_path, "[microscope]\nprot = 1\n")
    assert code == 1
    assert "unknown key" in found[f"settings {tmp_path / 'mine.toml'}"]["what"]
