"""Who may command a run: nobody without its token, no web page, no old protocol."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq

from lodestar_live.errors import StreamError
from lodestar_live.streams import ClientKeys, Publisher, Subscriber, request
from lodestar_live.streams.tokens import Token, find_token, token_file
from tests.needs import find_chromium
from tests.streams.hostile import hurried_client
from tests.streams.samples import RUN, make_keys, make_update, receive, wait_for

LOOPBACK = "tcp://127.0.0.1:0"


class Stage:
    """Stands for the run: remembers what it was told to do."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def verbs(self) -> dict[str, Any]:
        return {verb: self.verb(verb) for verb in ("follow", "recenter", "stop")}

    def verb(self, name: str) -> Any:
        def handle(_args: Mapping[str, Any]) -> Mapping[str, Any]:
            self.calls.append(name)
            return {}

        return handle


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def publisher(stage: Stage) -> Iterator[Publisher]:
    publisher = Publisher(LOOPBACK, LOOPBACK, control=LOOPBACK, commands=stage.verbs())
    publisher.open(RUN)
    yield publisher
    publisher.close()


def port_of(publisher: Publisher, name: str) -> int:
    return int(publisher.endpoints[name].rsplit(":", 1)[1])


def ask(endpoint: str, *frames: bytes) -> dict[str, Any]:
    """Send frames as any program of this machine could, and return the reply."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(endpoint)
        client.send_multipart(frames)
        assert client.poll(10_000)
        return dict(json.loads(client.recv_multipart()[-1]))


def follow(**more: Any) -> bytes:
    wish = {"v": 1, "id": 1, "verb": "follow", "args": {"track_id": 1}, **more}
    return json.dumps(wish).encode()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "missing"),
        ({"token": ""}, "wrong"),
        ({"token": "x" * 43}, "wrong"),
        ({"token": None}, "wrong"),
        ({"token": ["a"]}, "wrong"),
        ({"token": "é"}, "wrong"),
    ],
)
def test_a_request_without_the_token_is_refused_in_words(
    publisher: Publisher, stage: Stage, given: dict[str, Any], what: str
) -> None:
    reply = ask(publisher.endpoints["control"], follow(**given))
    assert not reply["ok"]
    assert reply["error"].startswith(f"token: {what}; expected `token` to be the text")
    assert str(token_file(publisher.endpoints["control"])) in reply["error"]
    assert stage.calls == []


def test_our_own_client_finds_the_token_and_stop_needs_none(
    publisher: Publisher, stage: Stage
) -> None:
    endpoint = publisher.endpoints["control"]
    request(endpoint, "follow", {"track_id": 1})
    request(endpoint.replace("127.0.0.1", "localhost"), "follow", {"track_id": 2})
    assert ask(endpoint, b'{"verb": "stop"}')["ok"]
    assert stage.calls == ["follow", "follow", "stop"]


def test_requests_without_the_token_use_up_nobodys_allowance(
    publisher: Publisher,
) -> None:
    endpoint = publisher.endpoints["control"]
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(endpoint)
        for _ in range(100):
            client.send(follow())
        for _ in range(100):
            assert client.poll(10_000)
            client.recv()
        assert request(endpoint, "ping", timeout_s=10.0) == {"pong": True}


def test_the_run_tells_where_its_token_lies_and_only_its_user_can_read_it(
    publisher: Publisher,
) -> None:
    with Subscriber(publisher.endpoints["stream"], ("run",)) as reader:
        path = Path(receive(reader, "run").header["token_file"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0
    token = path.read_text().strip()
    assert len(token) >= 40
    assert ask(publisher.endpoints["control"], follow(token=token))["ok"]
    publisher.close()
    assert not path.exists()


def test_each_run_has_a_token_of_its_own(stage: Stage) -> None:
    endpoint, tokens = LOOPBACK, []
    for _ in range(2):
        run = Publisher(LOOPBACK, None, control=endpoint, commands=stage.verbs())
        endpoint = run.endpoints["control"]
        tokens.append(find_token(endpoint))
        run.close()
    assert None not in tokens
    assert tokens[0] != tokens[1]


def test_a_token_that_others_may_read_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LODESTAR_LIVE_TOKENS", str(tmp_path / "tokens"))
    token = Token.issue("tcp://127.0.0.1:5558")
    assert find_token("tcp://localhost:5558") == token.text
    token.path.chmod(0o644)
    with pytest.raises(StreamError, match="other users of this machine may read it"):
        find_token("tcp://127.0.0.1:5558")
    token.path.parent.chmod(0o777)
    with pytest.raises(StreamError, match="chmod 700"):
        Token.issue("tcp://127.0.0.1:5558")
    monkeypatch.setenv("LODESTAR_LIVE_TOKENS", str(token.path))
    with pytest.raises(StreamError, match="cannot be written"):
        Token.issue("tcp://127.0.0.1:5558")


@pytest.mark.parametrize("extra", [(b"x",), (b"", b"x"), (b"",) * 40])
def test_a_request_is_exactly_one_frame(
    publisher: Publisher, stage: Stage, extra: tuple[bytes, ...]
) -> None:
    endpoint = publisher.endpoints["control"]
    body = follow(token=find_token(endpoint))
    assert ask(endpoint, body)["ok"]
    reply = ask(endpoint, *extra, body)
    assert not reply["ok"]
    assert "expected exactly one" in reply["error"]
    assert stage.calls == ["follow"]


def zmtp1(body: bytes) -> bytes:
    """Return a frame of ZMTP 1, which libzmq speaks with whoever does not greet."""
    return bytes([len(body) + 1, 0]) + body


@pytest.mark.parametrize("name", ["stream", "latest", "control"])
def test_raw_http_reaches_no_socket(
    publisher: Publisher, stage: Stage, name: str
) -> None:
    """ZMTP 1 takes a page's POST for frames; a run of 0x01 puts them in step."""
    port = port_of(publisher, name)
    token = find_token(publisher.endpoints["control"])
    wish = b'{"verb":"stop"}' if name == "control" else follow(token=token)
    for n_sled in (400, 401, 402):
        body = b"\x01" * n_sled + zmtp1(b"x") + zmtp1(wish)
        head = (
            f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}"
            "\r\nContent-Type: text/plain\r\nOrigin: http://evil.example\r\n\r\n"
        )
        with (
            contextlib.suppress(ConnectionResetError),  # it is cut, one way or another
            socket.create_connection(("127.0.0.1", port), timeout=10) as page,
        ):
            page.sendall(head.encode() + body)
            assert page.recv(4096)[:1] in (b"", b"\xff")  # the end, or a greeting
    assert request(publisher.endpoints["control"], "ping", timeout_s=10.0)
    assert stage.calls == []


