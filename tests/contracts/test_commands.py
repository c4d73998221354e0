"""Commands: what the page documents, a run's real socket answers, word for word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from lodestar_live.commands import VERBS, Args, checked, serve
from lodestar_live.control.controller import CHANGEABLE
from lodestar_live.data import Detections
from lodestar_live.errors import StreamError
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import open_demo
from lodestar_live.settings import parse_settings
from lodestar_live.streams import request
from lodestar_live.view.web.live_feed import PAGE_VERBS
from tests.streams.samples import wait_for
from tests.streams.test_schemas import validator

VALUES: dict[str, Any] = {
    "track_id": 0,
    "track_ids": [0, 1],
    "y_px": 20.0,
    "x_px": 10.0,
    "target": "brightest",
    "frame": 3,
    "size_px": 21,
    "values": {"deadband_um": 0.5, "mode": "visit"},
}


def documented() -> list[tuple[str, tuple[str, ...]]]:
    """Return (verb, arguments) for every way the page tells of giving them."""
    page = (files("lodestar_live.streams") / "PROTOCOL.md").read_text(encoding="utf-8")
    table = page.split("| verb | args |")[1].split("<!--")[0]
    ways = []
    for row in re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE):
        verb, args = row
        needed, _, optional = args.partition("; optional ")
        more = tuple(re.findall(r"\w+", optional))
        for way in needed.split(", or "):
            names = tuple(re.findall(r"\w+", way.strip("`-")))
            ways += [(verb, names)] + ([(verb, names + more)] if more else [])
    return ways


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveTracker]:
    """Return a run on the demo microscope that has processed frames of two tracks."""
    settings = parse_settings(
        {
            "recording": {"folder": str(tmp_path_factory.mktemp("runs"))},
            "streams": {
                "stream": "tcp://127.0.0.1:0",
                "latest": "tcp://127.0.0.1:0",
                "control": "tcp://127.0.0.1:0",
            },
            "control": {"follow": True},
            "live": {"mode": "every"},
            "microscope": {"pixel_size_um": 1.0},
        }
    )

    def two(_pixels: Any) -> Detections:
        return Detections.from_positions([[20.0, 10.0], [40.0, 50.0]], sigma_px=0.1)

    with (
        open_demo(64) as microscope,
        LiveTracker(settings, microscope=microscope, detect=two) as tracker,
    ):
        for _ in range(12):
            tracker(np.zeros((64, 64), np.uint16), {"Exposure": 5.0})
        wait_for(lambda: tracker.counts.processed == 12)
        yield tracker


@pytest.mark.system
def test_the_page_names_every_verb_of_the_code() -> None:
    assert {verb for verb, _ in documented()} == set(VERBS)
    fields = {(v, n) for v, names in documented() for n in names}
    assert fields == {(v, n) for v in VERBS for n in VERBS[v].args.model_fields}
    assert set(VALUES) == {name for _, name in fields}


@pytest.mark.system
@pytest.mark.parametrize(("verb", "names"), documented())
def test_a_real_run_answers_each_verb_with_each_argument_of_the_page(
    run: LiveTracker, verb: str, names: tuple[str, ...]
) -> None:
    args = {name: VALUES[name] for name in names}
    asked = {"v": 1, "id": 1, "verb": verb, "args": args}
    validator("request").validate(asked)
    endpoint = run.endpoints["control"]
    try:
        reply = request(endpoint, verb, args, timeout_s=20.0)
    except StreamError as error:
        # the run understood; what it was asked for is not possible at this moment
        assert verb in ("retrain", "rollback", "arm")  # a dry run has nothing to arm
        assert re.search("under way|nothing to undo|is gone|dry run", str(error))
        return
    assert isinstance(reply, dict)
    if verb == "follow":
        assert reply["state"] != "idle"


@pytest.mark.system
def test_mode_and_target_reach_the_controller_by_the_socket(run: LiveTracker) -> None:
    endpoint = run.endpoints["control"]

    def processed(n: int) -> None:
        for _ in range(n):
            tracker_frame(run)

    request(endpoint, "follow", {"target": "nearest"})
    processed(3)
    assert request(endpoint, "status")["control"]["track_id"] in (0, 1)
    request(endpoint, "set", {"values": {"mode": "centroid"}})
    request(endpoint, "follow", {"track_ids": [0, 1]})
    processed(3)
    control = request(endpoint, "status")["control"]
    assert control["track_id"] is None  # the middle of two is no track
    assert control["predicted_y_um"] == pytest.approx(30.0 - 31.5, abs=0.5)
    request(endpoint, "set", {"values": {"mode": "visit", "dwell_s": 0.01}})
    visited = set()
    for _ in range(8):
        processed(1)
        visited.add(request(endpoint, "status")["control"]["track_id"])
    assert {0, 1} <= visited


def tracker_frame(run: LiveTracker) -> None:
    before = run.counts.processed
    run(np.zeros((64, 64), np.uint16), {"Exposure": 5.0})
    wait_for(lambda: run.counts.processed == before + 1)


@pytest.mark.system
def test_set_changes_all_or_nothing_and_only_what_may_change(run: LiveTracker) -> None:
    endpoint = run.endpoints["control"]
    assert all(f"`{name}`" in VERBS["set"].does for name in CHANGEABLE)
    controller = run._current().parts.controller
    before = controller.settings
    for values in (
        {"deadband_um": 9.0, "max_step_um": 5},
        {"deadband_um": 9.0, "dwell_s": -1.0},
        {"deadband_um": 9.0, "mode": "sideways"},
        {"deadband_um": True},
        {"coast_frames": 1e308},
    ):
        with pytest.raises(StreamError, match="set: "):
            request(endpoint, "set", {"values": values})
        assert controller.settings == before


def test_the_page_sends_no_verb_that_does_not_exist() -> None:
    page = files("lodestar_live.view")
    scripts = [path for path in walk(page) if path.name == "app.js"]
    sent = {
        verb
        for script in scripts
        for verb in re.findall(r'\bsend\("(\w+)"', script.read_text(encoding="utf-8"))
    }
    assert sent
    assert sent <= set(PAGE_VERBS) <= set(VERBS)


def walk(folder: Any) -> Iterator[Any]:
    for path in folder.iterdir():
        if path.is_dir() and path.name != "vendor":
            yield from walk(path)
        elif path.is_file():
            yield path


def test_a_handler_takes_the_arguments_of_its_verb() -> None:
    with pytest.raises(StreamError, match="not a verb with"):
        serve("follow", VERBS["stop"].args, print)
    with pytest.raises(StreamError, match="not a verb"):
        serve("fly", Args, print)
    handler = serve("follow", VERBS["follow"].args, lambda a: {"id": a.track_id})
    assert handler({"track_id": 3}) == {"id": 3}
    with pytest.raises(StreamError, match="track_id"):
        handler({"track_id": "3"})


@pytest.mark.parametrize(
    "args",
    [
        {"track_id": 10**4200},
        {"track_ids": []},
        {"track_ids": [1] * 257},
        {"target": "largest"},
        {"target": "nearest", "track_id": 1},
        {"y_px": float("inf"), "x_px": 0.0},
        {"frame": 3},
    ],
)
def test_arguments_that_mean_nothing_are_refused_in_one_short_sentence(
    args: dict[str, Any],
) -> None:
    with pytest.raises(StreamError, match=r"^follow: ") as refused:
        checked("follow", VERBS["follow"].args, args)
    assert len(str(refused.value)) < 400
    assert json.dumps(str(refused.value))
