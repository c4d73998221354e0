"""Commands from other programs: JSON requests on a ROUTER socket, each answered.

A request is ``{"v": 1, "id": 7, "token": "...", "verb": "follow", "args": {"track_id":
3}}``; its reply ``{"v": 1, "id": 7, "ok": true, "result": {...}}`` or ``{..., "ok":
false, "error": "..."}``. What a verb does is the run's business: handlers are given in.
A request that arrives a second time, because its reply was lost, is not done again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import zmq

from lodestar_live.commands import VERBS, Handler, parse
from lodestar_live.errors import LodestarError, StreamError, shown
from lodestar_live.streams.keys import ClientKeys, KnownClients
from lodestar_live.streams.messages import VERSION, from_json, to_json
from lodestar_live.streams.tokens import Token, find_token

_log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 16_384  # longer ones are refused by a reply ...
MAX_FRAME_BYTES = 65_536  # ... and beyond this the connection is cut by libzmq
_REQUESTS_PER_S = 50.0
_BURST = 50.0
_LAST_REPLY_MS = 200  # how long the end waits for the last reply to leave
_MAX_ID_LENGTH = 64
_REMEMBERED = 256  # requests whose replies are kept, for clients that ask again ...
_REMEMBERED_S = 30.0  # ... within so long
_PATIENCE = 256  # requests in one go that are all read; then those with the token
_FLOOD = 20_000  # requests in one go after which the socket is opened anew
_BREATH_EVERY, _BREATH_S = 64, 0.0005  # the tracker wants the interpreter as well
_MOST_WAITING = 64
_POLL_MS, _BUSY_POLL_MS = 100, 5


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that was read and admitted, not carried out yet."""

    request: Mapping[str, Any]
    body: bytes = b""
    client: bytes = b""
    problem: str = ""  # why it is refused; empty: it may be carried out

    @property
    def is_stop(self) -> bool:
        """True for `stop`, which waits for nothing."""
        return not self.problem and self.request.get("verb") == "stop"


