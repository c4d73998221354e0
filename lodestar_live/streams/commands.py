"""Commands from other programs: JSON requests on a ROUTER socket, each answered.

A request is ``{"v": 1, "id": 7, "verb": "follow", "args": {"track_id": 3}}``; its
reply ``{"v": 1, "id": 7, "ok": true, "result": {...}}`` or ``{..., "ok": false,
"error": "..."}``. What a verb does is the run's business: handlers are given in. A
request that arrives a second time, because its reply was lost, is not done again.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from lodestar_live.commands import VERBS, Handler, parse
from lodestar_live.errors import LodestarError, StreamError
from lodestar_live.streams.keys import ClientKeys
from lodestar_live.streams.messages import VERSION, from_json, to_json

_log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 16_384  # longer ones are refused by a reply ...
MAX_FRAME_BYTES = 1_048_576  # ... and beyond this the connection is cut by libzmq
_REQUESTS_PER_S = 50.0
_BURST = 50.0
_LAST_REPLY_MS = 200  # how long the end waits for the last reply to leave
_PENALTY_S = 0.005  # pause after a refusal; bounds what a flood can cost
_MAX_ID_LENGTH = 64
_REMEMBERED = 256  # requests whose replies are kept, for clients that ask again ...
_REMEMBERED_S = 30.0  # ... within so long


class Commands:
    """Turn the bytes of a request into the bytes of its reply.

    Parameters
    ----------
    handlers
        One per verb that this run understands.
    clock
        Monotonic seconds, for the rate limit.

    Raises
    ------
    StreamError
        A handler is for a verb that does not exist.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        unknown = sorted(set(handlers) - set(VERBS))
        if unknown:
            raise StreamError(f"commands {unknown}: unknown; verbs are {list(VERBS)}.")
        self._handlers, self._clock = dict(handlers), clock
        self._tokens, self._refilled_s = _BURST, clock()
        self._done = _Done(clock)

    @property
    def verbs(self) -> tuple[str, ...]:
        """What this run understands."""
        return tuple(verb for verb in VERBS if verb in {*self._handlers, "ping"})

    @property
    def is_exhausted(self) -> bool:
        """True when the next request will be refused for coming too soon."""
        return self._tokens < 1.0

    def answer(self, body: bytes, client: bytes = b"") -> bytes:
        """Return the reply to one request, whatever its bytes are.

        Parameters
        ----------
        client
            The connection it came by: a number as `id` is only unique within one.
        """
        request: dict[str, Any] = {}
        try:
            if len(body) > MAX_REQUEST_BYTES:
                raise StreamError(
                    f"request of {len(body)} bytes: at most {MAX_REQUEST_BYTES}."
                )
            request = from_json(body)
            self._admit(request)
            if (reply := self._done.reply_to(request, body, client)) is not None:
                return reply
            result = self._execute(request)
            reply = to_json(
                {"v": VERSION, "id": _id(request), "ok": True, "result": result}
            )
            self._done.note(request, body, client, reply)
            return reply
        except LodestarError as error:
            problem = str(error)
        except Exception as error:
            _log.exception("command %r failed", request.get("verb"))
            problem = f"{request.get('verb')}: failed with {type(error).__name__}."
        failure = {"ok": False, "error": problem[:2000]}
        return to_json({"v": VERSION, "id": _id(request), **failure})

    def _admit(self, request: Mapping[str, Any]) -> None:
        if request.get("verb") != "stop" and not self._may_pass():
            raise StreamError(f"too many requests; at most {_REQUESTS_PER_S:.0f}/s.")

    def _execute(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        verb = request.get("verb")
        if verb == "stop":  # always allowed, however it is dressed
            return self._call("stop", {})
        unknown = sorted(set(request) - {"v", "id", "verb", "args"})
        if unknown or request.get("v") != VERSION:
            raise StreamError(
                f"request with v = {request.get('v')!r}"
                + (f" and unknown keys {unknown}" if unknown else "")
                + f"; expected v = {VERSION} and id, verb, args."
            )
        args = parse(str(verb), request.get("args", {}))
        if request.get("id") is not None and _id(request) is None:
            raise StreamError("id: expected an integer or a string of 64 letters.")
        return self._call(str(verb), args.model_dump(exclude_none=True))

    def _call(self, verb: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
        if verb == "ping" and verb not in self._handlers:
            return {"pong": True}
        if verb not in self._handlers:
            raise StreamError(f"{verb}: not available in this run.")
        return self._handlers[verb](args) or {}

    def _may_pass(self) -> bool:
        now = self._clock()
        gained = (now - self._refilled_s) * _REQUESTS_PER_S
        self._tokens, self._refilled_s = min(_BURST, self._tokens + gained), now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class _Done:
    """The replies given lately: a request repeated is answered, not done again.

    A text as id stands for its request whatever connection it comes by; a number
    within its connection only. The same id with another content is a new request.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[Any, tuple[bytes, bytes, float]] = OrderedDict()

    def reply_to(
        self, request: Mapping[str, Any], body: bytes, client: bytes
    ) -> bytes | None:
        """Return the reply given before; None: this is a new request."""
        if _is_repeatable(request):
            return None
        asked, reply, at_s = self._kept.get(_key(request, client), (b"", b"", 0.0))
        is_known = asked == body and self._clock() - at_s <= _REMEMBERED_S
        return reply if is_known else None

    def note(
        self, request: Mapping[str, Any], body: bytes, client: bytes, reply: bytes
    ) -> None:
        """Remember the reply to a request that was carried out."""
        key = _key(request, client)
        if key is None or _is_repeatable(request):
            return
        self._kept[key] = (body, reply, self._clock())
        self._kept.move_to_end(key)
        while len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)


class CommandServer:
    """Answer requests on a thread of its own.

    Parameters
    ----------
    socket
        A bound ROUTER socket; the thread owns it from here on.
    commands
        What answers.
    """

    def __init__(self, socket: zmq.Socket[bytes], commands: Commands) -> None:
        self._socket, self._commands = socket, commands
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, name="lodestar-commands", daemon=True
        )
        self._thread.start()

    def stop(self) -> threading.Thread:
        """Take no more requests; return the thread, which closes its socket last."""
        self._stopping.set()
        return self._thread

    def _serve(self) -> None:
        while not self._stopping.is_set():
            if not self._socket.poll(100):
                continue
            try:
                *envelope, body = self._socket.recv_multipart(zmq.NOBLOCK)
                client = envelope[0] if envelope else b""
                reply = self._commands.answer(body, client)
                self._socket.send_multipart([*envelope[:2], reply], zmq.NOBLOCK)
            except zmq.ZMQError as error:  # the client is gone or does not read
                _log.debug("command reply not sent: %s", error)
            if self._commands.is_exhausted:
                self._stopping.wait(_PENALTY_S)
        self._socket.close(linger=_LAST_REPLY_MS)


def _is_repeatable(request: Mapping[str, Any]) -> bool:
    verb = request.get("verb")
    return isinstance(verb, str) and verb in VERBS and VERBS[verb].is_repeatable


def _id(request: Mapping[str, Any]) -> int | str | None:
    value = request.get("id")
    if isinstance(value, str) and len(value) <= _MAX_ID_LENGTH:
        return value
    if type(value) is int and abs(value) < 2**53:
        return value
    return None


def _key(request: Mapping[str, Any], client: bytes) -> Any:
    name = _id(request)
    return (client, name) if isinstance(name, int) else name


def request(
    endpoint: str,
    verb: str,
    args: Mapping[str, Any] | None = None,
    *,
    timeout_s: float = 2.0,
    keys: ClientKeys | None = None,
) -> dict[str, Any]:
    """Send one command to a running tracker and return the result.

    Raises
    ------
    StreamError
        No answer in time, or the command was refused.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        if keys is not None:
            keys.secure(socket)
        socket.connect(endpoint)
        wish = {"v": VERSION, "id": uuid.uuid4().hex, "verb": verb, "args": args or {}}
        socket.send(to_json(wish))
        if not socket.poll(int(timeout_s * 1e3)):
            raise StreamError(
                f"{endpoint}: no answer to {verb!r} within {timeout_s:g} s. Is the run "
                "going, and streams.control set?"
            )
        reply = from_json(socket.recv())
    if not reply.get("ok"):
        raise StreamError(str(reply.get("error", "refused")))
    return dict(reply.get("result") or {})
