"""The start page's server refuses strangers, and says what is wrong with the rest."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lodestar_live.cli.start import _private_way_to
from lodestar_live.errors import LodestarError
from lodestar_live.settings import load_settings, parse_settings
from lodestar_live.start import StartFeed
from lodestar_live.start.wheel import Wheel
from lodestar_live.view.web.server import ViewServer

TOKEN = "the key of this session"


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFeed]:
    opened = StartFeed(tmp_path_factory.mktemp("job"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def port(feed: StartFeed) -> Iterator[int]:
    server = ViewServer(feed, token=TOKEN)
    yield int(server.url.split(":")[2].split("/")[0])
    server.close()


def ask(
    port: int,
    verb: str,
    args: object,
    *,
    token: str = TOKEN,
    origin: str = "",
    n: int = 1,
) -> dict[str, object]:
    """Send one command as a page does; return the answer."""
    key = f"?token={token.replace(' ', '%20')}" if token else ""
    own = f"http://127.0.0.1:{port}"
    with connect(f"ws://127.0.0.1:{port}/feed{key}", origin=origin or own) as page:
        asked = {"type": "command", "id": n, "verb": verb, "args": args, "page": "a"}
        page.send(json.dumps(asked))
        answer: dict[str, object] = json.loads(page.recv(timeout=10))
        return answer


@pytest.mark.parametrize("token", ["", "another key", TOKEN + "x"])
def test_without_the_key_nobody_is_talked_to(port: int, token: str) -> None:
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        ask(port, "look_around", {}, token=token)


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_a_foreign_page_is_refused_even_with_the_key(port: int, origin: str) -> None:
    with pytest.raises(InvalidStatus):
        ask(port, "look_around", {}, origin=origin)


@pytest.mark.parametrize(
    ("verb", "args", "said"),
    [
        ("fly", {}, "no verb of this page"),
        ("connect", {"backend": "lidar"}, "backend"),
        ("connect", {"backend": "running", "port": 70000}, "port"),
        ("connect", {"backend": "headless"}, r"\.cfg"),
        ("connect", {"backend": "demo", "speed": 3}, "speed"),
        ("expose", {"exposure_ms": 0}, "exposure_ms"),
        ("expose", {"exposure_ms": 5.0}, "connect one first"),
        ("snap", {}, "connect one first"),
        ("watch", {"on": "yes"}, "on"),
        ("click", {"y_px": 1.0, "x_px": 1.0}, "Snap"),
        ("click", {"y_px": float("inf"), "x_px": 1.0}, "y_px"),
        ("train", {}, "Snap"),
        ("train", {"steps": 0}, "steps"),
        ("threshold", {"threshold": 0.5}, "train a model first"),
        ("calibrate", {}, "connect one first"),
        ("box", {"y_um": [1.0, 0.0], "x_um": [0.0, 1.0]}, "lowest < highest"),
        ("box", {"y_um": [1.0], "x_um": [0.0, 1.0]}, "y_um"),
        ("draw_box", {"y_px": [0, 9], "x_px": [0, 9]}, "calibrate first"),
        ("arm_stage", {"on": True}, "calibrate first"),
        ("set_up", {"rules": ["x" * 201]}, "rules"),
        ("begin", {}, "train a model first"),
        ("end", {}, "no run"),
        ("export", {"to": "csv"}, "no run"),
        ("export", {"to": "../../etc"}, "to"),
        ("open_run", {"run": "../elsewhere"}, "no such run"),
        ("follow", {"track_id": 1}, "no run is under way"),
        ("stop", {}, "no run is under way"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    feed: StartFeed, verb: str, args: dict[str, object], said: str
) -> None:
    with pytest.raises(LodestarError, match=said) as refused:
        feed.command(verb, args, "a")
    assert len(str(refused.value)) < 300
    assert feed.job.state()["phase"] == "prepare"


def test_a_refusal_reaches_the_page(port: int) -> None:
    answer = ask(port, "begin", {})
    assert answer["ok"] is False
    assert "train a model first" in str(answer["error"])


def test_what_was_chosen_is_a_settings_file(feed: StartFeed) -> None:
    feed.command("box", {"y_um": [-20.0, 30.0], "x_um": [-5.0, 6.5]}, "a")
    feed.command("set_up", {"name": "exp [beads] µ", "n_frames": 40}, "a")
    feed.command("save", {}, "a")
    state = feed.job.state()
    read = load_settings(Path(state["saved"]))
    assert read == feed.job.settings
    assert read.name == "exp [beads] µ"
    assert read.control.limits is not None
    assert read.control.limits.x_um == (-5.0, 6.5)
    assert not read.control.armed


def test_settings_come_back_from_their_own_toml(tmp_path: Path) -> None:
    given = {
        "training": {"at_px": [[1.5, 2], [3, 4]], "not_at_px": [9, 9]},
        "control": {"rules": ["when n_tracks > 20: set Camera Exposure 5"],
                    "properties": {"Camera Exposure": [1, 50]}},
        "holography": {"wavelength_um": 0.633},
    }  # fmt: skip
    settings = parse_settings(given)
    path = tmp_path / "a.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    assert load_settings(path) == settings


def test_one_page_steers_and_the_others_see_which(feed: StartFeed) -> None:
    feed.command("take_wheel", {}, "a")
    with pytest.raises(LodestarError, match="has the wheel"):
        feed.command("look_around", {}, "b")
    with pytest.raises(LodestarError, match="no run is under way"):
        feed.command("stop", {}, "b")  # whoever sees danger may stop it
    feed.command("take_wheel", {"name": "Ada"}, "b")
    assert feed.wheel.as_json("a") | {"n_pages": 2} == {
        "holder": "Ada", "is_mine": False, "me": "page 1", "n_pages": 2
    }  # fmt: skip
    with pytest.raises(LodestarError, match="Ada has the wheel"):
        feed.command("look_around", {}, "a")
    with pytest.raises(LodestarError, match="did not say which"):
        feed.command("look_around", {}, "")
    feed.command("take_wheel", {}, "a")


def test_a_page_that_is_gone_lets_the_wheel_go() -> None:
    now_s = [0.0]
    wheel = Wheel(lambda: now_s[0])
    wheel.require("a", "snap")
    now_s[0] = 4.0
    wheel.see("b")
    with pytest.raises(LodestarError, match="page 1 has the wheel"):
        wheel.require("b", "snap")
    now_s[0] = 7.0
    wheel.require("b", "snap")
    assert wheel.as_json("b")["is_mine"]


def test_the_key_is_in_no_list_of_processes() -> None:
    url = "http://127.0.0.1:1/#secret"
    with _private_way_to(url) as way:
        file = Path(url2pathname(urlparse(way).path))
        assert "secret" not in way
        assert f"url={url}" in file.read_text(encoding="utf-8")
        if os.name == "posix":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()
