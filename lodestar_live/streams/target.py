"""Which track the `latest` endpoint reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lodestar_live.commands import Args, FollowArgs, Handler, NoArgs, serve
from lodestar_live.data import Tracks
from lodestar_live.errors import StreamError
from lodestar_live.streams.messages import finite


class Target:
    """The followed track: the controller's if there is one, else our own choice.

    Parameters
    ----------
    track_id
        Returns the track the controller follows, or None. Left out: the `follow` and
        `release` commands of this class decide.
    """

    def __init__(self, track_id: Callable[[], int | None] | None = None) -> None:
        self._given = track_id
        self._chosen: int | None = None
        self.is_own = track_id is None

    @property
    def track_id(self) -> int | None:
        """The track followed at present."""
        return self._chosen if self._given is None else self._given()

    def verbs(self) -> dict[str, Handler]:
        """Return `follow` and `release`, which choose the track."""

        def follow(args: FollowArgs) -> dict[str, Any]:
            if args.track_id is None:
                raise StreamError(
                    "follow: this run has no [control] section; expected track_id."
                )
            self._chosen = args.track_id
            return {"track_id": self._chosen}

        def release(_args: Args) -> None:
            self._chosen = None

        return {
            "follow": serve("follow", FollowArgs, follow),
            "release": serve("release", NoArgs, release),
        }


def target_json(tracks: Tracks, track_id: int | None) -> dict[str, Any] | None:
    """Return the row of `track_id` as JSON, or None when it is not alive."""
    if track_id is None:
        return None
    found = tracks.rows[tracks.rows["track_id"] == track_id]
    if not len(found):
        return None
    names = found.dtype.names or ()
    values = finite(dict(zip(names, found[0].tolist(), strict=True)))
    return dict(values)
