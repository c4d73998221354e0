"""``lodestar-live doctor``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lodestar_live.cli._console import make_console

if TYPE_CHECKING:
    from lodestar_live.settings import MicroscopeSettings

Finding = tuple[bool, str]
_PACKAGES = ("pycromanager", "torch", "onnxruntime", "numpy", "scipy", "pyzmq")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    what: Annotated[
        Path | None,
        typer.Argument(help="A model (.onnx), or a settings file (.toml), to check."),
    ] = None,
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
    if what is not None and what.suffix == ".toml":
        del checks["Micro-Manager on port 4827"], checks["ports 5556-5558"]
        checks |= _config_checks(what)
    elif what is not None:
        checks[f"model {what}"] = lambda: _model(what)
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
    return _bridge(4827)


def _bridge(port: int) -> Finding:
    """Say who answers at the bridge's port."""
    from lodestar_live.microscope.bridge import why_not_micro_manager

    why = why_not_micro_manager(port)
    if why:
        return False, (
            f"{why}. To attach to it, open Micro-Manager and tick Tools > Options > "
            f"Run server on port {port}"
        )
    return True, "Micro-Manager answers there"


def _config_checks(path: Path) -> dict[str, Callable[[], Finding]]:
    """Return the checks of everything that a settings file names."""
    from lodestar_live.errors import SettingsError
    from lodestar_live.settings import load_settings

    try:
        settings = load_settings(path)
    except SettingsError as error:
        text = str(error)
        return {f"settings {path}": lambda: (False, text)}
    checks: dict[str, Callable[[], Finding]] = {
        f"settings {path}": lambda: (True, "valid")
    }
    microscope = settings.microscope
    if microscope.backend == "running":
        port = microscope.port
        checks[f"Micro-Manager on port {port}"] = lambda: _bridge(port)
    if microscope.backend == "headless":
        checks["device adapters"] = lambda: _installation(microscope.app_path)
    checks["a frame"] = lambda: _frame(microscope)
    model = settings.detection.model
    if model is not None:
        from lodestar_live.resources import find

        checks[f"model {model}"] = lambda: _model(find("models", model))
    if settings.streams.enabled:
        streams = settings.streams
        addresses = (streams.stream, streams.latest, streams.control)
        asked = [int(a.rsplit(":", 1)[1]) for a in addresses if a is not None]
        name = "ports " + ", ".join(map(str, asked))
        checks[name] = lambda: _ports([port for port in asked if port])
    return checks


def _installation(app_path: str | None) -> Finding:
    from lodestar_live.microscope import installation

    folder = None if app_path is None else Path(app_path).expanduser()
    folder = folder or installation.find_installation()
    if folder is None:
        return True, "no Micro-Manager was found; the demo's adapters are used"
    if not folder.is_dir():
        return False, f"microscope.app_path = {folder}: no such folder"
    why = installation.mismatch(folder)
    if why:
        return False, why
    return True, f"{folder}: device interface {installation.core_interface()}"


def _frame(settings: MicroscopeSettings) -> Finding:
    """Take one frame, as a run would."""
    from lodestar_live.errors import LodestarError
    from lodestar_live.microscope import open_microscope

    try:
        with open_microscope(settings) as microscope:
            facts = microscope.facts()
            pixels = microscope.snap()
    except LodestarError as error:
        return False, str(error)
    height, width = pixels.shape
    return True, (
        f"{facts.name}, {facts.camera}: {width} x {height} px, {pixels.dtype}, "
        f"{facts.exposure_ms:g} ms, {facts.pixel_size_um:g} um per pixel"
    )


def _ports(ports: Sequence[int] = (5556, 5557, 5558)) -> Finding:
    from lodestar_live.streams.ports import is_free

    taken = [str(port) for port in ports if not is_free(port)]
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