class Commands:
    """Turn the bytes of a request into the bytes of its reply.

    Parameters
    ----------
    handlers
        One per verb that this run understands.
    clock
        Monotonic seconds, for the rate limit.
    token
        What every request but `stop` must give; None: its connection is proof enough.

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
        token: Token | None = None,
    ) -> None:
        unknown = sorted(set(handlers) - set(VERBS))
        if unknown:
            raise StreamError(f"commands {unknown}: unknown; verbs are {list(VERBS)}.")
        self._handlers, self._clock = dict(handlers), clock
        self.token = token
        self._allowance, self._refilled_s = _BURST, clock()
        self._done = _Done(clock)

    @property
    def verbs(self) -> tuple[str, ...]:
        """What this run understands."""
        return tuple(verb for verb in VERBS if verb in {*self._handlers, "ping"})

    def answer(self, body: bytes, client: bytes = b"") -> bytes:
        """Return the reply to one request, whatever its bytes are.

        Parameters
        ----------
        client
            The connection it came by: a number as `id` is only unique within one.
        """
        return self.carry_out(self.read(body, client))

    def read(self, body: bytes, client: bytes = b"") -> Ask:
        """Read a request: who asks, how often, for what; nothing is done yet."""
        request: dict[str, Any] = {}
        try:
            if len(body) > MAX_REQUEST_BYTES:
                raise StreamError(
                    f"request of {len(body)} bytes: at most {MAX_REQUEST_BYTES}."
                )
            request = from_json(body)
            if request.get("verb") != "stop":  # stop passes however it is dressed
                self._require_token(request)
                self._admit()
        except LodestarError as error:
            return Ask(request, problem=str(error))
        except Exception as error:  # whatever a peer thought of; it is answered
            _log.exception("request not read")
            return Ask(request, problem=f"request: {type(error).__name__}.")
        return Ask(request, body, client)

    def carry_out(self, ask: Ask) -> bytes:
        """Do what was asked, unless it was done already, and return the reply."""
        problem = ask.problem or self._attempt(ask)
        if isinstance(problem, bytes):
            return problem
        failure = {"ok": False, "error": problem[:2000]}
        return to_json({"v": VERSION, "id": _id(ask.request), **failure})

    def _attempt(self, ask: Ask) -> bytes | str:
        """Return the reply, or why there is none."""
        request, body, client = ask.request, ask.body, ask.client
        try:
            if (known := self._done.reply_to(request, body, client)) is not None:
                return known
            result = self._execute(request)
            told = {"v": VERSION, "id": _id(request), "ok": True, "result": result}
            reply = to_json(told)
        except LodestarError as error:
            return str(error)
        except Exception as error:
            verb = str(request.get("verb"))[:_MAX_ID_LENGTH]
            _log.exception("command %s failed", verb)
            return f"{verb}: failed with {type(error).__name__}."
        self._done.note(request, body, client, reply)
        return reply

    def _require_token(self, request: Mapping[str, Any]) -> None:
        if self.token is not None and not self.token.is_given_by(request.get("token")):
            what = "wrong" if "token" in request else "missing"
            raise StreamError(
                f"token: {what}; expected `token` to be the text in {self.token.path}, "
                "made for this run. lodestar_live.streams.request finds it by itself."
            )

    def _admit(self) -> None:
        if not self._may_pass():
            raise StreamError(f"too many requests; at most {_REQUESTS_PER_S:.0f}/s.")

    def _execute(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        verb = request.get("verb")
        if verb == "stop":  # always allowed, however it is dressed
            return self._call("stop", {})
        unknown = sorted(set(request) - {"v", "id", "token", "verb", "args"})
        if unknown or request.get("v") != VERSION:
            raise StreamError(
                f"request with v = {shown(request.get('v'))}"
                + (f" and unknown keys {shown(unknown)}" if unknown else "")
                + f"; expected v = {VERSION} and id, token, verb, args."
            )
        if request.get("id") is not None and _id(request) is None:
            raise StreamError("id: expected an integer or a string of 64 letters.")
        args = parse(str(verb), request.get("args", {}))
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
        self._allowance, self._refilled_s = min(_BURST, self._allowance + gained), now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


class _Done:
    """The replies given lately: a request repeated is answered, not done again.

    A text as id stands for its request whatever connection it comes by; a number
    within its connection only. The same id with another content is a new request.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # `stop` is carried out on another thread
        self._kept: OrderedDict[Any, tuple[bytes, bytes, float]] = OrderedDict()

    def reply_to(
        self, request: Mapping[str, Any], body: bytes, client: bytes
    ) -> bytes | None:
        """Return the reply given before; None: this is a new request."""
        if _is_repeatable(request):
            return None
        with self._lock:
            known = self._kept.get(_key(request, client), (b"", b"", 0.0))
        asked, reply, at_s = known
        is_known = asked == body and self._clock() - at_s <= _REMEMBERED_S
        return reply if is_known else None

    def note(
        self, request: Mapping[str, Any], body: bytes, client: bytes, reply: bytes
    ) -> None:
        """Remember the reply to a request that was carried out."""
        key = _key(request, client)
        if key is None or _is_repeatable(request):
            return
        with self._lock:
            self._kept[key] = (body, reply, self._clock())
            self._kept.move_to_end(key)
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)


@dataclass(slots=True)
class _Worker:
    """Carries out what may take long, one after another, on a thread of its own."""

    commands: Commands
    replies: deque[tuple[list[bytes], bytes]] = field(default_factory=deque)
    _queue: queue.SimpleQueue[tuple[list[bytes], Ask, int] | None] = field(
        default_factory=queue.SimpleQueue
    )
    _n_put: int = 0  # counted by the thread that reads ...
    _n_done: int = 0  # ... and by the one that works
    _n_stops: int = 0

    @property
    def is_busy(self) -> bool:
        """True while a request waits or is being carried out."""
        return self._n_put > self._n_done

    @property
    def is_full(self) -> bool:
        """True when no more requests may wait."""
        return self._n_put - self._n_done >= _MOST_WAITING

    def put(self, envelope: list[bytes], ask: Ask) -> None:
        """Queue a request."""
        self._n_put += 1
        self._queue.put((envelope, ask, self._n_stops))

    def stop_came(self) -> None:
        """Refuse what waits: it was asked before the stop."""
        self._n_stops += 1

    def end(self) -> None:
        """End the thread once the queue is empty."""
        self._queue.put(None)

    def run(self) -> None:
        """Work until `end`."""
        while (item := self._queue.get()) is not None:
            envelope, ask, n_stops = item
            if n_stops != self._n_stops:
                ask = Ask(ask.request, problem="refused: a stop came after it.")
            self.replies.append((envelope, self.commands.carry_out(ask)))
            self._n_done += 1


