"""Choose the training particle by clicking on the snapshot, in the browser."""

from __future__ import annotations

import logging
import threading
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import imageio.v3 as imageio
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lodestar_live.data import Detections, Pixels
from lodestar_live.errors import InputError, LodestarError, StreamError
from lodestar_live.view.figures.style import contrast
from lodestar_live.view.web.bundle import DETECTION_COLUMNS, Part, rows_part
from lodestar_live.view.web.server import ViewServer

_log = logging.getLogger(__name__)

Places = tuple[tuple[float, float], ...]
Tell = Callable[[float, str], None]
TryOut = Callable[[Places, int | None, Tell], Detections]


class Place(BaseModel):
    """A click: (y, x) in px."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    y_px: float = Field(allow_inf_nan=False)
    x_px: float = Field(allow_inf_nan=False)


class Choice(BaseModel):
    """What the user clicked: particles and, if dragged, the side of their crops."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    places: tuple[Place, ...] = Field(min_length=1)
    size_px: int | None = Field(None, ge=5, le=1024)

    @property
    def at_px(self) -> Places:
        """Return (y, x) of each particle, px, in the order of the clicks."""
        return tuple((place.y_px, place.x_px) for place in self.places)


def pick_crop(
    image: Pixels,
    *,
    try_out: TryOut | None = None,
    open_browser: bool = True,
    announce: Callable[[str], None] = lambda url: None,
) -> tuple[Places, int | None]:
    """Let the user click particles on `image`; block until "Use this crop".

    A click chooses one; Shift-clicks add others that look different.

    Parameters
    ----------
    image
        Snapshot, shape (y, x).
    try_out
        ``try_out(at_px, size_px, tell) -> Detections``: train on the crops and return
        what is found in `image`; shown on the page at once. Runs on its own thread;
        ``tell(fraction, text)`` moves the progress bar. None: no such button.
    announce
        Told the page's address.

    Returns
    -------
    (y, x) of each particle in px, and the side of the crops in px; None: to be
    estimated.

    Raises
    ------
    InputError
        The user pressed "Cancel".
    """
    feed = PickFeed(image, try_out=try_out)
    server = ViewServer(feed, page="pick.html")
    try:
        announce(server.url)
        if open_browser:
            webbrowser.open(server.url)
        choice = feed.wait()
    finally:
        server.close()
    if choice is None:
        raise InputError("pick: cancelled; no particle was chosen. Use --at Y,X.")
    return choice.at_px, choice.size_px


@dataclass
class PickCursor:
    """What one page has been given already."""

    version: int = -1


class PickFeed:
    """The snapshot, the try-out's progress and what it found, for the picking page."""

    def __init__(self, image: Pixels, *, try_out: TryOut | None = None) -> None:
        self._image, self._try_out = image_part(image), try_out
        self._shape = image.shape
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"busy": False, "fraction": 0.0, "text": ""}
        self._found: Detections | None = None
        self._version = 0
        self._tell_pages: Callable[[], None] = lambda: None
        self._choice: Choice | None = None
        self._is_over = threading.Event()

    def wait(self) -> Choice | None:
        """Block until the user has chosen; None: cancelled."""
        self._is_over.wait()
        return self._choice

    # -- what the server asks -------------------------------------------------

    def on_news(self, tell_pages: Callable[[], None]) -> None:
        """Call `tell_pages` whenever the try-out has moved on."""
        self._tell_pages = tell_pages

    def enter(self) -> PickCursor:
        """Count one page more."""
        return PickCursor()

    def leave(self) -> None:
        """Count one page less."""

    def close(self) -> None:
        """Let a waiting caller go."""
        self._is_over.set()

    def silent_s(self) -> float | None:
        """Return 0: a snapshot is never silent."""
        return 0.0

    def news(self, cursor: PickCursor, _wish: Mapping[str, Any]) -> list[Part]:
        """Return the snapshot once, and the state whenever it changed."""
        with self._lock:
            if cursor.version == self._version:
                return []
            parts = [self._image] if cursor.version < 0 else []
            cursor.version = self._version
            facts = {**self._state, "can_try": self._try_out is not None}
            parts.append(Part("state", facts))
            if self._found is not None:
                rows = self._found.rows
                parts.append(rows_part("detections", {}, rows, DETECTION_COLUMNS))
            return parts

    def command(
        self, verb: str, args: Mapping[str, Any], page: str = ""
    ) -> dict[str, Any]:
        """Carry out ``try``, ``use`` or ``cancel``.

        Raises
        ------
        StreamError
            Unknown verb, a place outside the image, or a try-out is still going on.
        """
        if verb == "cancel":
            self._is_over.set()
            return {}
        choice = self._check(verb, args)
        if verb == "use":
            self._choice = choice
            self._is_over.set()
        else:
            self._start(choice)
        return {}

    # -- the try-out ------------------------------------------------------------

    def _check(self, verb: str, args: Mapping[str, Any]) -> Choice:
        if verb not in ("try", "use"):
            raise StreamError(f"{verb}: unknown; expected try, use or cancel.")
        try:
            choice = Choice.model_validate(args)
        except ValidationError as error:
            raise StreamError(f"{verb}: {error.errors()[0]['msg']}.") from error
        height, width = self._shape
        for y, x in choice.at_px:
            if not (0 <= y < height and 0 <= x < width):
                raise StreamError(f"{verb}: ({y}, {x}) is outside.")
        return choice

    def _start(self, choice: Choice) -> None:
        with self._lock:
            if self._try_out is None or self._state["busy"]:
                raise StreamError("try: a try-out is going on, or none is possible.")
            self._state = {"busy": True, "fraction": 0.0, "text": "starting…"}
            self._found = None
            self._version += 1
        self._tell_pages()
        threading.Thread(
            target=self._run, args=(self._try_out, choice), name="lodestar-try-out",
            daemon=True,
        ).start()  # fmt: skip

    def _run(self, try_out: TryOut, choice: Choice) -> None:
        found, text = None, ""
        try:
            found = try_out(choice.at_px, choice.size_px, self._tell)
            text = f"finds {len(found)} particles"
        except LodestarError as error:
            text = str(error)
        except Exception as error:  # the user's callback
            _log.exception("try-out failed")
            text = f"failed: {error!r}"
        with self._lock:
            self._found = found
            self._state = {"busy": False, "fraction": 1.0, "text": text}
            self._state["failed"] = found is None
            self._version += 1
        self._tell_pages()

    def _tell(self, fraction: float, text: str) -> None:
        with self._lock:
            self._state = {"busy": True, "fraction": fraction, "text": text}
            self._version += 1
        self._tell_pages()


def image_part(image: Pixels) -> Part:
    """Return a snapshot for a page: every pixel of it, stretched, as PNG."""
    pixels = np.abs(image) if np.iscomplexobj(image) else np.asarray(image)
    if pixels.ndim != 2:
        raise InputError(f"pick: image of shape {pixels.shape}; expected (y, x).")
    low, high = contrast(pixels)
    grey = np.clip((pixels - low) * (255.0 / (high - low)), 0, 255)
    encoded = imageio.imwrite(
        "<bytes>", np.nan_to_num(grey).astype(np.uint8), extension=".png"
    )
    facts = {
        "encoding": "png",
        "shape_px": list(pixels.shape),
        "low": low,
        "high": high,
    }
    return Part("image", facts, bytes(encoded))
