"""What the control socket and the overlay may ask the controller for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lodestar_live.errors import SettingsError

if TYPE_CHECKING:
    from lodestar_live.control.controller import Controller

Verb = Callable[[Mapping[str, Any]], dict[str, Any]]
CHOICES = ("nearest", "brightest", "fastest")


def verbs_of(controller: Controller) -> dict[str, Verb]:
    """Return verb -> callable; each takes the message and returns the status."""

    def follow(message: Mapping[str, Any]) -> None:
        if "track_ids" in message:
            controller.follow_many([int(i) for i in message["track_ids"]])
        elif "track_id" in message:
            controller.follow(int(message["track_id"]))
        elif "y_px" in message:
            controller.follow(controller.place_um(message))
        else:
            controller.follow(
                _choice(message.get("target", controller.settings.target))
            )

    def stop(message: Mapping[str, Any]) -> None:
        controller.stop(str(message.get("reason", "asked")))

    def set_values(message: Mapping[str, Any]) -> None:
        for name, value in message.get("values", message).items():
            controller.set(name, value)

    acts: dict[str, Callable[[Mapping[str, Any]], None]] = {
        "follow": follow,
        "release": lambda message: controller.release(),
        "recenter": lambda message: controller.recenter(*controller.place_um(message)),
        "stop": stop,
        "set": set_values,
        "status": lambda message: None,
    }

    def answered(act: Callable[[Mapping[str, Any]], None]) -> Verb:
        def verb(message: Mapping[str, Any]) -> dict[str, Any]:
            act(message)
            return controller.status()

        return verb

    return {name: answered(act) for name, act in acts.items()}


def _choice(wish: Any) -> str:
    if wish not in CHOICES:
        raise SettingsError(
            f"follow: target = {wish!r}; expected nearest, brightest or fastest, or a "
            "track_id, track_ids, or y_px and x_px."
        )
    return str(wish)
