"""Publisher and subscriber over real sockets."""

from __future__ import annotations

import pytest
import zmq

from lodestar_live.data import Event, RunInfo
from lodestar_live.errors import StreamError
from lodestar_live.streams import Publisher, Subscriber
from lodestar_live.streams.messages import from_json
from tests.streams.samples import (
    RUN,
    make_update,
    publisher,
    receive,
    subscriber,
    wait_for,
)

__all__ = ["publisher"]


def test_tracks_arrive_exactly_as_written(publisher: Publisher) -> None:
    update = make_update(7, n=5)
    with subscriber(publisher, "tracks") as reader:
        publisher.write(update)
        message = receive(reader, "tracks")
    assert message.frame == 7
    assert message.tracks is not None
    assert message.tracks.rows.tobytes() == update.tracks.rows.tobytes()
    assert 0 <= message.age_s < 5


def test_detections_stage_and_events_arrive(publisher: Publisher) -> None:
    update = make_update(3, n=4)
    with subscriber(publisher, "detections", "stage", "event") as reader:
        publisher.write(update)
        publisher.tell(Event("track.birth", 0.5, 3, {"track_id": 1}))
        detections = receive(reader, "detections").detections
        stage_um = receive(reader, "stage").stage_um
        event = receive(reader, "event").event
    assert detections is not None
    assert detections.rows.tobytes() == update.detections.rows.tobytes()
    assert repr(stage_um) == repr(update.frame.stage_um)  # NaN is not equal to NaN
    assert event == Event("track.birth", 0.5, 3, {"track_id": 1})


def test_late_joiner_gets_run_and_status(publisher: Publisher) -> None:
    with subscriber(publisher, "run", "status") as first:
        receive(first, "status")
    with Subscriber(publisher.endpoints["stream"], ("run", "status")) as late:
        run = receive(late, "run")
        assert run.header["settings"] == {"name": "test"}
        assert receive(late, "status").header["counts"]["received"] == 0


def test_end_ends_the_iteration(publisher: Publisher) -> None:
    with subscriber(publisher, "tracks") as reader:
        publisher.write(make_update(0))
        publisher.close()
        topics = [message.topic for message in reader]
    assert topics[-1] == "end"


def test_port_in_use_is_an_error_at_construction(publisher: Publisher) -> None:
    with pytest.raises(StreamError, match="another program"):
        Publisher(publisher.endpoints["stream"], None)


def test_address_open_to_others_is_refused_without_keys() -> None:
    with pytest.raises(StreamError, match="refused without keys"):
        Publisher("tcp://0.0.0.0:0", None)


def test_second_run_counts_from_zero_again(publisher: Publisher) -> None:
    with subscriber(publisher, "tracks") as reader:
        publisher.write(make_update(0))
        assert receive(reader, "tracks").seq == 0
        publisher.open(RunInfo("second", RUN.started))
        publisher.write(make_update(0))
        second = receive(reader, "tracks")
    assert (second.header["run"], second.seq, second.missed) == ("second", 0, 0)


def test_latest_reports_the_followed_track(publisher: Publisher) -> None:
    update = make_update(9, n=3)
    with Subscriber(
        publisher.endpoints["stream"], latest=publisher.endpoints["latest"]
    ) as reader:
        for _ in range(200):
            publisher.write(update)
            if (message := reader.latest(timeout_s=0.05)) is not None:
                break
    assert message is not None
    assert message["target"] is None
    assert message["stage_um"] == {"z": None, "y": 20.0, "x": 30.0}


def test_raw_message_has_three_parts(publisher: Publisher) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.connect(publisher.endpoints["stream"])
        socket.subscribe("status")
        assert socket.poll(5000)
        assert len(socket.recv_multipart()) == 3


def test_who_joins_after_frames_that_nobody_wanted_gets_the_next(
    publisher: Publisher,
) -> None:
    for index in range(5):
        publisher.write(make_update(index))
    assert "update" not in {kind for kind, *_ in publisher._outbox}  # nobody was woken
    assert publisher.status()["frame"] == 4  # but the heartbeat knows of them
    with subscriber(publisher, "tracks") as reader:
        publisher.write(make_update(5))
        message = receive(reader, "tracks")
    assert (message.frame, message.seq) == (5, 5)


def test_latest_alone_is_enough_to_be_told_of_every_frame(publisher: Publisher) -> None:
    context = zmq.Context()
    reader = context.socket(zmq.SUB)
    reader.subscribe(b"")
    reader.connect(publisher.endpoints["latest"])
    try:
        for index in range(2000):
            publisher.write(make_update(index))
            if reader.poll(5):
                break
        assert from_json(reader.recv())["frame"] <= index
    finally:
        reader.close(linger=0)
        context.term()
    wait_for(lambda: not publisher._listeners.any)  # type: ignore[union-attr]
