"""Which microscopes are to be had on this machine, each with a sentence."""

from __future__ import annotations

from typing import Any

from lodestar_live.microscope import installation
from lodestar_live.microscope.bridge import why_not_micro_manager

USUAL_PORT = 4827


def look_around(port: int = USUAL_PORT) -> list[dict[str, Any]]:
    """Return the microscopes in the order they are offered.

    Each has `backend`, `is_here` and `text`, and what its form starts with.
    """
    return [_running(port), _installed(), _demo()]


def _running(port: int) -> dict[str, Any]:
    why = why_not_micro_manager(port)
    text = (
        f"Port {port}: {why}. Open Micro-Manager and tick Tools > Options > Run server "
        "on port."
        if why
        else f"Micro-Manager answers on port {port}."
    )
    return {"backend": "running", "is_here": not why, "text": text, "port": port}


def _installed() -> dict[str, Any]:
    folder = installation.find_installation()
    why = "" if folder is None else installation.mismatch(folder)
    if folder is None:
        text = "No installation was found in the usual places; name its folder."
    else:
        text = f"{folder}: {why}" if why else f"Found in {folder}."
    configs = [] if folder is None else sorted(map(str, folder.glob("*.cfg")))
    return {
        "backend": "headless",
        "is_here": folder is not None and not why,
        "text": text,
        "app_path": "" if folder is None else str(folder),
        "configs": configs[:50],
    }


def _demo() -> dict[str, Any]:
    return {
        "backend": "demo",
        "is_here": True,
        "text": "Micro-Manager's own demo camera and stage, with fluorescent beads.",
    }
