"""Every command a running tracker understands: its arguments and one sentence.

The control socket, the page, napari, Python callers, the tables of PROTOCOL.md and
``schemas/request.json`` all read `VERBS`, so that what is documented, implemented and
refused cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lodestar_live.errors import StreamError, shown
from lodestar_live.settings import Choice

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]

MAX_EXACT = 2**53  # a number in JSON or in the matrix is exact up to here
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
FrameIndex = Annotated[int, Field(ge=0, le=MAX_EXACT)]
TrackId = Annotated[int, Field(ge=0, le=MAX_EXACT)]
Word = Annotated[str, Field(max_length=64)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Whole = Annotated[int, Field(ge=-(10**12), le=10**12)]


class Args(BaseModel):
    """Arguments of a verb; an unknown or mistyped one is refused.

    `ways` lists the groups of arguments of which exactly one group must be given; an
    argument in none of them is optional.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    ways: ClassVar[tuple[tuple[str, ...], ...]] = ()

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if not self.ways:
            return self
        given = {name for name, value in self if value is not None}
        named = given & {name for way in self.ways for name in way}
        if named not in [set(way) for way in self.ways]:
            ways = [" and ".join(way) for way in self.ways]
            raise ValueError(f"expected either {', or '.join(ways)}")
        return self


class NoArgs(Args):
    """No arguments."""


class PlaceArgs(Args):
    """A position in a frame; `frame` left out: the newest."""

    y_px: Coordinate
    x_px: Coordinate
    frame: FrameIndex | None = None


class FollowArgs(Args):
    """One track, several, a position in a frame, or a rule that chooses."""

    ways = (("track_id",), ("track_ids",), ("y_px", "x_px"), ("target",))

    track_id: TrackId | None = None
    track_ids: Annotated[list[TrackId], Field(min_length=1, max_length=256)] | None = (
        None
    )
    y_px: Coordinate | None = None
    x_px: Coordinate | None = None
    frame: FrameIndex | None = None
    target: Choice | Literal["all"] | None = None


class RetrainArgs(Args):
    """The particle to learn from: a track, or a position in a frame."""

    ways = (("track_id",), ("y_px", "x_px"))

    track_id: TrackId | None = None
    y_px: Coordinate | None = None
    x_px: Coordinate | None = None
    frame: FrameIndex | None = None
    size_px: Annotated[int, Field(ge=1, le=4096)] | None = None


class SetArgs(Args):
    """Settings to change while the run goes on; the run decides which it allows."""

    values: dict[Word, bool | Whole | Number | Word] = Field(
        min_length=1, max_length=32
    )


@dataclass(frozen=True, slots=True)
class Verb:
    """One command.

    Parameters
    ----------
    args
        The model of its arguments.
    does
        What it does, in one sentence.
    needs
        What a run must have to serve it; empty: every run serves it.
    is_repeatable
        True: done each time it is asked. False: a request that arrives twice, because
        its reply was lost, is done once.
    is_on_page
        True: the overlay page may send it.
    """

    args: type[Args]
    does: str
    needs: str = ""
    is_repeatable: bool = False
    is_on_page: bool = True


_STAGE, _MODEL = "a `[control]` section", "a `LiveTracker`"

VERBS: Mapping[str, Verb] = {
    "ping": Verb(NoArgs, "Answers.", is_repeatable=True, is_on_page=False),
    "status": Verb(
        NoArgs,
        "Answers with what the heartbeat says.",
        is_repeatable=True,
        is_on_page=False,
    ),
    "follow": Verb(
        FollowArgs,
        "Follows that track, the one nearest to the position, or the one `target` "
        'chooses ("nearest" to the centre, "brightest", "fastest"); several '
        '`track_ids`, or "all" in view, as `control.mode` says: their middle '
        '("centroid") or each in turn ("visit"). Without `[control]` only `track_id`: '
        "what `latest` reports.",
    ),
    "release": Verb(NoArgs, "Follows nobody; the stage rests."),
    "recenter": Verb(
        PlaceArgs,
        "Brings the position to the centre of the view, then rests.",
        needs=_STAGE,
    ),
    "retrain": Verb(
        RetrainArgs,
        "Trains on that particle beside the run; the model is swapped in if it is "
        "better (events `retrain.*`).",
        needs=_MODEL,
    ),
    "rollback": Verb(
        NoArgs, "Uses the model before the last swap again.", needs=_MODEL
    ),
    "set": Verb(
        SetArgs,
        "Changes settings that may change in a run, all of `values` or none: "
        "`deadband_um`, `target`, `mode`, `dwell_s`, `lost`, `coast_frames`.",
        needs=_STAGE,
    ),
    "stop": Verb(
        NoArgs,
        "The stage stands still until `arm`, whatever else is asked; accepted in any "
        "dress, at any rate.",
        needs=_STAGE,
        is_repeatable=True,
    ),
    "arm": Verb(
        NoArgs,
        "Takes back a stop or a hold, after somebody has looked why; the only command "
        "that does.",
        needs=_STAGE,
    ),
}

A = TypeVar("A", bound=Args)


def parse(verb: str, args: Any) -> Args:
    """Return the checked arguments of a verb.

    Raises
    ------
    StreamError
        The verb does not exist, or an argument is missing, unknown or impossible.
    """
    if not isinstance(verb, str) or verb not in VERBS:
        known = list(VERBS)
        raise StreamError(f"verb {shown(verb)}: unknown; expected one of {known}.")
    return checked(verb, VERBS[verb].args, args)


def serve(verb: str, args: type[A], act: Callable[[A], Any]) -> Handler:
    """Return `act` as the handler of `verb`: it takes a mapping and checks it first.

    Parameters
    ----------
    verb
        Its name, for messages.
    args
        The model `act` takes, that of `VERBS`.
    act
        Carries the command out; what it returns, if a mapping, is the result.

    Raises
    ------
    StreamError
        The verb does not exist or has another model of arguments.
    """
    if verb not in VERBS or VERBS[verb].args is not args:
        raise StreamError(f"{verb}: not a verb with {args.__name__}.")

    def handle(message: Mapping[str, Any]) -> Mapping[str, Any]:
        result = act(checked(verb, args, dict(message)))
        return result if isinstance(result, Mapping) else {}

    return handle


def checked(verb: str, model: type[A], args: Any) -> A:
    """Return the checked arguments of a verb whose model is known; as `parse`."""
    try:
        return model.model_validate(args)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, p['loc'])) or 'args'}: {p['msg']}"
            for p in error.errors(include_input=False, include_url=False)
        ]
        raise StreamError(f"{verb}: {'; '.join(problems[:8])}.") from error
