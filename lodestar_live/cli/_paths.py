"""Paths the user names, checked before anything slow begins."""

from __future__ import annotations

from pathlib import Path

from lodestar_live.errors import InputError
from lodestar_live.resources import find
from lodestar_live.settings import Settings, load_settings


def read_settings(config: Path | None) -> Settings:
    """Return the settings of a file of the user's or a shipped preset, or defaults.

    Raises
    ------
    LodestarError
        The file, or a file that it names, is missing, or a setting is impossible.
    """
    if config is None:
        return Settings()
    settings = load_settings(find("config", str(config)))
    if settings.detection.model is not None:
        find("models", settings.detection.model)
    mask = settings.detection.mask
    if mask is not None and not Path(mask).is_file():
        raise InputError(
            f"{config}: detection.mask = {mask}: no such file; expected an image as "
            "large as a frame, not 0 where particles are wanted."
        )
    control = settings.control
    calibration = control.calibration if control.follow else None
    if calibration is not None and not Path(calibration).is_file():
        raise InputError(
            f"{config}: control.calibration = {calibration}: no such file; make it "
            f"with `lodestar-live calibrate {config} -o {calibration}`."
        )
    return settings


def require_folder_of(path: Path) -> None:
    """Refuse a file to be written whose folder is missing.

    Raises
    ------
    InputError
        It is.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: its folder {path.parent} does not exist; make it.")
