"""What the start page is told: the job's state, and the picture that goes with it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodestar_live.commands import VERBS, checked
from lodestar_live.errors import InputError, StreamError
from lodestar_live.start.job import Job
from lodestar_live.start.recorded import RecordedRun
from lodestar_live.start.verbs import START_VERBS, WheelArgs
from lodestar_live.start.wheel import Wheel
from lodestar_live.streams.image import encode_image
from lodestar_live.view.web.bundle import DETECTION_COLUMNS, Part, rows_part
from lodestar_live.view.web.live_feed import Cursor, LiveFeed
from lodestar_live.view.web.pick import image_part

_LIVE_SIDE_PX = 2048


@dataclass
class StartCursor:
    """What one page has been given already."""

    version: int = -1
    image: int = -1
    found: int = -1
    wheel: Mapping[str, Any] | None = None
    shown: object = None  # the run's feed, or None while preparing
    inner: Cursor | None = None
    has_picture: bool = False


class StartFeed:
    """The job, for pages: a feed of the web server.

    Parameters
    ----------
    folder
        Where models, settings and runs are written.
    """

    kind = "start"

    def __init__(self, folder: Path) -> None:
        self._tell_pages: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._n_pages = 0
        self._entered: LiveFeed | None = None  # whose images are asked for
        self._encoded: tuple[int, Part] | None = None
        self.wheel = Wheel()
        self.job = Job(folder, self._changed)

    def on_news(self, tell_pages: Callable[[], None]) -> None:
        """Call `tell_pages` whenever something is new."""
        self._tell_pages = tell_pages

    def enter(self) -> StartCursor:
        """Count one page more."""
        with self._lock:
            self._n_pages += 1
        self._tend_run()
        return StartCursor()

    def leave(self) -> None:
        """Count one page less; without pages no image of the run is encoded."""
        with self._lock:
            self._n_pages -= 1
        self._tend_run()

    def silent_s(self) -> float | None:
        """Return for how long the run told nothing; 0 while there is none."""
        run = self.job.run
        return 0.0 if run is None or run.feed is None else run.feed.silent_s()

    def close(self) -> None:
        """End everything under way."""
        self.job.close()

    def command(
        self, verb: str, args: Mapping[str, Any], page: str = ""
    ) -> dict[str, Any]:
        """Carry out a verb of the job, or of the run under way.

        Raises
        ------
        LodestarError
            Unknown, refused, or another page holds the wheel.
        """
        if verb not in START_VERBS and verb not in VERBS:
            raise StreamError(f"{verb[:40]!r}: no verb of this page.")
        if verb == "take_wheel":
            if not page:
                raise InputError("take_wheel: the page did not say which it is.")
            self.wheel.take(page, checked(verb, WheelArgs, dict(args)).name)
            self._tell_pages()
            return {}
        self.wheel.require(page, verb)
        if verb in START_VERBS:
            return self.job.do(verb, args)
        run = self.job.run
        if run is None or run.feed is None:
            raise InputError(f"{verb}: no run is under way; start one first.")
        return run.feed.command(verb, args)

    def news(self, cursor: StartCursor, wish: Mapping[str, Any]) -> list[Part]:
        """Return what the page does not have yet."""
        page = str(wish.get("page", ""))[:64]
        if self.wheel.see(page):
            self._tell_pages()
        shown = self._shown()
        parts = self._state_parts(cursor, page)
        if shown is not cursor.shown or cursor.version < 0:
            cursor.shown, cursor.inner = shown, Cursor()
            cursor.image = cursor.found = -1
            cursor.has_picture = False
            if shown is None:
                parts.append(self._prepare_part())
        cursor.version = self.job.version
        if shown is None:
            return parts + self._picture_parts(cursor)
        parts += self._report_parts(cursor)
        parts += shown.news(cursor.inner, wish)
        return parts

    # -- parts -----------------------------------------------------------------------

    def _shown(self) -> Any:
        """Return the feed of the run under way or opened; None while preparing."""
        run, recorded = self.job.run, self.job.recorded
        if run is not None:
            return run.feed
        return None if recorded is None else recorded.feed

    def _state_parts(self, cursor: StartCursor, page: str) -> list[Part]:
        wheel = self.wheel.as_json(page)
        if cursor.version == self.job.version and cursor.wheel == wheel:
            return []
        cursor.wheel = wheel
        return [Part("start", {**self.job.state(), "wheel": wheel})]

    def _prepare_part(self) -> Part:
        """Return a run that is still to come, in the words the page knows."""
        settings = self.job.settings.model_dump(mode="json")
        return Part("run", {"kind": "prepare", "verbs": [], "settings": settings})

    def _picture_parts(self, cursor: StartCursor) -> list[Part]:
        parts = []
        job = self.job
        if job.image is not None and cursor.image != job.image_version:
            cursor.image = job.image_version
            parts.append(self._image())
        if cursor.found != job.found_version:
            cursor.found = job.found_version
            if job.candidates is not None and job.found is not None:
                for topic, rows in (
                    ("candidates", job.candidates.all.rows),
                    ("found", job.found.rows),
                ):
                    parts.append(rows_part(topic, {}, rows, DETECTION_COLUMNS))
            else:
                parts.append(Part("nothing_found", {}))
        return parts

    def _image(self) -> Part:
        """Return the newest image, encoded once for all pages."""
        with self._lock:
            version, pixels = self.job.image_version, self.job.image
            if self._encoded is not None and self._encoded[0] == version:
                return self._encoded[1]
            if pixels is None:
                raise InputError("no image was taken yet.")
            if self.job.is_snapshot:  # every pixel, for who zooms in to click
                part = image_part(pixels)
            else:
                part = Part("image", *encode_image(pixels, _LIVE_SIDE_PX))
            part = Part("image", {**part.facts, "frame": version}, part.body)
            self._encoded = version, part
            return part

    def _report_parts(self, cursor: StartCursor) -> list[Part]:
        recorded: RecordedRun | None = self.job.recorded
        if recorded is None or cursor.has_picture or not recorded.picture:
            return []
        cursor.has_picture = True
        return [Part("report", {"encoding": "png"}, recorded.picture)]

    # -- the run's images are asked for while a page is open ---------------------------

    def _changed(self) -> None:
        self._tend_run()
        self._tell_pages()

    def _tend_run(self) -> None:
        run = self.job.run if hasattr(self, "job") else None
        feed = None if run is None else run.feed
        with self._lock:
            wanted = feed if self._n_pages > 0 else None
            before, self._entered = self._entered, wanted
            if before is wanted:
                return
        if before is not None:
            before.leave()
        if wanted is not None:
            wanted.enter()


def new_token() -> str:
    """Return what a page must show to be talked to."""
    return secrets.token_urlsafe(18)
