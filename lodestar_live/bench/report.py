"""What every benchmark returns: tables that print, and JSON that stays."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable


@dataclass
class Table:
    """One table: `rows` hold one value per column."""

    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)


@dataclass
class BenchReport:
    """Result of one benchmark run."""

    name: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())
    picture: bytes | None = None  # PNG, saved beside the tables

    def print(self, console: Console | None = None) -> None:
        """Print the tables and notes."""
        console = console or Console(markup=False, emoji=False)
        for table in self.tables:
            shown = RichTable(*table.columns, title=table.title)
            for row in table.rows:
                shown.add_row(*(_text(value) for value in row))
            console.print(shown)
        for note in self.notes:
            console.print(f"• {note}", markup=False)

    def save(self, folder: Path) -> None:
        """Write ``<name>.json``, ``<name>.md`` and any picture into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), indent=1, default=float)
        (folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        (folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")

        if self.picture is not None:
            (folder / f"{self.name}.png").write_bytes(self.picture)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the picture."""
        facts = asdict(self)
        del facts["picture"]
        return facts

    def markdown(self) -> str:
        """Return the report as Markdown."""
        machine = ", ".join(f"{k} {v}" for k, v in self.machine.items())
        lines = [f"# bench {self.name}", "", machine, ""]
        for table in self.tables:
            lines += [f"## {table.title}", "", _line(table.columns)]
            lines += [_line(["---"] * len(table.columns))]
            lines += [_line([_text(v) for v in row]) for row in table.rows]
            lines += [""]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.system(),
        "python": sys.version.split()[0],
    }
    for package in ("numpy", "scipy", "onnxruntime", "torch"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "absent"
    return facts


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
