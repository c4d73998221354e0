"""What a batch shall do, and the key by which finished work is known again."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from lodestar_live.batch.files import sha256_of, write_atomically
from lodestar_live.errors import InputError
from lodestar_live.recording.movies import Choice
from lodestar_live.settings import ControlSettings, Settings

CHUNK_FRAMES = 200  # some seconds of work: little is lost by a kill
_END_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which recordings are analysed, with what, and where results go.

    Parameters
    ----------
    inputs
        Recordings, as `lodestar_live.recording.movies.Movie` opens them.
    model
        Trained .onnx.
    out
        Folder of the results; must be seen under the same path by all workers.
    settings
        Of detection, linking and holography; what belongs to a live run is ignored.
    choice
        Which images of each recording, and what the user knows better.
    chunk_frames
        Frames in one piece of work. Results do not depend on it.
    """

    inputs: tuple[Path, ...]
    model: Path
    out: Path
    settings: Settings = field(default_factory=Settings)
    choice: Choice = field(default_factory=Choice)
    chunk_frames: int = CHUNK_FRAMES

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise InputError(f"chunk_frames = {self.chunk_frames}: expected 1 or more.")


@dataclass(frozen=True, slots=True)
class Job:
    """One recording of a batch; all that a worker is told.

    Parameters
    ----------
    path
        Of the recording.
    folder
        Where its results go.
    settings
        JSON of the settings that workers use.
    key
        SHA-256 of what the result depends on.
    """

    path: Path
    folder: Path
    settings: str
    choice: Choice
    chunk_frames: int
    key: str

    @property
    def name(self) -> str:
        """Name of the results' folder."""
        return self.folder.name


def gather_inputs(named: Iterable[str | Path], listed: Path | None) -> list[Path]:
    """Return recordings named by path or pattern, or line by line in a file.

    Raises
    ------
    InputError
        One does not exist, or there are none.
    """
    texts = [str(path) for path in named]
    if listed is not None:
        try:
            lines = listed.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{listed}: cannot be read ({error.strerror}).") from error
        texts += [line.strip() for line in lines if line.strip()]
    found: dict[Path, None] = {}
    for text in texts:
        if Path(text).exists():
            matches = [text]
        else:  # a shell that knows no patterns hands them on
            matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise InputError(f"{text}: no such file or folder.")
        found.update((Path(match).resolve(), None) for match in matches)
    if not found:
        raise InputError("no recordings: expected files, folders, or --list FILE.")
    return list(found)


def make_jobs(plan: BatchPlan) -> list[Job]:
    """Copy what workers need into the results' folder and return one job each.

    Raises
    ------
    InputError
        The folder cannot be written, or a file of the settings cannot be read.
    """
    out = plan.out.resolve()
    try:
        settings, facts = _for_workers(plan, out)
    except OSError as error:
        raise InputError(
            f"{error.filename}: {error.strerror}; batch copies the model into {out}."
        ) from error
    text = settings.model_dump_json()
    jobs = []
    for path in plan.inputs:
        key = _key(identity(path), facts, asdict(plan.choice))
        folder = out / f"{path.stem}-{key[:8]}"
        jobs.append(Job(path, folder, text, plan.choice, plan.chunk_frames, key))
    return jobs


def identity(path: Path) -> dict[str, object]:
    """Return what a recording is known by: its files' sizes, dates and ends.

    Not where it lies: a moved recording is the same. Contents are not read whole.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    base, files = (path, files) if files else (path.parent, [path])
    ends = hashlib.sha256()
    for file in (files[0], files[-1]):
        with file.open("rb") as opened:
            ends.update(opened.read(_END_BYTES))
            opened.seek(max(0, file.stat().st_size - _END_BYTES))
            ends.update(opened.read(_END_BYTES))
    states = [(str(f.relative_to(base)), f.stat()) for f in files]
    return {
        "files": [(name, s.st_size, s.st_mtime_ns) for name, s in states],
        "ends": ends.hexdigest(),
    }


def _for_workers(plan: BatchPlan, out: Path) -> tuple[Settings, dict[str, object]]:
    """Return the settings of workers and what results depend on beside the input."""
    given = plan.settings
    (out / "inputs").mkdir(parents=True, exist_ok=True)
    model, model_sha256 = _copied(plan.model, out / "inputs")
    detection = given.detection.model_copy(
        update={
            "model": str(model),
            # One engine, one thread, whole frames: the same rows on every worker.
            "engine": "cpu"
            if given.detection.engine == "auto"
            else given.detection.engine,
            "n_threads": 1,
            "full_every": 1,
        }
    )
    mask_sha256 = ""
    if detection.mask is not None:
        copy, mask_sha256 = _copied(Path(detection.mask), out / "inputs")
        detection = detection.model_copy(update={"mask": str(copy)})
    control, calibration_sha256 = ControlSettings(), ""
    if given.control.calibration is not None:
        copy, calibration_sha256 = _copied(
            Path(given.control.calibration), out / "inputs"
        )
        control = control.model_copy(update={"calibration": str(copy)})
    holography, background_sha256 = given.holography, ""
    if holography is not None and holography.background_file is not None:
        copy, background_sha256 = _copied(
            Path(holography.background_file), out / "inputs"
        )
        holography = holography.model_copy(update={"background_file": str(copy)})
    settings = Settings(
        microscope=given.microscope,
        detection=detection,
        linking=given.linking,
        control=control,
        holography=holography,
        modulation=given.modulation,
    )
    return settings, {
        "model": model_sha256,
        "mask": mask_sha256,
        "calibration": calibration_sha256,
        "background": background_sha256,
        "pixel_size_um": given.microscope.pixel_size_um,
        "detection": detection.model_dump(mode="json", exclude={"model", "mask"}),
        "linking": given.linking.model_dump(mode="json"),
        "holography": holography
        and holography.model_dump(mode="json", exclude={"background_file"}),
        "modulation": given.modulation and given.modulation.model_dump(mode="json"),
        "version": version("lodestar-live"),
    }


def _copied(path: Path, folder: Path) -> tuple[Path, str]:
    """Copy a file under its own SHA-256, where workers read it."""
    content = path.read_bytes()
    digest = sha256_of(content)
    copy = folder / f"{digest[:16]}{path.suffix}"
    if not copy.exists():
        with write_atomically(copy) as part:
            part.write_bytes(content)
    return copy, digest


def _key(*facts: object) -> str:
    return sha256_of(json.dumps(facts, sort_keys=True, default=os.fspath).encode())
