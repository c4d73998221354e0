"""MMCore, reached through pycro-manager: attached to, started headless, or the demo."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import LodestarError, SettingsError
from lodestar_live.microscope.bridge import (
    make_patient,
    meet_again,
    note_family,
    release,
    why_not_micro_manager,
)
from lodestar_live.settings import MicroscopeSettings
from lodestar_live.sources import SourceFacts

_DEMO_BUFFER_MB = 96  # 192 frames of 512 x 512 px; a stalled machine fills no more


class MicroscopeError(LodestarError):
    """Micro-Manager cannot be reached or does not answer as expected."""


class Microscope:
    """One MMCore with what the rest of the package needs of it.

    `core` answers in snake_case, the only spelling both backends share.
    Use `open_microscope`; leave by `close` or as a context manager.
    """

    def __init__(
        self, core: Any, *, is_python: bool, owns_core: bool, port: int = 0
    ) -> None:
        self.core = core
        self.is_python, self.port = is_python, port
        self._owns_core = owns_core

    def __enter__(self) -> Microscope:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Which microscope this is, for messages."""
        if self.is_python:
            return "MMCore in this process"
        return f"Micro-Manager on port {self.port}"

    def facts(self, n_frames: int | None = None) -> SourceFacts:
        """Return what Micro-Manager says of itself and its camera."""
        core = self.core
        return SourceFacts(
            name=self.name,
            pixel_size_um=self.pixel_size_um,
            exposure_ms=float(core.get_exposure()),
            camera=str(core.get_camera_device()),
            n_frames=n_frames,
            versions={
                "MMCore": str(core.get_version_info()),
                "device interface": str(core.get_api_version_info()),
            },
        )

    @property
    def pixel_size_um(self) -> float:
        """Pixel size in the sample plane; NaN when Micro-Manager has none."""
        size_um = float(self.core.get_pixel_size_um())
        return size_um if size_um > 0 else float("nan")

    @property
    def objective(self) -> str:
        """What Micro-Manager calls the objective in place; see `read_objective`."""
        return read_objective(self.core)

    def snap(self) -> Pixels:
        """Take one image outside any acquisition; shape (y, x).

        Raises
        ------
        MicroscopeError
            The camera sends colours.
        """
        core = self.core
        if int(core.get_number_of_components()) != 1:
            raise MicroscopeError(
                f"{self.name}: camera {core.get_camera_device()} sends colour images; "
                "expected grey ones. Set its PixelType to 8bit or 16bit."
            )
        core.snap_image()
        height, width = int(core.get_image_height()), int(core.get_image_width())
        if self.is_python:
            camera = core.get_camera_device()
            pixels = core.get_tagged_image(0, camera, height, width).pix
        else:
            pixels = core.get_tagged_image().pix
        return np.array(pixels).reshape(height, width)

    def second_handle(self) -> Any:
        """Return a core handle for another thread.

        The Java bridge serialises every call of every thread on one socket, so the
        feedback thread gets a socket of its own; the Python core is thread-safe.
        """
        if self.is_python:
            return self.core
        return _java_core(self.port, new_socket=True)

    def give_back(self, handle: Any) -> None:
        """Let go of a second handle: its socket, and the other side's port for it."""
        if not self.is_python:
            release(handle)

    def close(self) -> None:
        """Stop the core if this object started it; may be called twice."""
        if not self.is_python:
            release(self.core)
        elif self._owns_core:
            self._owns_core = False
            _stop_headless()


def open_microscope(settings: MicroscopeSettings) -> Microscope:
    """Reach the microscope that `settings` describe.

    Raises
    ------
    MicroscopeError
        Micro-Manager does not answer, or its configuration cannot be loaded.
    SettingsError
        `headless` without a configuration file.
    """
    if settings.backend == "running":
        return _attach(settings.port)
    if settings.backend == "demo":
        return open_demo()
    if settings.config_file is None:
        raise SettingsError(
            "microscope.config_file is not set: `headless` needs the Micro-Manager "
            ".cfg to load."
        )
    config = Path(settings.config_file).expanduser().resolve()
    if not config.is_file():
        raise MicroscopeError(f"microscope.config_file = {config}: no such file.")
    folder = _folder_for(settings)
    return start_headless(folder, config, settings.buffer_mb)


