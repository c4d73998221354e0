"""Every header that leaves the publisher follows its published JSON Schema."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import pytest
import zmq
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from lodestar_live.commands import VERBS
from lodestar_live.data import SUMMARY_DTYPE, Tracks, blank_rows
from lodestar_live.events import StageRefused
from lodestar_live.streams import Publisher
from lodestar_live.streams.commands import Commands
from lodestar_live.streams.messages import TOPICS, decode
from tests.streams.samples import RUN, make_update, wait_for

SCHEMAS = {
    path.name.removesuffix(".json"): json.loads(path.read_text())
    for path in (files("lodestar_live.streams") / "schemas").iterdir()
}


def validator(name: str) -> Draft202012Validator:
    resources = [(f"{n}.json", Resource.from_contents(s)) for n, s in SCHEMAS.items()]
    registry: Registry = Registry().with_resources(resources)
    return Draft202012Validator(SCHEMAS[name], registry=registry)


def test_there_is_a_valid_schema_for_every_message() -> None:
    expected = {*TOPICS, "latest", "request", "reply", "common"}
    assert set(SCHEMAS) == expected
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def collect(socket: zmq.Socket[bytes], wanted: set[str]) -> dict[str, list[bytes]]:
    seen: dict[str, list[bytes]] = {}
    while not wanted <= set(seen):
        assert socket.poll(10_000), f"only {set(seen)} arrived"
        parts = socket.recv_multipart()
        seen[parts[0].decode()] = parts
    return seen


def test_every_header_sent_is_valid() -> None:
    publisher = Publisher(
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:0",
        target_id=lambda: 1,
        control_status=lambda: {"state": "holding", "error_um": float("nan")},
    )
    publisher.open(RUN)
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as stream,
        context.socket(zmq.SUB) as latest,
    ):
        for socket, name in ((stream, "stream"), (latest, "latest")):
            socket.linger = 0
            socket.connect(publisher.endpoints[name])
            socket.subscribe("")
        wait_for(lambda: publisher.wanted_topics == set(TOPICS))
        while not latest.poll(10):
            summary = blank_rows(SUMMARY_DTYPE, 2)
            publisher.write(replace(make_update(0, side=32), summary=summary))
        refused = StageRefused(axis="z", z_um=9.0, t_data_s=None, reason="limits")
        publisher.tell(refused.at(0.1, 0))
        seen = collect(stream, set(TOPICS) - {"end"})
        publisher.write(replace(make_update(1), tracks=Tracks.empty()))
        publisher.close()
        seen |= collect(stream, {"end"})
        validator("latest").validate(_strict(latest.recv()))
    for topic, parts in seen.items():
        validator(topic).validate(_strict(parts[1]))
    assert _strict(seen["end"][1])["control"] == {"state": "holding", "error_um": None}


def test_a_wrong_header_is_invalid() -> None:
    with pytest.raises(ValidationError):
        validator("tracks").validate({"v": 1, "type": "tracks"})


@pytest.mark.parametrize(
    ("request_", "is_valid"),
    [
        ({"v": 1, "id": 1, "verb": "ping"}, True),
        ({"v": 1, "verb": "follow", "args": {"track_id": 3}}, True),
        ({"v": 1, "verb": "follow", "args": {"y_px": 1.0, "x_px": 2.0}}, True),
        ({"v": 1, "verb": "follow", "args": {"y_px": 1.0}}, False),
        ({"v": 1, "verb": "follow", "args": {"track_ids": [3, 4]}}, True),
        ({"v": 1, "verb": "follow", "args": {"track_ids": []}}, False),
        ({"v": 1, "verb": "follow", "args": {"target": "fastest"}}, True),
        ({"v": 1, "verb": "follow", "args": {"target": "all"}}, True),
        ({"v": 1, "verb": "follow", "args": {"target": "x"}}, False),
        ({"v": 1, "verb": "follow"}, False),
        ({"v": 1, "verb": "stop", "args": {}}, True),
        ({"v": 1, "verb": "retrain", "args": {"y_px": 1.0, "x_px": 2.0}}, True),
        ({"v": 1, "verb": "retrain", "args": {}}, False),
        ({"v": 1, "verb": "set", "args": {"values": {"a": 1}}}, True),
        ({"v": 1, "verb": "set", "args": {"values": {}}}, False),
        ({"v": 2, "verb": "ping"}, False),
        ({"v": 1, "verb": "shutdown"}, False),
    ],
)
def test_schema_and_server_agree_on_requests(request_: dict, is_valid: bool) -> None:
    assert validator("request").is_valid(request_) == is_valid
    answer = Commands({verb: lambda _args: {} for verb in VERBS}).answer
    reply = _strict(answer(json.dumps(request_).encode()))
    validator("reply").validate(reply)
    assert reply["ok"] == is_valid


def _strict(raw: bytes) -> dict:
    return json.loads(raw, parse_constant=pytest.fail)


def test_hex_dump_of_the_page_is_a_real_message() -> None:
    page = (files("lodestar_live.streams") / "PROTOCOL.md").read_text(encoding="utf-8")
    dump = page.split("```hexdump\n")[1].split("```")[0]
    parts = [
        bytes.fromhex("".join(line[6:53] for line in block.splitlines()))
        for block in dump.split("\n\n")
    ]
    tracks = decode(parts).tracks
    assert tracks is not None
    assert tracks.rows[["y_px", "x_px", "track_id"]].tolist() == [
        (10.5, 3.0, 7),
        (20.25, 4.0, 9),
    ]


def test_topics_are_not_prefixes_of_each_other() -> None:
    for topic in TOPICS:
        assert [t for t in TOPICS if t.startswith(topic)] == [topic]
