"""The user's own Micro-Manager on disk: where it is, and whether our core fits it.

Core and device adapters must speak one device interface. pymmcore has its number in its
version (12.5.1.**75**.0); each adapter library tells its own when asked.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from lodestar_live.microscope.core import MicroscopeError

# The newest pymmcore of each device interface; 74 and 75 were tried with this package.
_NEWEST = {
    70: "10.1.1.70.6",
    71: "11.2.1.71.0",
    73: "11.9.0.73.0",
    74: "11.10.0.74.1",
    75: "12.5.1.75.0",
}
_ASK_WITHIN_S = 20.0
# Run in a process of its own: loading a vendor's library may do anything.
_ASK = (
    "import ctypes, os, sys; folder = sys.argv[1];"
    "os.add_dll_directory(folder) if hasattr(os, 'add_dll_directory') else None;"
    "lib = ctypes.CDLL(sys.argv[2]);"
    "ask = lib.GetDeviceInterfaceVersion; ask.restype = ctypes.c_long;"
    "print(ask())"
)
_FOLDERS = ("/usr/local/lib/micro-manager", "/usr/lib/micro-manager")


def find_installation() -> Path | None:
    """Return the folder of an installed Micro-Manager; None where none is found."""
    from mmpycorex import find_existing_mm_install

    try:
        return Path(find_existing_mm_install())
    except (ValueError, FileNotFoundError):  # Linux has no usual place
        found = (Path(folder) for folder in _FOLDERS)
        return next((folder for folder in found if folder.is_dir()), None)


def core_interface() -> int:
    """Return the device interface that the installed pymmcore speaks."""
    return int(version("pymmcore").split(".")[3])


def adapter_interface(folder: Path) -> int | None:
    """Return the device interface of the adapters in a folder; None if none tells.

    The demo camera's library is asked first: it needs no driver.
    """
    libraries = sorted(
        (p for p in folder.glob("*mmgr_dal_*") if p.is_file()),
        key=lambda p: ("DemoCamera" not in p.name, p.name),
    )
    for library in libraries[:3]:
        try:
            answer = subprocess.run(  # noqa: S603 - our own code, a library to load
                [sys.executable, "-c", _ASK, str(folder), str(library)],
                capture_output=True,
                text=True,
                timeout=_ASK_WITHIN_S,
                check=True,
            )
            return int(answer.stdout)
        except (subprocess.SubprocessError, ValueError, OSError):
            continue
    return None


def mismatch(folder: Path) -> str:
    """Return why the core does not fit the adapters in a folder; "" if it does.

    With both numbers, and the one command that mends it.
    """
    ours, theirs = core_interface(), adapter_interface(folder)
    if theirs is None or theirs == ours:
        return ""
    wanted = _NEWEST.get(theirs)
    remedy = (
        f'pip install "pymmcore=={wanted}"'
        if wanted is not None
        else "install a Micro-Manager of device interface 74 or 75"
    )
    return (
        f"the device adapters in {folder} speak device interface {theirs}, pymmcore "
        f"{version('pymmcore')} speaks {ours}. {remedy}"
    )


def require_match(folder: Path) -> None:
    """Refuse adapters that the core cannot load.

    Raises
    ------
    MicroscopeError
        With both numbers and the command to run.
    """
    why = mismatch(folder)
    if why:
        raise MicroscopeError(f"microscope.app_path = {folder}: {why}.")
