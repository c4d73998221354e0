"""``lodestar-live doctor``."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lodestar_live.cli._console import make_console

Finding = tuple[bool, str]
_PACKAGES = ("pycromanager", "torch", "onnxruntime", "numpy", "scipy", "pyzmq")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    model: Annotated[Path | None, typer.Argument(help="A model to check.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at what is installed and reachable, and say what to mend."""
    checks: dict[str, Callable[[], Finding]] = {
        "packages": _packages,
        "demo microscope": _device_interface,
        "ONNX Runtime providers": _providers,
        "Micro-Manager on port 4827": _micro_manager,
        "ports 5556-5558": _ports,
        "shipped files": _shipped,
    }
    if model is not None:
        checks[f"model {model}"] = lambda: _model(model)
    findings = {name: check() for name, check in checks.items()}
    # A closed Micro-Manager is no fault: the demo and headless mode work without.
    faults = [
        name for name, (ok, _) in findings.items() if not ok and "4827" not in name
    ]
    if as_json:
        typer.echo(
            json.dumps({n: {"ok": o, "what": t} for n, (o, t) in findings.items()})
        )
    else:
        table = Table("check", "", "finding")
        for name, (ok, text) in findings.items():
            table.add_row(name, "ok" if ok else "no", text)
        make_console().print(table)
    if faults:
        raise typer.Exit(1)


def _packages() -> Finding:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return False, f"{name} is missing: pip install lodestar-live"
    return True, ", ".join(found)


def _device_interface() -> Finding:
    """Core and adapters must speak one device interface: the 75 in both versions."""
    core, adapters = version("pymmcore"), version("mm-test-adapters")
    wanted, found = core.split(".")[3], adapters.split(".")[0]
    if wanted != found:
        return False, (
            f"pymmcore {core} speaks interface {wanted}, mm-test-adapters {adapters} "
            f"{found}: install mm-test-adapters=={wanted}.*"
        )
    return True, f"pymmcore {core} and mm-test-adapters {adapters}: interface {found}"


def _providers() -> Finding:
    import onnxruntime

    return True, ", ".join(onnxruntime.get_available_providers())


def _micro_manager() -> Finding:
    try:
        socket.create_connection(("127.0.0.1", 4827), timeout=0.5).close()
    except OSError:
        return False, (
            "nothing answers. To attach to it, open Micro-Manager and tick Tools > "
            "Options > Run server on port 4827"
        )
    return True, "something answers there"


def _ports() -> Finding:
    from lodestar_live.streams.ports import is_free

    taken = [str(port) for port in (5556, 5557, 5558) if not is_free(port)]
    if taken:
        return False, f"in use: {', '.join(taken)}; a run takes others and says which"
    return True, "free"


def _shipped() -> Finding:
    from lodestar_live.resources import folder

    places = [folder(kind) for kind in ("config", "hooks", "models")]
    missing = [str(place) for place in places if not place.is_dir()]
    if missing:
        return False, f"missing: {', '.join(missing)}; install the package again"
    return True, f"{places[0].parent}: config, hooks, models"


def _model(path: Path) -> Finding:
    from lodestar_live.detection import Detector
    from lodestar_live.errors import LodestarError

    try:
        card = Detector(path).card
    except LodestarError as error:
        return False, str(error)
    return True, f"valid; network {card.network}, stride {card.stride}"