def open_demo(size_px: int = 512, exposure_ms: float = 20.0) -> Microscope:
    """Start the real core with the real DemoCamera showing fluorescent beads, 16 bit.

    The DemoCamera draws 1 µm per pixel whatever its objective says; the shipped
    configuration's 10x pixel size of 1 µm is the one that agrees.
    """
    buffer_mb = max(_DEMO_BUFFER_MB, 16 * 2 * size_px**2 // 2**20)  # 16 frames at least
    microscope = start_headless(_adapter_folder(), "MMConfig_demo.cfg", buffer_mb)
    core = microscope.core
    core.set_config("Objective", "10X")
    core.set_property("Camera", "Mode", "Fluorescent Beads")
    core.set_property("Camera", "PixelType", "16bit")
    core.set_property("Camera", "BitDepth", "16")
    core.set_property("Camera", "OnCameraCCDXSize", size_px)
    core.set_property("Camera", "OnCameraCCDYSize", size_px)
    core.set_exposure(exposure_ms)
    core.wait_for_system()
    return microscope


def start_headless(
    app_path: str | Path, config: str | Path, buffer_mb: int = 128
) -> Microscope:
    """Start MMCore in this process and load a configuration.

    `buffer_mb` is MMCore's circular buffer. All of it is resident memory from the
    start, and since the hook never waits, only a stalled machine ever fills it.
    """
    import pycromanager

    _forget_dead_engine()
    try:
        pycromanager.start_headless(
            str(app_path), str(config), python_backend=True, buffer_size_mb=buffer_mb
        )
    except Exception as error:
        _stop_headless()
        raise MicroscopeError(
            f"{config}: MMCore could not load it with the device adapters in "
            f"{app_path}: {error}. Check the path and that adapters and pymmcore "
            "speak the same device interface (`lodestar-live doctor`)."
        ) from error
    return Microscope(pycromanager.Core(), is_python=True, owns_core=True)


def read_objective(core: Any) -> str:
    """Return the name of the objective in place, as the configuration names it.

    The pixel-size configuration that matches the devices as they stand (``Res10x``),
    or else the preset of a config group ``Objective`` (``10X``). "" where neither is
    defined, or the turret stands at a place that neither names.
    """
    name = str(core.get_current_pixel_size_config())
    if not name and core.is_group_defined("Objective"):
        name = str(core.get_current_config("Objective"))
    return name


def has_active_core() -> bool:
    """Tell whether a core was started in this process."""
    from mmpycorex import is_pymmcore_active

    return bool(is_pymmcore_active())


def active_core() -> Microscope:
    """Return the core that already runs in this process; not ours to stop."""
    from pycromanager import Core

    return Microscope(Core(), is_python=True, owns_core=False)


def _attach(port: int) -> Microscope:
    why = why_not_micro_manager(port)  # the bridge itself would wait for ever
    if why:
        raise MicroscopeError(
            f"microscope.port = {port}: no Micro-Manager answers there ({why}). Start "
            "it, tick Tools > Options > 'Run server on port', set microscope.port if "
            "it is another one, or use backend = 'headless'."
        )
    make_patient()
    meet_again(port)
    try:
        core = _java_core(port)
    except Exception as error:
        raise MicroscopeError(
            f"microscope.port = {port}: Micro-Manager answers but gives no core: "
            f"{error}."
        ) from error
    return Microscope(core, is_python=False, owns_core=False, port=port)


def _java_core(port: int, *, new_socket: bool = False) -> Any:
    """Return the core behind a port, whatever core runs in this process."""
    from mmpycorex.core import ZMQRemoteMMCoreJ

    core = ZMQRemoteMMCoreJ(port=port, new_socket=new_socket)
    note_family(core, port)
    return core


def _folder_for(settings: MicroscopeSettings) -> Path:
    """Return the device adapters' folder: named, of an installation, or the demo's."""
    from lodestar_live.microscope.installation import find_installation, require_match

    if settings.app_path is not None:
        folder = Path(settings.app_path).expanduser().resolve()
        if not folder.is_dir():
            raise MicroscopeError(f"microscope.app_path = {folder}: no such folder.")
    else:
        folder = find_installation() or Path(_adapter_folder())
    require_match(folder)
    return folder


def _adapter_folder() -> str:
    import mm_test_adapters

    return str(mm_test_adapters.device_adapter_path())


def _stop_headless() -> None:
    import pycromanager

    pycromanager.stop_headless()
    _forget_dead_engine()


def _forget_dead_engine() -> None:
    """Drop the engine singleton, which would otherwise keep a core that is gone."""
    from pycromanager.acquisition.acq_eng_py.internal.engine import Engine

    if hasattr(Engine, "singleton"):
        del Engine.singleton
