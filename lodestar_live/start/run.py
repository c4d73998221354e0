"""The run under way: `lodestar-live run` in its own process, heard by its stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lodestar_live.start.command import Command
from lodestar_live.view.web.live_feed import LiveFeed

_FOLDER, _STREAM, _CONTROL = "Run folder: ", "stream: ", "control: "


class RunningRun:
    """A run that the page started, from its settings file to its end.

    Parameters
    ----------
    settings
        The file to run.
    on_ready
        Called when the run can be heard.
    on_end
        Called at its end with None, or with why it failed.
    on_news
        Called whenever the run has told something.

    Attributes
    ----------
    folder
        The run's folder; None until it has one.
    feed
        What the run tells; None until it can be heard.
    """

    def __init__(
        self,
        settings: Path,
        *,
        on_ready: Callable[[], None],
        on_end: Callable[[str | None], None],
        on_news: Callable[[], None],
    ) -> None:
        self.folder: Path | None = None
        self.feed: LiveFeed | None = None
        self._on_ready, self._on_end, self._on_news = on_ready, on_end, on_news
        self._stream = ""
        self._command = Command(
            ["run", str(settings), "--no-browser", "--until-input-ends"],
            on_line=self._hear,
            on_end=self._ended,
        )

    def end(self) -> None:
        """Ask the run to end; what is recorded is kept."""
        self._command.end_input()

    def close(self) -> None:
        """End the run and wait for it."""
        self._command.close()

    def facts(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        folder = None if self.folder is None else str(self.folder)
        return {"folder": folder, "is_heard": self.feed is not None}

    def _hear(self, line: str) -> None:
        if line.startswith(_FOLDER) and self.folder is None:
            self.folder = Path(line.removeprefix(_FOLDER))
        elif line.startswith(_STREAM):
            self._stream = line.removeprefix(_STREAM)
        elif line.startswith(_CONTROL) and self.feed is None:
            feed = LiveFeed(self._stream, control=line.removeprefix(_CONTROL))
            feed.on_news(self._on_news)
            self.feed = feed
            self._on_ready()

    def _ended(self, why: str | None) -> None:
        if self.feed is not None:
            self.feed.close()
        self._on_end(why)
