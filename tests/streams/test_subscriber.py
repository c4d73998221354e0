"""Reading: callbacks, lost connections, foreign messages, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.data import Tracks
from lodestar_live.errors import StreamError
from lodestar_live.streams import Message, Publisher, Subscriber
from lodestar_live.streams.messages import TOPICS, decode, encode, from_json
from tests.streams.samples import (
    RUN,
    make_update,
    publisher,
    receive,
    subscriber,
    wait_for,
)

__all__ = ["publisher"]


def test_callback_gets_every_message_and_may_raise(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Message] = []
    done = threading.Event()

    def note(message: Message) -> None:
        seen.append(message)
        if message.frame == 2:
            done.set()
        if message.frame == 1:
            raise RuntimeError("the user's own bug")

    with subscriber(publisher, "tracks") as reader:
        reader.call(note)
        for index in range(3):
            publisher.write(make_update(index))
        assert done.wait(10)
    assert [m.frame for m in seen if m.topic == "tracks"] == [0, 1, 2]
    assert "the user's own bug" in caplog.text


def test_another_thread_may_close_while_messages_are_read(publisher: Publisher) -> None:
    for _ in range(5):
        reader = Subscriber(publisher.endpoints["stream"], ("tracks",))
        seen: list[Message] = []
        thread = threading.Thread(target=lambda r=reader, s=seen: s.extend(r))
        thread.start()
        wait_for(lambda: "tracks" in publisher.wanted_topics)
        publisher.write(make_update(0))
        reader.close()
        thread.join(10)
        assert not thread.is_alive()
        assert reader.receive(timeout_s=0.0) is None


def test_second_callback_is_refused(publisher: Publisher) -> None:
    with subscriber(publisher, "tracks") as reader:
        reader.call(print)
        with pytest.raises(StreamError, match="already"):
            reader.call(print)


def test_reader_survives_a_restart_of_the_tracker() -> None:
    first = Publisher("tcp://127.0.0.1:0", None)
    first.open(RUN)
    with subscriber(first, "tracks") as reader:
        endpoint = first.endpoints["stream"]
        first.close()
        assert receive(reader, "end").header["run"] == "run-1"
        second = Publisher(endpoint, None)
        second.open(replace(RUN, run="run-2"))
        try:
            assert receive(reader, "run").header["run"] == "run-2"
            second.write(make_update(0))
            assert receive(reader, "tracks").missed == 0
        finally:
            second.close()


def test_iteration_ends_after_the_time_given(publisher: Publisher) -> None:
    with subscriber(publisher, "tracks") as reader:
        assert [m for m in reader.read(seconds=0.05) if m.topic == "tracks"] == []


def test_latest_without_an_address_says_what_to_give(publisher: Publisher) -> None:
    with (
        Subscriber(publisher.endpoints["stream"]) as reader,
        pytest.raises(StreamError, match="latest="),
    ):
        reader.latest()


def test_followed_track_is_reported_by_latest() -> None:
    publisher = Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", target_id=lambda: 1)
    publisher.open(RUN)
    update = make_update(4)
    with Subscriber(
        publisher.endpoints["stream"], latest=publisher.endpoints["latest"]
    ) as reader:
        message = None
        while message is None:
            publisher.write(update)
            message = reader.latest(timeout_s=0.02)
    publisher.close()
    target = message["target"]
    assert target["track_id"] == 1
    assert target["y_px"] == update.tracks.rows["y_px"][1]
    assert target["z_um"] is None  # not measured; JSON has no NaN
    assert message["age_s"] < 5


def test_empty_frame_is_a_message_too(publisher: Publisher) -> None:
    with subscriber(publisher, "tracks") as reader:
        publisher.write(replace(make_update(0), tracks=Tracks.empty()))
        tracks = receive(reader, "tracks").tracks
    assert tracks is not None
    assert len(tracks) == 0


def test_other_version_is_refused_by_name() -> None:
    parts = encode("tracks", {"v": 2, "seq": 0})
    with pytest.raises(StreamError, match="version 2"):
        decode(parts)


def test_columns_unknown_to_us_are_ignored_and_absent_ones_are_nan() -> None:
    rows = np.zeros(2, [("y_px", "f8"), ("brightness_of_the_future", "f8")])
    message = decode(encode("tracks", {"v": 1, "seq": 0, "new_key": 1}, rows))
    assert message.tracks is not None
    assert (message.tracks.rows["y_px"] == 0).all()
    assert np.isnan(message.tracks.rows["x_px"]).all()
    assert message.header["new_key"] == 1


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"tracks", b"{}"],
        [b"nonsense", b"{}", b""],
        [b"tracks", b"[]", b""],
        [b"tracks", b'{"v": 1}', b""],
        [b"tracks", b'{"v": 1, "seq": 0}', b""],
        [b"tracks", b'{"v": 1, "seq": 0, "n": -1, "columns": []}', b""],
        [b"tracks", b'{"v": 1, "seq": 0, "n": 1e3, "columns": ["y_px"]}', b""],
        [b"stage", encode("stage", {"v": 1, "seq": 0})[1], b""],
        [b"event", b'{"v": 1, "seq": 0, "kind": "x"}', b""],
        [encode("tracks", {"v": 1, "seq": 0})[0], b'{"v": NaN}', b""],
    ],
)
def test_message_that_is_not_ours_raises_a_stream_error(parts: list[bytes]) -> None:
    with pytest.raises(StreamError):
        decode(parts)


@given(
    parts=st.tuples(
        st.sampled_from([t.encode() for t in TOPICS]) | st.binary(max_size=8),
        st.binary(max_size=60)
        | st.fixed_dictionaries(
            {
                "v": st.just(1),
                "seq": st.integers(),
                "n": st.integers(-2, 5) | st.none(),
                "columns": st.lists(st.sampled_from(["y_px", "track_id"]), max_size=3)
                | st.none(),
                "dtype": st.sampled_from(["<f8", "O"]),
                "order": st.just("columns"),
                "frame": st.none() | st.integers(),
            }
        ).map(lambda header: json.dumps(header).encode()),
        st.binary(max_size=80),
    )
)
def test_any_parts_decode_or_raise_a_stream_error(parts: tuple[bytes, ...]) -> None:
    try:
        message = decode(parts)
    except StreamError:
        return
    assert message.topic.encode() == parts[0]
    assert isinstance(message.frame, int)


def test_header_is_strict_json_whatever_the_numbers_are() -> None:
    header = {"v": 1, "seq": 0, "a": float("nan"), "b": [float("inf")], "c": {"d": 1}}
    assert from_json(encode("status", header)[1])["b"] == [None]


@pytest.mark.parametrize("as_json", [True, False])
def test_listen_prints_live_tracks(publisher: Publisher, as_json: bool) -> None:
    command = [sys.executable, "-m", "lodestar_live", "listen"]
    command += [publisher.endpoints["stream"], *(["--json"] if as_json else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: "tracks" in publisher.wanted_topics)
        for index in range(3):
            publisher.write(make_update(index))
        publisher.close()
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    if as_json:
        messages = [json.loads(line) for line in output.splitlines()]
        tracks = [m for m in messages if m["type"] == "tracks"]
        assert [m["frame"] for m in tracks] == [0, 1, 2]
        expected = make_update(2).tracks.rows["y_px"].tolist()
        assert tracks[-1]["columns"]["y_px"] == expected
        assert messages[-1]["type"] == "end"
    else:
        assert "frame 2 · 3 tracks" in output


def test_keys_new_makes_files(tmp_path) -> None:
    command = [sys.executable, "-m", "lodestar_live", "keys", "new", "lab"]
    subprocess.run([*command, "--folder", str(tmp_path)], check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lab.key", "lab.key_secret"]


def test_poll_of_a_silent_address_returns_in_time() -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as silent:
        port = silent.bind_to_random_port("tcp://127.0.0.1")
        with Subscriber(f"tcp://127.0.0.1:{port}") as reader:
            assert reader.receive(timeout_s=0.05) is None
