"""What PROTOCOL.md and the schemas say of events and commands, made from the code.

``python -m lodestar_live.streams.documents`` writes both anew; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lodestar_live.commands import VERBS, Args, Verb
from lodestar_live.events import KINDS, sentence
from lodestar_live.streams.messages import VERSION
from lodestar_live.streams.tokens import MAX_TOKEN_LENGTH

_HERE = Path(__file__).parent
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_ID_TYPES = ({"type": "integer"}, {"type": "string", "maxLength": 64}, {"type": "null"})
Schema = dict[str, Any]


def event_table() -> str:
    """Return the kinds of event as a Markdown table."""
    rows = ["| kind | what happened | `details` |", "|---|---|---|"]
    for kind, details in KINDS.items():
        names = " ".join(field.name for field in fields(details))
        told = f"`{names}`" if names else "-"
        rows.append(f"| `{kind}` | {sentence(kind)} | {told} |")
    return "\n".join(rows)


def command_table() -> str:
    """Return the verbs as a Markdown table."""
    rows = ["| verb | args | what it does | needs |", "|---|---|---|---|"]
    for name, verb in VERBS.items():
        args, needs = _args_in_words(verb.args), verb.needs or "-"
        rows.append(f"| `{name}` | {args} | {verb.does} | {needs} |")
    return "\n".join(rows)


def _args_in_words(args: type[Args]) -> str:
    optional = [n for n in _free(args) if not args.model_fields[n].is_required()]
    required = [n for n in _free(args) if n not in optional]
    ways = [" ".join(way) for way in args.ways or (required,) if way]
    text = ", or ".join(f"`{way}`" for way in ways)
    if optional:
        text += "; optional " + ", ".join(f"`{name}`" for name in optional)
    return text or "-"


def _free(args: type[Args]) -> list[str]:
    """Return the arguments that belong to none of the ways."""
    named = {name for way in args.ways for name in way}
    return [name for name in args.model_fields if name not in named]


def event_schema() -> Schema:
    """Return the JSON Schema of the header of topic `event`."""
    common = [{"$ref": f"common.json#/$defs/{part}"} for part in ("envelope", "matrix")]
    return {
        "$schema": _DRAFT,
        "$id": "event.json",
        "title": "Something that is not a position",
        "type": "object",
        "properties": {
            "type": {"const": "event"},
            "kind": {"enum": list(KINDS)},
            "t_s": {"type": "number"},
            "frame": {"type": "integer", "minimum": -1},
            "details": {"type": "object"},
        },
        "required": ["kind", "t_s", "frame", "details"],
        "allOf": [
            *common,
            *(_when("kind", kind, {"details": _details(kind)}) for kind in KINDS),
        ],
    }


def request_schema() -> Schema:
    """Return the JSON Schema of a command."""
    return {
        "$schema": _DRAFT,
        "$id": "request.json",
        "title": "Command to the control socket",
        "type": "object",
        "required": ["v", "verb"],
        "additionalProperties": False,
        "properties": {
            "v": {"const": VERSION},
            "id": {"anyOf": list(_ID_TYPES)},
            "token": {"type": "string", "maxLength": MAX_TOKEN_LENGTH},
            "verb": {"enum": list(VERBS)},
            "args": {"type": "object"},
        },
        "allOf": [_request(name, verb) for name, verb in VERBS.items()],
    }


def _when(key: str, value: str, then: Schema, **more: Any) -> Schema:
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"properties": then, **more},
    }


def _details(kind: str) -> Schema:
    schema = _plain(TypeAdapter(KINDS[kind]).json_schema())
    return {"type": "object", **{k: v for k, v in schema.items() if k != "description"}}


def _request(name: str, verb: Verb) -> Schema:
    args = _args_schema(verb.args)
    needs_args = bool(args.get("required") or args.get("oneOf"))
    more = {"required": ["args"]} if needs_args else {}
    return _when("verb", name, {"args": args}, **more)


def _args_schema(args: type[Args]) -> Schema:
    schema = _plain(args.model_json_schema())
    properties: Schema = {n: _given(p) for n, p in schema.get("properties", {}).items()}
    ways = [_shape(properties, [*way, *_free(args)], way) for way in args.ways]
    if ways:
        return {"oneOf": ways}
    return _shape(properties, properties, schema.get("required", ()))


def _shape(properties: Schema, names: Iterable[str], required: Iterable[str]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: properties[name] for name in names},
        "required": list(required),
    }


def _given(schema: Schema) -> Schema:
    """Return the schema without null: an argument that is left out is absent."""
    options = [o for o in schema.get("anyOf", []) if o != {"type": "null"}]
    if not options:
        return schema
    return options[0] if len(options) == 1 else {"anyOf": options}


def _plain(schema: Any) -> Any:
    """Drop what pydantic adds for people: titles and defaults."""
    if isinstance(schema, Mapping):
        is_shape = "properties" in schema or "type" in schema or "anyOf" in schema
        dropped = ("title", "default") if is_shape else ()
        return {
            k: {n: _plain(p) for n, p in v.items()} if k == "properties" else _plain(v)
            for k, v in schema.items()
            if k not in dropped
        }
    return [_plain(v) for v in schema] if isinstance(schema, list) else schema


def protocol() -> str:
    """Return PROTOCOL.md with its tables as the code has them."""
    text = (_HERE / "PROTOCOL.md").read_text(encoding="utf-8")
    text = _put(text, "events", event_table())
    return _put(text, "commands", command_table())


def _put(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name}: made from the code -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def schemas() -> dict[str, str]:
    """Return the texts of the schemas that are made from the code, by file name."""
    made = {"event.json": event_schema(), "request.json": request_schema()}
    return {name: _text(schema) for name, schema in made.items()}


def _text(schema: Schema) -> str:
    """Return one line per key, and per entry of `allOf`."""
    lines = []
    for key, value in schema.items():
        text = json.dumps(value)
        if key == "allOf":
            entries = ",\n  ".join(json.dumps(entry) for entry in value)
            text = f"[\n  {entries}\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write the tables and the schemas anew."""
    (_HERE / "PROTOCOL.md").write_text(protocol(), encoding="utf-8")
    for name, text in schemas().items():
        (_HERE / "schemas" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
