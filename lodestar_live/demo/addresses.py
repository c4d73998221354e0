"""Where a demo publishes and takes commands."""

from __future__ import annotations


def stream_addresses(port: int) -> dict[str, str]:
    """Return three addresses on this machine, from `port` on; 0: any free ones."""
    names = ("stream", "latest", "control")
    return {
        name: f"tcp://127.0.0.1:{port + k if port else 0}"
        for k, name in enumerate(names)
    }
