"""A test whose part is missing skips with a remedy, and fails where CI runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import PARTS, ROOT


@pytest.fixture
def pytest_without_programs(tmp_path: Path):
    """Run pytest on one test that wants npm, on an empty PATH."""
    program = "import pytest\n@pytest.mark.needs_npm\ndef test_it(): pass\n"
    (tmp_path / "test_it.py").write_text(program)

    def run(**variables: str) -> tuple[int, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("CI", "PATH")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tests.needs", "-rs", "test_it.py"],
            env={**kept, "PYTHONPATH": str(ROOT), "PATH": "", **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    return run


def test_missing_part_skips_with_its_remedy(pytest_without_programs) -> None:
    code, said = pytest_without_programs()
    assert code == 0
    assert "1 skipped" in said and "apt-get install nodejs npm" in said


def test_missing_part_fails_in_ci(pytest_without_programs) -> None:
    code, said = pytest_without_programs(CI="true")
    assert code == 1
    assert "1 error" in said and "apt-get install nodejs npm" in said


def test_every_part_is_declared_as_a_marker(pytestconfig) -> None:
    declared = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    assert {part.marker for part in PARTS} | {"real_time"} <= declared


def test_fixture_brings_its_marker(request, real_data) -> None:
    assert request.node.get_closest_marker("needs_recordings")