@pytest.mark.needs_chromium
def test_a_page_of_another_site_moves_nothing_in_a_real_browser(
    publisher: Publisher, stage: Stage
) -> None:
    from playwright.sync_api import sync_playwright

    port = port_of(publisher, "control")
    wish = json.dumps({"v": 1, "id": "evil", "verb": "stop"})
    script = """<script>
      const frame = (text) => {
        const body = new TextEncoder().encode(text);
        const all = new Uint8Array(body.length + 2);
        all[0] = body.length + 1; all.set(body, 2); return all;
      };
      const tries = [0, 1].map((odd) => fetch("http://127.0.0.1:PORT/", {
        method: "POST", mode: "no-cors",
        body: new Blob([new Uint8Array(400 + odd).fill(1), frame("x"), frame(WISH)]),
      }).catch(() => 0));
      Promise.race([Promise.all(tries), new Promise((r) => setTimeout(r, 1500))])
        .then(() => { document.title = "tried"; });
    </script>""".replace("PORT", str(port)).replace("WISH", json.dumps(wish))

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(script.encode())

        def log_message(self, *_args: Any) -> None:
            pass

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find_chromium(), args=arguments
            )
            page = browser.new_page()
            page.goto(f"http://evil.example:{site.server_address[1]}/")
            page.wait_for_function("document.title === 'tried'", timeout=30_000)
            browser.close()
    finally:
        site.shutdown()
        site.server_close()
    assert request(publisher.endpoints["control"], "ping", timeout_s=10.0)
    assert stage.calls == []


