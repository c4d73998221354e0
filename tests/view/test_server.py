"""The page's server answers its own page on this machine, and nobody else."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lodestar_live.errors import InputError, StreamError
from lodestar_live.view.web.bundle import Part, pack, rows_part
from lodestar_live.view.web.recorded_feed import RecordedFeed
from lodestar_live.view.web.server import ViewServer
from tests.view.made_runs import brownian_run


@pytest.fixture
def server():
    run, _ = brownian_run(n_tracks=3, n_frames=10)
    opened = ViewServer(RecordedFeed(run, source="run"))
    yield opened
    opened.close()


@pytest.mark.parametrize("port", [70000, -1])
def test_a_port_that_is_none_is_refused_in_words(port):
    run, _ = brownian_run(n_tracks=1, n_frames=2)
    with pytest.raises(InputError, match=f"port {port}: expected 1 to 65535"):
        ViewServer(RecordedFeed(run, source="run"), port=port)


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
        return reply.status, dict(reply.headers), reply.read()


def unpack(data):
    size = int.from_bytes(data[:4], "little")
    start = (4 + size + 7) // 8 * 8
    parts = json.loads(data[4 : 4 + size])["parts"]
    return [
        (p, data[start + p["offset"] : start + p["offset"] + p["size"]]) for p in parts
    ]


def talk(server, *messages, origin=None, host=None):
    """Send messages to the feed and return as many answers."""
    port = server.url.split(":")[2].strip("/")
    if origin is None:
        origin = f"http://127.0.0.1:{port}"
    extra = {"Host": host} if host else {}
    with connect(
        f"ws://127.0.0.1:{port}/feed", origin=origin or None, additional_headers=extra
    ) as socket_:
        answers = []
        for message in messages:
            socket_.send(message)
            answers.append(socket_.recv(timeout=5))
        return answers


def test_page_and_assets_are_served_with_their_guards(server):
    for name in ("", "app.js", "vendor/uPlot.esm.js", "style.css"):
        status, headers, body = get(server.url + name)
        assert status == 200 and body
        assert "default-src 'self'" in headers["content-security-policy"]


def test_nothing_in_the_page_comes_from_elsewhere():
    from lodestar_live.view.web.server import PAGE

    for path in PAGE.glob("*"):
        if path.suffix in {".html", ".js", ".css"}:
            text = path.read_text(encoding="utf-8")
            assert "https://" not in text and "http://" not in text, path


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", ""])
def test_a_name_pointed_at_this_machine_is_refused(server, host):
    with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
        get(server.url, Host=host)


def test_only_the_page_itself_may_open_the_feed(server):
    for origin in ("http://evil.example", "null", ""):
        with pytest.raises(InvalidStatus):
            talk(server, '{"type":"next"}', origin=origin)
    with pytest.raises(InvalidStatus):
        talk(server, '{"type":"next"}', host="evil.example")
    assert talk(server, '{"type":"next","frame":3}')


@pytest.mark.parametrize(
    "message", ["", "{", "[]", '{"type":"x"}', '{"type":NaN}', "x" * 20_000, b"\x00"]
)
def test_what_is_not_a_wish_ends_that_connection_only(server, message):
    with pytest.raises(ConnectionClosed):
        talk(server, message)
    assert talk(server, '{"type":"next"}')


@pytest.mark.parametrize("args", ['{"track_id":1}', "[]", "null", '"x"'])
def test_a_recorded_run_refuses_every_command(server, args):
    request = f'{{"type":"command","id":1,"verb":"follow","args":{args}}}'
    (answer,) = talk(server, request)
    assert json.loads(answer)["ok"] is False


def test_frames_asked_for_are_answered(server):
    (data,) = talk(server, '{"type":"next","frame":4,"since":-1}')
    parts = {part["topic"]: (part, body) for part, body in unpack(data)}
    assert parts["run"][0]["frames"] == list(range(10))
    facts, body = parts["tracks"]
    matrix = np.frombuffer(body, "<f8").reshape(len(facts["columns"]), facts["n"])
    assert set(matrix[0]) == {0, 1, 2, 3, 4}


def test_bodies_lie_where_the_head_says():
    rows = brownian_run(n_tracks=3, n_frames=1)[0].tracks()
    parts = [
        Part("a", {}, b"xyz"),
        rows_part("tracks", {"frame": 1}, rows, ("y_px", "x_px")),
        Part("b", {"n": 1}),
    ]
    (_, a), (facts, matrix), (_, b) = unpack(pack(parts))
    assert a == b"xyz" and b == b""
    assert facts["offset"] % 8 == 0 and facts["columns"] == ["y_px", "x_px"]
    np.testing.assert_array_equal(
        np.frombuffer(matrix).reshape(2, 3), [rows["y_px"], rows["x_px"]]
    )


def test_a_port_in_use_is_an_error_with_a_remedy(server):
    port = int(server.url.split(":")[2].strip("/"))
    with pytest.raises(StreamError, match="--port"):
        ViewServer(RecordedFeed(brownian_run(n_frames=2)[0], source=""), port=port)


def test_the_server_listens_on_loopback_only(server):
    port = int(server.url.split(":")[2].strip("/"))
    listening = [
        c.laddr
        for c in psutil.Process().net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    ]
    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_closing_frees_the_port():
    opened = ViewServer(RecordedFeed(brownian_run(n_frames=2)[0], source=""))
    port = int(opened.url.split(":")[2].strip("/"))
    opened.close()
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
