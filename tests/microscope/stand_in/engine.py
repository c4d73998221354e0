"""AcqEngJ and pycro-manager's Java part: events in, images out, as they were seen.

One engine thread; a bounded queue of 30 images before the processor; no back pressure
beyond it, since ZeroMQ's own queues hold a thousand; an exception aborts the whole
acquisition and waits in `checkForExceptions`; in a sequence the engine waits for ever
for images that do not come.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket as socket_module
import threading
import time
from datetime import datetime
from typing import Any

import numpy as np
import zmq

from tests.microscope.stand_in.bridge import (
    JavaError,
    JavaObject,
    method,
    number,
    receive,
    send,
)
from tests.microscope.stand_in.core import Core, tagged

_HOOKS = (
    "EVENT_GENERATION_HOOK",
    "BEFORE_HARDWARE_HOOK",
    "BEFORE_Z_HOOK",
    "AFTER_HARDWARE_HOOK",
    "AFTER_CAMERA_HOOK",
    "AFTER_EXPOSURE_HOOK",
)
_ACQ = "org.micromanager.remote.RemoteAcquisition"
_PROCESSOR = "org.micromanager.acqj.api.TaggedImageProcessor"
_HOOK = "org.micromanager.acqj.api.AcquisitionHook"
_END = None


class Pipe:
    """A push and a pull socket of the Java side; Python binds what Java pulls from."""

    def __init__(self, context: zmq.Context) -> None:
        self.push = context.socket(zmq.PUSH)
        self.push.linger = 0
        self.push.bind("tcp://127.0.0.1:0")
        self.push_port = _port(self.push)
        self.pull_port = _free_port()  # which Python will bind
        self.pull = context.socket(zmq.PULL)
        self.pull.linger = 0
        self.pull.connect(f"tcp://127.0.0.1:{self.pull_port}")

    def close(self) -> None:
        self.push.close()
        self.pull.close()


def _key(axes: dict[str, Any]) -> str:
    return json.dumps(axes, sort_keys=True)


def _free_port() -> int:
    with socket_module.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port(socket: zmq.Socket) -> int:
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])


class Processor:
    """RemoteImageProcessor."""

    def __init__(self, context: zmq.Context) -> None:
        self.pipe = Pipe(context)

    def as_java(self) -> JavaObject:
        return JavaObject(
            "org.micromanager.remote.RemoteImageProcessor",
            [
                method("startPull", lambda: None),
                method("startPush", lambda: None),
                method("getPullPort", lambda: self.pipe.pull_port, returns="int"),
                method("getPushPort", lambda: self.pipe.push_port, returns="int"),
            ],
            interfaces=(_PROCESSOR,),
            target=self,
        )


class Hook:
    """RemoteAcqHook: an event out, an event back, before the hardware moves."""

    def __init__(self, context: zmq.Context, acquisition: Any) -> None:
        self.pipe = Pipe(context)

    def run(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        message = events[0] if len(events) == 1 else {"events": events}
        send(self.pipe.push, message)
        reply, _ = receive(self.pipe.pull)
        return reply.get("events", [reply])

    def end(self) -> None:
        send(self.pipe.push, {"special": "acquisition-end"})
        receive(self.pipe.pull)
        self.pipe.close()

    def as_java(self) -> JavaObject:
        return JavaObject(
            "org.micromanager.remote.RemoteAcqHook",
            [
                method("getPullPort", lambda: self.pipe.pull_port, returns="int"),
                method("getPushPort", lambda: self.pipe.push_port, returns="int"),
            ],
            interfaces=(_HOOK,),
            target=self,
        )


class Notifications:
    """RemoteNotificationHandler."""

    def __init__(self, context: zmq.Context, acquisition: Any) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.linger = 500
        self._socket.bind("tcp://127.0.0.1:0")
        self._lock = threading.Lock()
        acquisition.target.notifications = self

    def post(self, kind: str, milestone: str, payload: str | None = None) -> None:
        message = {"type": kind, "milestone": milestone}
        if payload is not None:
            message["payload"] = payload
        with self._lock:
            send(self._socket, message)

    def as_java(self) -> JavaObject:
        return JavaObject(
            "org.micromanager.remote.RemoteNotificationHandler",
            [
                method("getPort", lambda: _port(self._socket), returns="int"),
                method("start", lambda: None),
                method("notificationHandlingComplete", self._socket.close),
            ],
            target=self,
        )


class Acquisition:
    """RemoteAcquisition with its engine."""

    def __init__(self, context: zmq.Context, core: Core, gui: Any) -> None:
        self.core, self.gui = core, gui
        self.events_finished, self.aborted = threading.Event(), threading.Event()
        self.saved = threading.Event()
        self.error: Exception | None = None
        self.processor: Processor | None = None
        self.hooks: list[tuple[int, Hook]] = []
        self.notifications: Notifications | None = None
        self.images: queue.Queue[Any] = queue.Queue(30)
        self.stored: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        self.start_s: float | None = None
        self._events = context.socket(zmq.PULL)
        self.event_port = _free_port()
        self._events.connect(f"tcp://127.0.0.1:{self.event_port}")
        self._threads = [
            threading.Thread(target=f, daemon=True) for f in (self._run, self._hand_out)
        ]
        for thread in self._threads:
            thread.start()

    # --- the engine -----------------------------------------------------------

    def _run(self) -> None:
        while not self.aborted.is_set():
            if not self._events.poll(20):
                continue
            events = receive(self._events)[0]["events"]
            if events[0].get("special") == "acquisition-end":
                break
            try:
                self._execute(events)
            except Exception as error:
                self.error = error
                self.aborted.set()
        for _, hook in self.hooks:
            hook.end()
        self.events_finished.set()
        self._post("global", "acq_events_finished")
        self.images.put(_END)

    def _execute(self, events: list[dict[str, Any]]) -> None:
        for part in _sequences(events):
            for kind, hook in self.hooks:
                if kind == 1:
                    part = hook.run(part)
            self._set_hardware(part[0])
            if self.aborted.is_set():
                return
            (self._sequence if len(part) > 1 else self._snap)(part)

    def _set_hardware(self, event: dict[str, Any]) -> None:
        mmc = self.core.mmc
        if "config_group" in event:
            mmc.setConfig(*event["config_group"])
            mmc.waitForConfig(*event["config_group"])
        if "x" in event and "y" in event:
            mmc.setXYPosition(float(event["x"]), float(event["y"]))
            mmc.waitForDevice(mmc.getXYStageDevice())
        if "z" in event:
            mmc.setPosition(float(event["z"]))
            mmc.waitForDevice(mmc.getFocusDevice())
        for device, value in event.get("stage_positions", []):
            mmc.setPosition(device, float(value))
            mmc.waitForDevice(device)
        if "exposure" in event:
            mmc.setExposure(float(event["exposure"]))

    def _snap(self, events: list[dict[str, Any]]) -> None:
        if not self.core.mmc.getCameraDevice():
            raise JavaError("Camera not loaded or initialized.")
        self.core.mmc.snapImage()
        elapsed_ms = self._elapsed_ms()
        if self.gui.loses_the_next_image:  # seen after a change of ROI: waits for ever
            self.gui.loses_the_next_image = False
            self.aborted.wait()
            return
        pixels, tags = self.core.snapped()
        self._emit(pixels, tags | {"ElapsedTime-ms": round(elapsed_ms)}, events[0])

    def _sequence(self, events: list[dict[str, Any]]) -> None:
        mmc = self.core.mmc
        is_ours = not mmc.isSequenceRunning()
        if is_ours:
            mmc.startSequenceAcquisition(len(events), 0, True)
        elapsed_ms = self._elapsed_ms()
        for event in events:
            while True:  # for ever, if Live takes the images
                if self.aborted.is_set():
                    mmc.stopSequenceAcquisition()
                    return
                if is_ours:
                    with contextlib.suppress(JavaError):
                        pixels, tags = self.core.pop()
                        break
                time.sleep(0.0005)
            tags |= {"ElapsedTime-ms": round(elapsed_ms)}
            self._emit(pixels, tags, event)

    def _elapsed_ms(self) -> float:
        now_s = time.time()
        self.start_s = now_s if self.start_s is None else self.start_s
        return (now_s - self.start_s) * 1e3

    def _emit(self, pixels: Any, tags: dict[str, Any], event: dict[str, Any]) -> None:
        tags |= {
            "Axes": event["axes"],
            "Exposure": number(event.get("exposure", self.core.mmc.getExposure())),
            "Time": f"{datetime.now():%Y-%m-%d %H:%M:%S} +0000",
        }
        if "config_group" in event:
            tags["ChannelGroup"], tags["Channel"] = event["config_group"]
        for axis in "xyz":
            if axis in event:
                name = f"{axis.upper()}Position_um_Intended"
                tags[name] = number(float(event[axis]))
        self.images.put((np.array(pixels), tags))

    # --- images ---------------------------------------------------------------

    def _hand_out(self) -> None:
        returning = None
        while (image := self.images.get()) is not _END:
            if self.processor is None:
                self._store(*image)
                continue
            if returning is None:
                returning = threading.Thread(target=self._take_back, daemon=True)
                returning.start()
            pixels, tags = image
            kind = "byte-array" if pixels.dtype != np.uint16 else "short-array"
            value = np.ascontiguousarray(pixels).reshape(-1)
            if value.dtype == np.uint32:  # RGB32 goes as bytes
                value = value.view(np.uint8)
            send(
                self.processor.pipe.push,
                {"metadata": tags, "pixels": {"type": kind, "value": value}},
            )
        if self.processor is not None:
            if returning is None:
                returning = threading.Thread(target=self._take_back, daemon=True)
                returning.start()
            send(self.processor.pipe.push, {"special": "finished"})
            returning.join()
            self.processor.pipe.close()
        self.saved.set()
        self._post("image", "data_sink_finished")

    def _take_back(self) -> None:
        while True:
            message, arrays = receive(self.processor.pipe.pull)
            if message.get("special") == "finished":
                return
            tags = message["metadata"]
            kind = np.uint8 if tags["PixelType"] == "GRAY8" else np.uint16
            shape = tags["Height"], tags["Width"]
            self._store(np.frombuffer(arrays[0], kind).reshape(shape), tags)

    def _store(self, pixels: np.ndarray, tags: dict[str, Any]) -> None:
        axes = _key(tags["Axes"])
        self.stored[axes] = pixels, tags
        self._post("image", "image_saved", axes)

    def _post(self, *parts: str) -> None:
        if self.notifications is not None:
            self.notifications.post(*parts)

    # --- what the other side sees ---------------------------------------------

    def abort(self, *_: Any) -> None:
        self.aborted.set()

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def as_java(self) -> JavaObject:
        storage = JavaObject(
            "org.micromanager.remote.RAMStorage",
            [
                method("getDiskLocation", lambda: None, returns="java.lang.String"),
                method(
                    "getSummaryMetadata", dict, returns="mmcorej.org.json.JSONObject"
                ),
                method("isFinished", self.saved.is_set, returns="boolean"),
                method(
                    "getImage",
                    lambda m: tagged(
                        *self.stored[json.dumps(m.target, sort_keys=True)]
                    ),
                    "java.util.HashMap",
                    returns="mmcorej.TaggedImage",
                ),
            ],
        )
        sink = JavaObject(
            "org.micromanager.remote.RemoteStorageAdapter",
            [
                method("getStorage", lambda: storage, returns="java.lang.Object"),
                method("isFinished", self.saved.is_set, returns="boolean"),
            ],
        )
        return JavaObject(
            _ACQ,
            [
                method("getEventPort", lambda: self.event_port, returns="int"),
                method("getDataSink", lambda: sink, returns="java.lang.Object"),
                method(
                    "addImageProcessor",
                    lambda p: setattr(self, "processor", p.target),
                    _PROCESSOR,
                ),
                method(
                    "addHook",
                    lambda h, kind: self.hooks.append((kind, h.target)),
                    _HOOK,
                    "int",
                ),
                method("abort", self.abort),
                method("isAbortRequested", self.aborted.is_set, returns="boolean"),
                method("isFinished", self.events_finished.is_set, returns="boolean"),
                method(
                    "areEventsFinished", self.events_finished.is_set, returns="boolean"
                ),
                method(
                    "blockUntilEventsFinished",
                    lambda s: self.events_finished.wait(s) and None,
                    "double",
                ),
                method("waitForCompletion", lambda: self.saved.wait() and None),
                method("checkForExceptions", self.check),
            ],
            {name: lambda k=k: k for k, name in enumerate(_HOOKS)},
            target=self,
        )


def _sequences(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Merge neighbours that differ in nothing that devices must be set to."""
    merged: list[list[dict[str, Any]]] = []
    keys = ("x", "y", "z", "config_group", "exposure", "stage_positions")
    for event in events:
        before = merged[-1][-1] if merged else None
        if before and all(before.get(k) == event.get(k) for k in keys):
            merged[-1].append(event)
        else:
            merged.append([event])
    return merged
