"""What the control socket and the overlay may ask the controller for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lodestar_live.commands import (
    Args,
    FollowArgs,
    Handler,
    NoArgs,
    PlaceArgs,
    SetArgs,
    serve,
)
from lodestar_live.settings import Choice

if TYPE_CHECKING:
    from lodestar_live.control.controller import Controller


def verbs_of(controller: Controller) -> dict[str, Handler]:
    """Return verb -> callable; each takes the arguments and returns the status."""

    def follow(args: FollowArgs) -> dict[str, Any]:
        if args.track_ids is not None:
            controller.follow_many(args.track_ids)
        elif args.target == "all":
            controller.follow_many(None)
        elif args.y_px is not None and args.x_px is not None:
            controller.follow(controller.place_um(args.y_px, args.x_px, args.frame))
        else:
            controller.follow(_wish(args))
        return controller.status()

    def release(_args: Args) -> dict[str, Any]:
        controller.release()
        return controller.status()

    def recenter(args: PlaceArgs) -> dict[str, Any]:
        place_um = controller.place_um(args.y_px, args.x_px, args.frame)
        controller.recenter(*place_um)
        return controller.status()

    def stop(_args: Args) -> dict[str, Any]:
        controller.stop("asked")
        return controller.status()

    def arm(_args: Args) -> dict[str, Any]:
        controller.arm()
        return controller.status()

    def set_values(args: SetArgs) -> dict[str, Any]:
        controller.set_many(args.values)
        return controller.status()

    return {
        "follow": serve("follow", FollowArgs, follow),
        "release": serve("release", NoArgs, release),
        "recenter": serve("recenter", PlaceArgs, recenter),
        "stop": serve("stop", NoArgs, stop),
        "arm": serve("arm", NoArgs, arm),
        "set": serve("set", SetArgs, set_values),
        "status": serve("status", NoArgs, lambda _args: controller.status()),
    }


def _wish(args: FollowArgs) -> int | Choice:
    if args.track_id is not None:
        return args.track_id
    assert args.target is not None and args.target != "all"  # noqa: S101 - one way
    return args.target
