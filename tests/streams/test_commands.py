"""The control channel over real sockets: friendly, careless and hostile clients."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.commands import VERBS
from lodestar_live.errors import StageError, StreamError
from lodestar_live.streams import Publisher, request
from lodestar_live.streams.commands import MAX_REQUEST_BYTES, Commands
from lodestar_live.streams.tokens import find_token
from tests.streams.samples import RUN, wait_for


@dataclass
class Machine:
    """Stands in for the run: remembers what it was told."""

    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def handlers(self) -> dict[str, Any]:
        return {verb: self.handler(verb) for verb in VERBS if verb != "status"}

    def handler(self, verb: str) -> Any:
        def handle(args: Mapping[str, Any]) -> Mapping[str, Any]:
            self.calls.append((verb, args))
            return {"did": verb}

        return handle


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def controlled(machine: Machine) -> Iterator[Publisher]:
    publisher = Publisher(
        "tcp://127.0.0.1:0",
        None,
        control="tcp://127.0.0.1:0",
        commands=machine.handlers(),
    )
    publisher.open(RUN)
    yield publisher
    publisher.close()


@pytest.fixture
def dealer(controlled: Publisher) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(controlled.endpoints["control"])
        yield client


def with_token(client: zmq.Socket[bytes], body: bytes) -> bytes:
    """Return a request with the token its client finds, as a program of ours would."""
    try:
        request_ = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(request_, dict):
        return body
    token = find_token(client.getsockopt_string(zmq.LAST_ENDPOINT))
    return json.dumps({"token": token, **request_}).encode()


def ask(client: zmq.Socket[bytes], *parts: bytes) -> dict[str, Any]:
    client.send_multipart([*parts[:-1], with_token(client, parts[-1])])
    assert client.poll(5000), f"no answer to {parts!r}"
    return json.loads(client.recv_multipart()[-1])


def asked(verb: Any, args: Any = None, **more: Any) -> bytes:
    return json.dumps(
        {"v": 1, "id": 1, "verb": verb, "args": args or {}, **more}
    ).encode()


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("ping", {}),
        ("follow", {"track_id": 3}),
        ("follow", {"y_px": 1.5, "x_px": 2.0}),
        ("release", {}),
        ("recenter", {"y_px": 1.5, "x_px": 2.0, "frame": 4}),
        ("rollback", {}),
        ("retrain", {"y_px": 10.0, "x_px": 20.0, "size_px": 31}),
        ("set", {"values": {"deadband_um": 0.5, "armed": True, "target": "nearest"}}),
        ("stop", {}),
    ],
)
def test_each_verb_reaches_its_handler(
    controlled: Publisher, machine: Machine, verb: str, args: dict[str, Any]
) -> None:
    result = request(controlled.endpoints["control"], verb, args)
    assert result == {"did": verb}
    assert machine.calls == [(verb, args)]


def test_status_tells_the_counts(controlled: Publisher) -> None:
    assert request(controlled.endpoints["control"], "status")["run"] == "run-1"


def test_request_id_comes_back(dealer: zmq.Socket[bytes]) -> None:
    assert ask(dealer, asked("ping", id="a-7"))["id"] == "a-7"


def test_a_request_repeated_is_answered_twice_and_done_once(
    dealer: zmq.Socket[bytes], machine: Machine
) -> None:
    bodies = [asked("follow", {"track_id": 3}, id=id_) for id_ in (5, "five")]
    for body in bodies:
        assert ask(dealer, body) == ask(dealer, body)
    assert machine.calls == [("follow", {"track_id": 3})] * 2


def test_a_text_as_id_is_known_on_every_connection_a_number_on_its_own(
    controlled: Publisher, machine: Machine
) -> None:
    with zmq.Context() as context:
        for _ in range(2):
            with context.socket(zmq.DEALER) as client:
                client.linger = 0
                client.connect(controlled.endpoints["control"])
                assert ask(client, asked("release", id="0c1d"))["ok"]
                assert ask(client, asked("rollback", id=1))["ok"]
    assert [verb for verb, _ in machine.calls] == ["release", "rollback", "rollback"]


def test_only_the_same_request_within_its_time_is_a_repetition() -> None:
    now_s, machine = 0.0, Machine()
    answer = Commands(machine.handlers(), clock=lambda: now_s).answer
    for track_id in (1, 2, 1):  # one client that counts nothing
        answer(asked("follow", {"track_id": track_id}))
    assert len(machine.calls) == 3
    now_s = 60.0
    answer(asked("follow", {"track_id": 1}))
    answer(asked("follow", {"track_id": -1}))
    answer(asked("follow", {"track_id": -1}))
    assert len(machine.calls) == 4  # a refusal is not remembered, and did nothing
    answer(asked("stop"))
    answer(asked("stop"))
    assert [verb for verb, _ in machine.calls[4:]] == ["stop", "stop"]


def test_requests_remembered_are_bounded() -> None:
    ticks = iter(range(10_000_000))
    commands = Commands(Machine().handlers(), clock=lambda: float(next(ticks)))
    for number in range(2000):
        commands.answer(asked("release", id=f"{number}"))
    assert len(commands._done._kept) == 256


def test_req_socket_is_answered_too(controlled: Publisher) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as client:
        client.linger = 0
        client.connect(controlled.endpoints["control"])
        client.send(with_token(client, asked("ping")))
        assert client.poll(5000)
        assert json.loads(client.recv())["ok"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not strict JSON"),
        (b"\xff\xfe", "not strict JSON"),
        (b"[1, 2]", "not an object"),
        (b'{"v": NaN}', "NaN is not JSON"),
        (b"[" * 15_000, "not strict JSON"),
        (b'{"v": ' + b"1" * 10_000 + b"}", "not strict JSON"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "at most"),
        (asked("ping", v=2), "expected v = 1"),
        (asked("ping", colour="red"), "unknown keys"),
        (asked("eval"), "unknown; expected one of"),
        (asked(["ping"]), "unknown; expected one of"),
        (asked("ping", id=[1]), "id: expected"),
        (asked("ping", id=2**60), "id: expected"),
        (asked("ping", {"x": 1}), "Extra inputs"),
        (asked("follow", {}), "either track_id"),
        (asked("follow", {"track_id": 1, "y_px": 1.0, "x_px": 1.0}), "either track_id"),
        (asked("follow", {"track_id": -1}), "greater than or equal"),
        (asked("follow", {"track_id": "1"}), "valid integer"),
        (asked("follow", {"y_px": 1e300, "x_px": 0.0}), "less than or equal"),
        (asked("retrain", {"y_px": 1.0}), "x_px"),
        (asked("set", {"values": {}}), "at least 1"),
        (asked("set", {"values": {"a": [1]}}), "valid"),
    ],
)
def test_bad_request_is_answered_and_changes_nothing(
    dealer: zmq.Socket[bytes], machine: Machine, body: bytes, problem: str
) -> None:
    reply = ask(dealer, body)
    assert not reply["ok"]
    assert problem in reply["error"]
    assert machine.calls == []


def test_envelope_of_too_many_parts_is_answered(dealer: zmq.Socket[bytes]) -> None:
    assert not ask(dealer, b"a", b"b", b"c", b"not json")["ok"]


def test_stop_passes_whatever_surrounds_it(
    dealer: zmq.Socket[bytes], machine: Machine
) -> None:
    assert ask(dealer, b'{"verb": "stop", "v": 99, "args": [1], "x": 0}')["ok"]
    assert machine.calls == [("stop", {})]


def test_stop_passes_beside_a_flood(controlled: Publisher, machine: Machine) -> None:
    endpoint = controlled.endpoints["control"]
    flooding = threading.Event()
    flooding.set()

    def flood() -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as client:
            client.linger = 0
            client.connect(endpoint)
            while flooding.is_set():
                client.send(with_token(client, asked("follow", {"track_id": 1})))
                client.poll(0)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        refused = 0
        while not refused:  # until the flood has used up the allowance
            try:
                request(endpoint, "ping")
            except StreamError as error:
                refused += "too many requests" in str(error)
        assert request(endpoint, "stop") == {"did": "stop"}
    finally:
        flooding.clear()
        thread.join()
    follows = sum(verb == "follow" for verb, _ in machine.calls)
    assert follows < 200  # burst of 50, then 50/s; the flood sent many thousands


def test_handler_errors_become_replies() -> None:
    def refuse(_args: Mapping[str, Any]) -> Mapping[str, Any]:
        raise StageError("x_um = 900: outside the travel box.")

    def break_down(_args: Mapping[str, Any]) -> Mapping[str, Any]:
        raise KeyError("secret detail")

    publisher = Publisher(
        "tcp://127.0.0.1:0",
        None,
        control="tcp://127.0.0.1:0",
        commands={"recenter": refuse, "release": break_down},
    )
    try:
        endpoint = publisher.endpoints["control"]
        with pytest.raises(StreamError, match="outside the travel box"):
            request(endpoint, "recenter", {"y_px": 0.0, "x_px": 0.0})
        with pytest.raises(StreamError, match="release: failed with KeyError"):
            request(endpoint, "release")
        with pytest.raises(StreamError, match="retrain: not available"):
            request(endpoint, "retrain", {"y_px": 0.0, "x_px": 0.0})
    finally:
        publisher.close()


def is_open(endpoint: str) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) == 0


def test_a_handler_that_does_not_end_keeps_its_socket() -> None:
    """Closing the socket under it would crash the program once it answers."""
    has_begun, may_end = threading.Event(), threading.Event()

    def hang(_args: Mapping[str, Any]) -> Mapping[str, Any]:
        has_begun.set()
        may_end.wait(30)
        return {}

    publisher = Publisher(
        "tcp://127.0.0.1:0",
        None,
        control="tcp://127.0.0.1:0",
        commands={"recenter": hang},
    )
    asked = threading.Thread(
        target=request,
        args=(publisher.endpoints["control"], "recenter", {"y_px": 0, "x_px": 0}),
        kwargs={"timeout_s": 30.0},
    )
    asked.start()
    assert has_begun.wait(10)
    publisher.close()
    may_end.set()
    asked.join(10)
    assert not asked.is_alive()  # it has been answered all the same
    wait_for(lambda: not is_open(publisher.endpoints["control"]))


def test_control_is_off_by_default() -> None:
    publisher = Publisher("tcp://127.0.0.1:0", None)
    try:
        assert "control" not in publisher.endpoints
    finally:
        publisher.close()


def test_unanswered_request_names_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StreamError, match="no answer to 'ping'"):
            request(endpoint, "ping", timeout_s=0.2)


def test_unknown_verb_cannot_be_registered() -> None:
    with pytest.raises(StreamError, match="unknown"):
        Publisher(
            "tcp://127.0.0.1:0",
            None,
            control="tcp://127.0.0.1:0",
            commands={"shutdown": dict},
        )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["v", "id", "verb", "args", "track_id", "values", "y_px"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
_REQUESTS = (
    st.binary(max_size=400)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {
            "v": st.just(1),
            "id": _JSON,
            "verb": st.sampled_from(sorted(set(VERBS) - {"stop"})) | _JSON,
            "args": _JSON,
        }
    ).map(lambda value: json.dumps(value).encode())
)


@given(body=_REQUESTS)
def test_any_bytes_get_one_strict_reply(body: bytes) -> None:
    machine = Machine()
    handlers = machine.handlers() | {"status": machine.handler("status")}
    answer = Commands(handlers, clock=lambda: 0.0).answer
    reply = json.loads(answer(body), parse_constant=pytest.fail)
    assert reply["v"] == 1
    assert reply["ok"] in (True, False)
    assert len(machine.calls) == reply["ok"]  # a refused request reached nobody
    for verb, args in machine.calls:
        assert VERBS[verb].args.model_validate(args)


def test_raw_random_bytes_on_every_port_change_nothing(
    controlled: Publisher, machine: Machine
) -> None:
    rng = np.random.default_rng(0)
    for endpoint in controlled.endpoints.values():
        port = int(endpoint.rsplit(":", 1)[1])
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                peer.sendall(rng.bytes(rng.integers(1, 3000)))
    for size in (0, 1, 100, 5000):
        with zmq.Context() as context, context.socket(zmq.XSUB) as peer:
            peer.linger = 0
            peer.connect(controlled.endpoints["stream"])
            for _ in range(20):
                peer.send(os.urandom(size))
    assert machine.calls == []
    assert request(controlled.endpoints["control"], "ping") == {"did": "ping"}
    assert controlled.n_failed == 0
