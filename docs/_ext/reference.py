"""Write the reference from the code, each time the site is built.

Each function returns one page's part as Markdown; the pages in ``docs/reference``
include them, so that a setting, command, event or column is described only in the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx

import lodestar_live
from lodestar_live import channels, commands, events
from lodestar_live.data import SUMMARY_UNITS, UNITS
from lodestar_live.recording import tables
from lodestar_live.settings import Settings

#: Ends of names, the longest first.
SUFFIXES = {
    "um_per_s": "µm/s",
    "px_per_frame": "px/frame",
    "um3": "µm³",
    "frames": "frames",
    "days": "days",
    "hz": "Hz",
    "mb": "MB",
    "ms": "ms",
    "um": "µm",
    "px": "px",
    "rad": "rad",
    "s": "s",
}
ROOMS = (
    "training", "detection", "linking", "live", "control", "holography", "streams",
    "recording", "microscope", "view", "settings", "calibration", "batch",
)  # fmt: skip


def unit_of(name: str) -> str:
    """Return the unit a name ends in, or nothing."""
    ends = (unit for end, unit in SUFFIXES.items() if name.endswith(f"_{end}"))
    return next(ends, "")


def cell(text: object) -> str:
    """Return text as it may stand in a table's cell."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def table(titles: list[str], rows: list[list[object]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *([cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def type_name(annotation: Any) -> str:
    """Return a type as a reader of TOML or JSON would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(a) for a in inner if a is not type(None))
    if origin is Literal:
        return " or ".join(f'`"{a}"`' for a in inner)
    if origin is Annotated:
        return type_name(inner[0])
    if inner:
        return f"{origin.__name__} of {', '.join(type_name(a) for a in inner)}"
    names = {float: "number", int: "integer", str: "text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _toml(value: object) -> str:
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`"


def _sections(model: type[BaseModel], at: str) -> list[tuple[str, type[BaseModel]]]:
    """Return every section, nested ones too, with its name in TOML."""
    found = [(at, model)]
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            found += _sections(inner, f"{at}.{name}".lstrip("."))
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def settings_page() -> str:
    """Return every key of a settings file: type, default, unit, meaning."""
    parts = []
    for name, model in _sections(Settings, ""):
        rows = [
            [f"`{key}`", type_name(field.annotation), _default(field),
             unit_of(key), field.description or ""]
            for key, field in model.model_fields.items()
            if _model_in(field.annotation) is None
        ]  # fmt: skip
        doc = inspect.getdoc(model) or ""
        parts.append(f"## `[{name}]`\n\n{doc}\n" if name else "## At the top\n")
        parts.append(table(["key", "type", "default", "unit", "meaning"], rows))
    return "\n".join(parts)


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        made = field.default_factory
        return "must be given" if made is None else _toml(made())
    return _toml(field.default)


def commands_page() -> str:
    """Return every verb of the control socket with its arguments."""
    rows = []
    for name, verb in commands.VERBS.items():
        names = [
            f"`{key}` ({type_name(field.annotation)})"
            for key, field in verb.args.model_fields.items()
        ]
        ways = [" and ".join(f"`{key}`" for key in way) for way in verb.args.ways]
        given = f"; exactly one of: {', or '.join(ways)}" if ways else ""
        rows.append([f"`{name}`", (", ".join(names) + given) or "none", verb.does,
                     verb.needs])  # fmt: skip
    return table(["verb", "arguments", "what it does", "needs"], rows)


def events_page() -> str:
    """Return every kind of event with its fields."""
    rows = [
        [
            f"`{name}`",
            events.sentence(name),
            ", ".join(f"`{f.name}`" for f in dataclasses.fields(kind)),
        ]
        for name, kind in sorted(events.KINDS.items())
    ]
    return table(["kind", "says", "fields of `details`"], rows)


def channels_page() -> str:
    """Return every measured quantity with its column, unit and uncertainty."""
    rows = [
        [f"`{c.column}`", c.label, c.unit, f"`{c.sigma_column}`" if c.sigma_column
         else "", c.pooling.value, ", ".join(
            f"{action.value} under {symmetry.value}"
            for symmetry, action in c.actions.items()) or "invariant"]
        for c in channels.CHANNELS
    ]  # fmt: skip
    titles = ["column", "quantity", "unit", "1-sigma", "from", "symmetry"]
    return table(titles, rows)


def run_file_page() -> str:
    """Return the tables of a run file, as their SQL says."""
    parts = [f"Version of the layout: {tables.SCHEMA_VERSION}.\n"]
    for name, columns in re.findall(r"CREATE TABLE (\w+) \((.*?)\)[^,)]*;",
                                    tables.CREATE, re.S):  # fmt: skip
        columns = re.sub(r",?\s*PRIMARY KEY \(.*", "", columns, flags=re.S)
        rows = []
        for column in columns.split(","):
            words = column.split()
            unit = {**SUMMARY_UNITS, **UNITS}.get(words[0]) or unit_of(words[0])
            rows.append([f"`{words[0]}`", words[1], "" if unit == "1" else unit])
        parts += [f"## `{name}`\n", table(["column", "SQL type", "unit"], rows)]
    return "\n".join(parts)


def command_line_page() -> str:
    """Return the command line's help, as typer writes it."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "lodestar_live.cli", "utils", "docs",
         "--name", "lodestar-live"],
        capture_output=True, check=True, encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    text = re.sub(r"^# .*\n", "", done.stdout, count=1)
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def api_page() -> str:
    """Return the public names: the package's own first, then room by room."""
    top = {n: getattr(lodestar_live, n) for n in lodestar_live.__all__}
    parts = [_documented("lodestar_live", top, seen := set())]
    for room in ROOMS:
        module = import_module(f"lodestar_live.{room}")
        names = {n: getattr(module, n) for n in getattr(module, "__all__", ())}
        if any(id(thing) not in seen for thing in names.values()):
            doc = (inspect.getdoc(module) or "").splitlines()[0]
            parts.append(f"## `lodestar_live.{room}`\n\n{doc}\n")
            parts.append(_documented(module.__name__, names, seen))
    return "\n".join(parts)


def _documented(module: str, names: Mapping[str, object], seen: set[int]) -> str:
    lines = ["```{eval-rst}"]
    for name, thing in names.items():
        if id(thing) in seen or name.startswith("__"):
            continue
        seen.add(id(thing))
        if inspect.isclass(thing):
            lines += [f".. autoclass:: {module}.{name}", "   :members:", ""]
        elif callable(thing):
            lines += [f".. autofunction:: {module}.{name}", ""]
    return "\n".join([*lines, "```", ""])


PAGES = {
    "settings": settings_page,
    "commands": commands_page,
    "events": events_page,
    "channels": channels_page,
    "run-file": run_file_page,
    "command-line": command_line_page,
    "api": api_page,
}


def write_pages(app: Sphinx) -> None:
    """Write all parts into ``docs/reference/_made``."""
    folder = Path(app.srcdir) / "reference" / "_made"
    folder.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (folder / f"{name}.md").write_text(make(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx write the pages before it reads them."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