def test_a_key_that_is_taken_away_stops_working_at_once(
    tmp_path: Path, stage: Stage
) -> None:
    folder = make_keys(tmp_path, "server")
    os.link(folder / "stranger.key", folder / "clients" / "other.key")
    publisher = Publisher(
        LOOPBACK,
        None,
        control=LOOPBACK,
        commands=stage.verbs(),
        keys=folder / "server.key_secret",
        clients=folder / "clients",
    )
    publisher.open(RUN)
    endpoint = publisher.endpoints["control"]
    server = folder / "server.key"
    friend = ClientKeys(folder / "friend.key_secret", server)
    other = ClientKeys(folder / "stranger.key_secret", server)
    try:
        with (
            Subscriber(publisher.endpoints["stream"], ("run", "tracks"), keys=other) as
            gone,
            zmq.Context() as context,
            context.socket(zmq.DEALER) as connected,
        ):  # fmt: skip
            receive(gone, "run")
            connected.linger = 0
            other.secure(connected)
            connected.connect(endpoint)
            connected.send(follow())
            assert connected.poll(10_000)
            assert json.loads(connected.recv())["ok"]

            (folder / "clients" / "other.key").unlink()
            connected.send(follow())  # on the connection that was let in
            assert not connected.poll(500)
            with pytest.raises(StreamError, match="no answer"):
                request(endpoint, "follow", {"track_id": 1}, keys=other, timeout_s=0.5)
            wait_for(lambda: "tracks" not in publisher.wanted_topics)
            assert stage.calls == ["follow"]

            request(endpoint, "follow", {"track_id": 1}, keys=friend, timeout_s=10.0)
            with Subscriber(
                publisher.endpoints["stream"], ("run", "tracks"), keys=friend
            ) as reader:
                receive(reader, "run")
                publisher.write(make_update(1))
                assert receive(reader, "tracks").frame == 1
            assert gone.receive(timeout_s=0.0) is None

            os.link(folder / "stranger.key", folder / "clients" / "other.key")
            request(endpoint, "follow", {"track_id": 1}, keys=other, timeout_s=10.0)
    finally:
        publisher.close()


TRACKER = """
import sys, time
from lodestar_live.data import RunInfo
from lodestar_live.streams import Publisher
run = Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", control="tcp://127.0.0.1:0")
run.open(RunInfo("r", "2026-01-01T00:00:00+00:00"))
print(*(run.endpoints[n].rsplit(":", 1)[1] for n in ("stream", "latest", "control")))
sys.stdout.flush()
sys.stdin.read()
run.close()
print("ended well", flush=True)
"""


def test_clients_that_send_much_and_leave_do_not_end_the_process() -> None:
    """libzmq 4.3.5 aborts when reading is suspended and a heartbeat or PING is due."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRACKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ports = [int(port) for port in process.stdout.readline().split()]
        for _ in range(20):
            for port, kind in zip(ports, (b"SUB", b"SUB", b"DEALER"), strict=True):
                for has_pings in (False, True):
                    hurried_client(port, kind, n=1000, has_pings=has_pings)
        time.sleep(1.5)  # longer than the heartbeat that used to kill
        endpoint = f"tcp://127.0.0.1:{ports[2]}"
        assert request(endpoint, "ping", timeout_s=60.0) == {"pong": True}
        with Subscriber(f"tcp://127.0.0.1:{ports[0]}", ("run",)) as reader:
            assert receive(reader, "run").header["run"] == "r"
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, told.strip()) == (0, "ended well"), errors


def test_a_flood_without_the_token_takes_nobody_elses_request(
    publisher: Publisher,
) -> None:
    endpoint, port = publisher.endpoints["control"], port_of(publisher, "control")
    flooding = threading.Event()
    flooding.set()

    def flood() -> None:
        while flooding.is_set():
            hurried_client(port, b"DEALER", n=5000)

    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert request(endpoint, "ping", timeout_s=20.0) == {"pong": True}
    finally:
        flooding.clear()
        for thread in threads:
            thread.join()
