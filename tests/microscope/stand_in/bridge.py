"""The bridge's server: objects by hash code, methods by reflection, one reply each."""

from __future__ import annotations

import itertools
import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

VERSION = "5.1.0"
_ARRAYS = {np.dtype("u1"): "byte-array", np.dtype("u2"): "short-array",
           np.dtype("u4"): "int-array", np.dtype("f4"): "float-array"}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One Java signature and what it does here."""

    name: str
    arguments: tuple[str, ...]
    returns: str
    call: Callable[..., Any]

    def spec(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "arguments": list(self.arguments),
            "return-type": self.returns,
        }


def method(name: str, call: Callable[..., Any], *arguments: str, returns="void"):
    return Method(name, arguments, returns, call)


@dataclass
class JavaObject:
    """Anything the other side holds by its hash code."""

    class_name: str
    methods: list[Method]
    fields: dict[str, Any] = field(default_factory=dict)
    interfaces: tuple[str, ...] = ()
    target: Any = None  # the Python object behind it


class JavaError(Exception):
    """An exception with a Java class name and stack, as the bridge sends them."""


def number(value: float) -> float | int:
    """Write a double as Java's JSON does: without a fraction it is a whole number."""
    return int(value) if float(value).is_integer() else float(value)


class Registry:
    """All objects that clients hold, and which classes they may construct."""

    def __init__(self) -> None:
        self._objects: dict[str, JavaObject] = {}
        self._codes = itertools.count(1000)
        self._lock = threading.Lock()
        self.constructors: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {}

    def add(self, obj: JavaObject) -> str:
        with self._lock:
            code = str(next(self._codes))
            self._objects[code] = obj
            return code

    def get(self, code: str) -> JavaObject:
        return self._objects[code]

    def remove(self, code: str) -> None:
        with self._lock:
            self._objects.pop(code, None)

    def __len__(self) -> int:
        return len(self._objects)

    def describe(self, obj: JavaObject) -> dict[str, Any]:
        return {
            "type": "unserialized-object",
            "class": obj.class_name,
            "hash-code": self.add(obj),
            "interfaces": [obj.class_name, *obj.interfaces],
            "fields": list(obj.fields),
            "api": [m.spec() for m in obj.methods],
        }


class Server:
    """One REP socket with its thread; `new-port` makes another like it."""

    def __init__(
        self,
        context: zmq.Context,
        registry: Registry,
        port: int,
        *,
        is_main: bool = False,
    ) -> None:
        self.had_any = False
        self._context, self._registry = context, registry
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(f"tcp://127.0.0.1:{port}")
        endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(endpoint.rsplit(":", 1)[1])
        self.n_calls = 0
        self.own: set[str] = set()  # objects made on this port
        self.is_main = port != 0 or is_main
        self.servers: list[Server] = [self]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            if not self.is_main and self.had_any and not self.own:
                self.servers.remove(self)
                self._socket.close(linger=500)  # the last object of this port is gone
                return
            parts = self._socket.recv_multipart()
            self.n_calls += 1
            try:
                message = json.loads(parts[0].decode("iso-8859-1"))
                reply = self._answer(message)
            except Exception as error:
                stack = "".join(traceback.format_exception(error)[-3:])
                kind = "java.lang.Exception"
                reply = {"type": "exception", "value": f"{kind}: {error}\n{stack}"}
            send(self._socket, reply)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        command = message["command"]
        if command == "connect":
            return {"type": "none", "version": VERSION}
        if command == "get-constructors":
            name = message["classpath"]
            known = self._registry.constructors.get(name)
            api = [] if known is None else [{"name": name, "arguments": list(known[0])}]
            return {"type": "none", "api": api}
        if command == "constructor":
            _, make = self._registry.constructors[message["classpath"]]
            reply = self._describe(make(*self._arguments(message)))
            if message.get("new-port"):
                other = Server(self._context, self._registry, 0)
                other.servers = self.servers
                self.servers.append(other)
                self.own.discard(reply["hash-code"])
                other.own.add(reply["hash-code"])
                other.had_any = True
                reply["port"] = other.port
            return reply
        if command == "destructor":
            self._registry.remove(message["hash-code"])
            for server in self.servers:
                server.own.discard(message["hash-code"])
            return {"type": "none"}
        obj = self._registry.get(message["hash-code"])
        if command == "get-field":
            return self.serialise(obj.fields[message["name"]]())
        if command == "run-method":
            return self.serialise(self._run(obj, message))
        raise JavaError(f"unknown command {command}")

    def _describe(self, obj: JavaObject) -> dict[str, Any]:
        reply = self._registry.describe(obj)
        self.own.add(reply["hash-code"])
        self.had_any = True
        return reply

    def _arguments(self, message: dict[str, Any]) -> list[Any]:
        return [
            self._registry.get(a["hash-code"]) if isinstance(a, dict) else a
            for a in message["arguments"]
        ]

    def _run(self, obj: JavaObject, message: dict[str, Any]) -> Any:
        name, types = message["name"], tuple(message["argument-types"])
        for candidate in obj.methods:
            if candidate.name == name and candidate.arguments == types:
                return candidate.call(*self._arguments(message))
        raise JavaError(f"no method {name}{types} in {obj.class_name}")

    def serialise(self, value: Any) -> dict[str, Any]:
        if value is None:
            return {"type": "null"}
        if isinstance(value, JavaObject):
            return self._describe(value)
        if isinstance(value, str):
            return {"type": "string", "value": value}
        if isinstance(value, dict):
            return {"type": "object", "class": "JSONObject", "value": json.dumps(value)}
        if isinstance(value, np.ndarray):
            return {"type": _ARRAYS[value.dtype], "value": value}
        if isinstance(value, (list, tuple)):
            return {"type": "list", "value": [self.serialise(v) for v in value]}
        return {"type": "primitive", "value": value}


def send(socket: zmq.Socket, message: Any) -> None:
    """Send JSON, and each array as a pair of its key and its bytes."""
    arrays: list[bytes] = []
    keys = itertools.count(1)

    def swap(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            key = next(keys)
            arrays.extend([key.to_bytes(4, "little"), value.tobytes()])
            return f"@{key:x}"
        if isinstance(value, dict):
            return {k: swap(v) for k, v in value.items()}
        if isinstance(value, list):
            return [swap(v) for v in value]
        return value

    text = json.dumps(swap(message))
    socket.send_multipart([text.encode("iso-8859-1"), *arrays])


def receive(socket: zmq.Socket) -> tuple[dict[str, Any], list[bytes]]:
    """Return the JSON of a message and the arrays that came with it."""
    parts = socket.recv_multipart()
    return json.loads(parts[0].decode("iso-8859-1")), parts[2::2]