class CommandServer:
    """Answer requests: one thread reads and replies, another carries them out.

    So a `stop` is carried out at once, whatever another command is waiting for, and
    what arrives is always read (see `sockets`).

    Parameters
    ----------
    socket
        A bound ROUTER socket; the thread owns it from here on.
    commands
        What answers.
    reopen
        Closes the socket and returns a new one on the same address.
    clients
        Whose requests count; None: those of all who are connected.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        commands: Commands,
        *,
        reopen: Callable[[zmq.Socket[bytes]], zmq.Socket[bytes]],
        clients: KnownClients | None = None,
    ) -> None:
        self._socket, self._commands = socket, commands
        self._reopen, self._clients = reopen, clients
        self._stopping = threading.Event()
        self._worker = _Worker(commands)
        worker = threading.Thread(
            target=self._worker.run, name="lodestar-commands", daemon=True
        )
        worker.start()
        self._thread = threading.Thread(
            target=self._serve, name="lodestar-requests", daemon=True
        )
        self._thread.start()

    def stop(self) -> threading.Thread:
        """Take no more requests; return the thread, which closes its socket last."""
        self._stopping.set()
        return self._thread

    def _serve(self) -> None:
        while not self._stopping.is_set():
            wait_ms = _BUSY_POLL_MS if self._worker.is_busy else _POLL_MS
            try:
                if self._socket.poll(wait_ms):
                    self._drain()
            except Exception:  # the next round may do better; the run goes on
                _log.exception("control socket")
            self._send_replies()
        self._worker.end()
        while self._worker.is_busy:  # libzmq crashes when closed under a user
            time.sleep(_BUSY_POLL_MS / 1e3)
        self._send_replies()
        self._socket.close(linger=_LAST_REPLY_MS)

    def _drain(self) -> None:
        """Read until nothing is left; a flood that does not end is cut off."""
        for n in range(_FLOOD):
            try:
                parts = self._receive()
            except zmq.Again:
                return
            if n < _PATIENCE or self._is_worth_it(parts[-1]):
                self._take(parts)
            if n % _BREATH_EVERY == _BREATH_EVERY - 1:
                self._send_replies()
                time.sleep(_BREATH_S)
        _log.warning("control socket: flooded with requests; connections are cut")
        self._socket = self._reopen(self._socket)

    def _is_worth_it(self, body: bytes) -> bool:
        """Tell whether a request in a flood is read: a stop, or one of our user's."""
        token = self._commands.token
        return b"stop" in body or (token is not None and token.text.encode() in body)

    def _receive(self) -> list[bytes]:
        """Return the parts of a request; none of a client whose key was withdrawn."""
        if self._clients is None:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        client = str(frames[-1].get("User-Id")).encode()
        is_known = client in self._clients.keys()
        return [frame.bytes for frame in frames] if is_known else [b""]

    def _take(self, parts: list[bytes]) -> None:
        if len(parts) < 2:
            return
        envelope, bodies = parts[:1], parts[1:]
        if len(bodies) > 1 and not bodies[0]:  # what a REQ socket puts in between
            envelope, bodies = parts[:2], parts[2:]
        if len(bodies) != 1:
            problem = f"request of {len(bodies)} frames; expected exactly one."
            self._reply(envelope, self._commands.carry_out(Ask({}, problem=problem)))
            return
        ask = self._commands.read(bodies[0], parts[0])
        if ask.is_stop:
            self._worker.stop_came()
        elif self._worker.is_full:
            problem = f"{_MOST_WAITING} requests wait for one that does not end."
            ask = Ask(ask.request, problem=problem)
        if ask.is_stop or ask.problem:
            self._reply(envelope, self._commands.carry_out(ask))
        else:
            self._worker.put(envelope, ask)

    def _send_replies(self) -> None:
        while self._worker.replies:
            self._reply(*self._worker.replies.popleft())

    def _reply(self, envelope: list[bytes], reply: bytes) -> None:
        try:
            self._socket.send_multipart([*envelope, reply], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # the client is gone or does not read
            _log.debug("command reply not sent: %s", error)


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
    token: str | None = None,
) -> dict[str, Any]:
    """Send one command to a running tracker and return the result.

    Parameters
    ----------
    endpoint, verb, args
        Address of `control`, and the command; see `lodestar_live.commands`.
    keys
        Needed when the run is secured by keys.
    token
        The run's token; None: the one in the file for this address, where the run put
        it for this user.

    Raises
    ------
    StreamError
        No answer in time, or the command was refused.
    """
    wish = {"v": VERSION, "id": uuid.uuid4().hex, "verb": verb, "args": args or {}}
    if keys is None and (token := token or find_token(endpoint)) is not None:
        wish["token"] = token
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        if keys is not None:
            keys.secure(socket)
        socket.connect(endpoint)
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
