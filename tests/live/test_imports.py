"""The live path starts without torch, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "scipy",
    "onnxruntime",
    "zmq",
    "pycromanager",
    "matplotlib",
    "skimage",
)


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import lodestar_live") & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "from lodestar_live import LiveTracker, Detector, Linker, Publisher",
        "import lodestar_live.cli",
        "from lodestar_live import LiveTracker\n"
        "import numpy as np, tempfile\n"
        "from lodestar_live import Detections\n"
        "from lodestar_live.settings import parse_settings\n"
        "s = parse_settings({'streams': {'enabled': False},"
        " 'recording': {'folder': tempfile.mkdtemp()}})\n"
        "with LiveTracker(s, detect=lambda p: Detections.empty()) as t:\n"
        "    t(np.zeros((8, 8), 'u2'), {})",
    ],
    ids=["names", "command-line", "a-run"],
)
def test_the_live_path_never_imports_torch(code) -> None:
    assert "torch" not in modules_after(code)
