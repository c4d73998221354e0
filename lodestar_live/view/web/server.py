"""The page's web server: this machine only, assets from the package.

A page asks ("next") and is answered with the newest state, one answer in flight, so a
slow browser sees fewer updates, never old ones, and nothing queues up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from lodestar_live.errors import InputError, LodestarError, StreamError
from lodestar_live.streams.messages import from_json, to_json
from lodestar_live.view.web.bundle import Part, pack

_log = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parent / "page"
_HOST = "127.0.0.1"
_MAX_REQUEST_BYTES = 16_384
_MAX_NAME = 64
_CLOSE_WITHIN_S = 15.0  # a second, unless the machine is very busy
_NOTHING_NEW_S = 1.0  # after so long a page hears that there is no news
_GUARDS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Feed(Protocol):
    """What a page shows: `LiveFeed`, `RecordedFeed`, or the crop picker."""

    def on_news(self, tell_pages: Any) -> None:
        """Call `tell_pages` whenever something new is here."""

    def enter(self) -> Any:
        """Count one page more; return what `news` needs to know about it."""

    def leave(self) -> None:
        """Count one page less."""

    def news(self, cursor: Any, wish: Mapping[str, Any]) -> list[Part]:
        """Return what this page does not have yet; empty: nothing."""

    def silent_s(self) -> float | None:
        """Return for how long nothing was heard; None: nothing ever was."""

    def command(
        self, verb: str, args: Mapping[str, Any], page: str = ""
    ) -> dict[str, Any]:
        """Carry out one command of the user; `page` says in which page it was given."""

    def close(self) -> None:
        """Let go of everything."""


class OnlyThisMachine:
    """Refuse requests a foreign web site could make a browser send here.

    The Host must be this server's own (a name that was re-pointed at 127.0.0.1 is
    not), and a WebSocket must come from a page of this server.
    """

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in (_HOST, "localhost", "[::1]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        is_ours = host in self._hosts and origin in (None, f"http://{host}")
        if scope["type"] == "websocket" and origin is None:
            is_ours = False
        if is_ours:
            await self._app(scope, receive, _with_guards(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"not for this site"})


def _with_guards(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(k.encode(), v.encode()) for k, v in _GUARDS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return guarded


class ViewServer:
    """Serve the page of one feed, on a thread of its own.

    Parameters
    ----------
    feed
        What is shown. Closed together with the server.
    port
        0 picks a free one.
    page
        File the address opens.
    token
        What a page must show to be talked to; it is part of `url`. None: any page of
        this server will do, where nothing but a run's own gate can be reached.

    Raises
    ------
    StreamError
        The port is in use.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        port: int = 0,
        page: str = "index.html",
        token: str | None = None,
    ) -> None:
        self._feed, self._news = feed, asyncio.Event()
        self._token = token
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket = _bind(port)
        port = self._socket.getsockname()[1]
        self.url = f"http://{_HOST}:{port}/" + (page if page != "index.html" else "")
        if token is not None:  # after the #: never sent to a server, in no log
            self.url += f"#{token}"
        routes: list[BaseRoute] = [
            WebSocketRoute("/feed", self._talk),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ]
        app = Starlette(
            routes=routes, middleware=[Middleware(OnlyThisMachine, port=port)]
        )
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", ws="websockets-sansio",
            ws_max_size=_MAX_REQUEST_BYTES, ws_per_message_deflate=False,
            timeout_graceful_shutdown=1, access_log=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._serve, name="lodestar-view", daemon=True
        )
        feed.on_news(self._wake)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and close the feed."""
        self._server.should_exit = True
        self._thread.join(_CLOSE_WITHIN_S)
        self._socket.close()
        self._feed.close()

    def wait(self) -> None:
        """Block until the server stops (Ctrl-C)."""
        self._thread.join()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def _wake(self) -> None:
        """Tell the pages' senders that there is news; called from other threads."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                self._loop.call_soon_threadsafe(self._wake_senders)

    def _wake_senders(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # -- one page -----------------------------------------------------------

    async def _talk(self, websocket: WebSocket) -> None:
        self._loop = asyncio.get_running_loop()
        shown = websocket.query_params.get("token", "")
        if self._token is not None and not compare_digest(
            shown.encode(), self._token.encode()
        ):
            await websocket.close(1008)
            return
        await websocket.accept()
        cursor = await run_in_threadpool(self._feed.enter)
        wishes = _NewestWish()
        sender = asyncio.create_task(self._send(websocket, cursor, wishes))
        try:
            while True:
                await self._receive(websocket, wishes)
        except WebSocketDisconnect:
            pass
        except (LodestarError, KeyError) as error:  # KeyError: bytes instead of text
            _log.warning("page sent what it should not: %s", error)
            await websocket.close(1008)
        finally:
            sender.cancel()
            await run_in_threadpool(self._feed.leave)

    async def _receive(self, websocket: WebSocket, wishes: _NewestWish) -> None:
        wish = from_json((await websocket.receive_text()).encode())
        if wish.get("type") == "next":
            wishes.put(wish)
            self._wake_senders()
        elif wish.get("type") == "command":
            reply = await run_in_threadpool(self._answer, wish)
            await websocket.send_text(to_json(reply).decode())
        else:
            raise StreamError(f"page asks {wish.get('type')!r}: unknown.")

    def _answer(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        answer = {"type": "reply", "id": wish.get("id"), "verb": wish.get("verb")}
        try:
            verb, args = str(wish.get("verb")), wish.get("args", {})
            page = str(wish.get("page", ""))[:_MAX_NAME]
            result = self._feed.command(
                verb, args if isinstance(args, dict) else {}, page
            )
        except LodestarError as error:
            return answer | {"ok": False, "error": str(error)}
        return answer | {"ok": True, "result": result}

    async def _send(
        self, websocket: WebSocket, cursor: Any, wishes: _NewestWish
    ) -> None:
        while True:
            parts = await self._wait_for_news(cursor, wishes)
            if not parts:
                parts = [Part("silence", {"silent_s": self._feed.silent_s()})]
            try:
                await websocket.send_bytes(pack(parts))
            except WebSocketDisconnect:  # noticed by the receiving side as well
                return

    async def _wait_for_news(self, cursor: Any, wishes: _NewestWish) -> list[Part]:
        """Wait until the page wishes and there is something to give."""
        wish = await wishes.get()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _NOTHING_NEW_S
        while True:
            news = self._news  # before looking, so that nothing slips through
            wish = wishes.newer_than(wish)
            parts = await run_in_threadpool(self._feed.news, cursor, wish)
            remaining_s = deadline_s - loop.time()
            if parts or remaining_s <= 0:
                return parts
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), remaining_s)


class _NewestWish:
    """What a page wished for last; earlier unanswered wishes are forgotten."""

    def __init__(self) -> None:
        self._wish: Mapping[str, Any] | None = None
        self._is_here = asyncio.Event()

    def put(self, wish: Mapping[str, Any]) -> None:
        """Replace the wish."""
        self._wish = wish
        self._is_here.set()

    async def get(self) -> Mapping[str, Any]:
        """Wait for a wish and take it."""
        await self._is_here.wait()
        return self.newer_than({})

    def newer_than(self, wish: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take the wish that arrived meanwhile, else return the one given."""
        self._is_here.clear()
        newest, self._wish = self._wish, None
        return wish if newest is None else newest


def _bind(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: expected 1 to 65535, or 0 for a free one.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # on Windows it would share a port that is in use
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen()  # a page may be opened at once, before the server runs
    except OSError as error:
        listener.close()
        raise StreamError(
            f"port {port}: {error.strerror}; is another view open? Choose another "
            "with --port, or 0 for a free one."
        ) from error
    return listener
