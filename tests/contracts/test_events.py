"""Events: every kind sent is declared, every declared one is sent and documented."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import lodestar_live
from lodestar_live import events
from lodestar_live.data import Event
from lodestar_live.events import KINDS, Details
from lodestar_live.streams import documents
from lodestar_live.streams.messages import decode, encode, finite
from tests.streams.test_schemas import validator

PACKAGE = Path(lodestar_live.__file__).parent
TREES = {
    path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")
}
# These make an `Event` of what they read, whatever its kind.
READERS = {"events.py", "messages.py", "recording.py"}
# Words that look like a kind and are the name of a file or of a setting.
FILE = re.compile(r"\w+\.(sqlite|toml|json|log|png|py|onnx|tif|npz)")
SETTINGS = {
    f"{section}.{name}"
    for section, field in lodestar_live.Settings.model_fields.items()
    for name in getattr(field.annotation, "model_fields", {})
}


def made_by_hand(tree: ast.AST) -> bool:
    """Tell whether a module calls `Event(...)` or `data.Event(...)` itself."""
    for node in ast.walk(tree):
        function = getattr(node, "func", None)
        owner = getattr(getattr(function, "value", None), "id", "")
        name = getattr(function, "id", getattr(function, "attr", ""))
        if name == "Event" and owner in ("", "data"):
            return True
    return False


def names_in(tree: ast.AST) -> set[str]:
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
    }


def test_an_event_is_made_by_its_declared_class_only() -> None:
    by_hand = {path.name for path, tree in TREES.items() if made_by_hand(tree)}
    assert by_hand <= READERS


def test_each_declared_kind_is_sent_somewhere() -> None:
    declared = PACKAGE / "events.py"
    used = set().union(*(names_in(t) for p, t in TREES.items() if p != declared))
    unsent = {kind for kind, made in KINDS.items() if made.__name__ not in used}
    assert not unsent


def test_no_program_waits_for_an_event_that_nobody_sends() -> None:
    first = "|".join({kind.split(".")[0] for kind in KINDS})
    word = re.compile(rf"(?:{first})\.[a-z_]+")
    mentioned = {
        node.value
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if word.fullmatch(node.value)
    }
    for path in PACKAGE.rglob("*.js"):
        if "vendor" not in path.parts:
            text = path.read_text(encoding="utf-8")
            mentioned |= set(re.findall(rf'"({word.pattern})"', text))
    kinds = {name for name in mentioned - SETTINGS if not FILE.fullmatch(name)}
    assert kinds <= set(KINDS)


def example(kind: type[Details], *, is_full: bool) -> Details:
    """Return an event of a kind, with its optional fields or without."""
    types = get_type_hints(kind, vars(events))
    given = {
        field.name: value_of(types[field.name])
        for field in fields(kind)
        if is_full or field.default is MISSING
    }
    return kind(**given)


def value_of(annotation: Any) -> Any:
    """Return some value of a type."""
    plain = {int: 3, float: 1.5, str: "word", bool: True}
    if annotation in plain:
        return plain[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (list, tuple):
        return [value_of(a) for a in args if a is not Ellipsis]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"a": value_of(args[1])}
    if isinstance(args[0], str):  # one of some words
        return args[0]
    return value_of(args[0])  # a union: its first


def header_of(event: Event) -> dict[str, Any]:
    header = {
        "v": 1, "type": "event", "run": "r", "seq": 0, "t_publish_s": 0.0,
        "clock_zero_s": 0.0, "kind": event.kind, "t_s": event.t_s,
        "frame": event.frame, "details": finite(dict(event.details)),
    }  # fmt: skip
    return json.loads(encode("event", header)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_travels_and_fits_its_schema(kind: str) -> None:
    for is_full in (True, False):
        event = example(KINDS[kind], is_full=is_full).at(1.25, 7)
        header = header_of(event)
        validator("event").validate(header)
        parts = [b"event", json.dumps(header).encode(), b""]
        assert decode(parts).event == Event(kind, 1.25, 7, event.details)


def test_an_event_of_an_unknown_kind_or_without_its_fields_is_invalid() -> None:
    good = header_of(events.RunDegraded(why="x").at(0.0))
    assert validator("event").is_valid(good)
    assert not validator("event").is_valid({**good, "kind": "run.unheard_of"})
    assert not validator("event").is_valid({**good, "details": {}})
    with pytest.raises(TypeError):
        events.RunDegraded(reason="x")


def test_the_protocol_page_and_the_schemas_say_what_the_code_says() -> None:
    folder = files("lodestar_live.streams")
    assert (folder / "PROTOCOL.md").read_text(encoding="utf-8") == documents.protocol()
    for name, text in documents.schemas().items():
        assert (folder / "schemas" / name).read_text(encoding="utf-8") == text
