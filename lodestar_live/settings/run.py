"""All sections of a run, and how they are read."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from lodestar_live.errors import SettingsError, shown
from lodestar_live.settings.control import ControlSettings
from lodestar_live.settings.holography import HolographySettings
from lodestar_live.settings.microscope import (
    AcquisitionSettings,
    LiveSettings,
    MicroscopeSettings,
)
from lodestar_live.settings.modulation import ModulationSettings
from lodestar_live.settings.outputs import RecordingSettings, StreamSettings
from lodestar_live.settings.section import Section
from lodestar_live.settings.tracking import (
    DetectionSettings,
    LinkingSettings,
    TrainingSettings,
)


class Settings(Section):
    """Everything a run needs; each section has defaults."""

    name: str = "run"
    microscope: MicroscopeSettings = MicroscopeSettings()
    acquisition: AcquisitionSettings = AcquisitionSettings()
    live: LiveSettings = LiveSettings()
    training: TrainingSettings = TrainingSettings()
    detection: DetectionSettings = DetectionSettings()
    linking: LinkingSettings = LinkingSettings()
    control: ControlSettings = ControlSettings()
    streams: StreamSettings = StreamSettings()
    recording: RecordingSettings = RecordingSettings()
    holography: HolographySettings | None = None
    modulation: ModulationSettings | None = None

    def to_toml(self) -> str:
        """Return a file's text that `load_settings` reads back to equal settings.

        Defaults are left out, so that the file shows what was chosen.
        """
        chosen = self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        return tomli_w.dumps(chosen)


def load_settings(path: str | Path) -> Settings:
    """Read settings from a TOML file.

    Raises
    ------
    SettingsError
        The file is missing, not TOML, or has unknown keys or impossible values.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise SettingsError(
            f"{path}: lists or tables are nested too deeply; expected a TOML settings "
            "file such as those in config/."
        ) from error
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); expected a TOML settings file "
            "such as those in config/."
        ) from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of 5000 digits
        raise SettingsError(f"{path}: not valid TOML: {error}.") from error
    return parse_settings(data, source=str(path))


def parse_settings(data: dict[str, Any], *, source: str = "settings") -> Settings:
    """Validate settings given as a nested dictionary; errors as `load_settings`."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        problems = [_explain(dict(problem), data) for problem in error.errors()]
        raise SettingsError("\n".join(f"{source}: {p}" for p in problems)) from error


def _explain(problem: dict[str, Any], data: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    name = ".".join(place)
    if problem["type"] != "extra_forbidden":
        given = _as_given(data, problem["loc"], problem["input"])
        return f"{name} = {shown(given)}: {problem['msg']}."
    known = _fields_at(place[:-1])
    close = difflib.get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
    return f"{name}: unknown key; {hint}"


def _as_given(data: Any, place: tuple[Any, ...], otherwise: Any) -> Any:
    """Return the value as the user wrote it: validation saw tuples for its lists."""
    for part in place:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return otherwise
    return data


def _fields_at(place: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in place:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(
            c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)
        )
    return sorted(model.model_fields)
