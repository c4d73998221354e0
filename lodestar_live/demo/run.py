"""The embedded demo: the whole mission on the real core, scored against the truth.

The real headless MMCore with the real DemoCamera runs a real pycro-manager
acquisition, with the camera's own beads, moving particles (`demo/particles.py`) or
off-axis holograms of spheres (`demo/holograms.py`) as its scene.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lodestar_live.demo.holograms import run_holograms
from lodestar_live.demo.particles import run_particles
from lodestar_live.demo.result import DemoResult
from lodestar_live.errors import SettingsError
from lodestar_live.live import LiveTracker
from lodestar_live.settings import TrainingSettings

SCENES = ("swimmers", "beads", "holograms")


def run_demo(
    *,
    frames: int = 500,
    out: Path = Path("demo"),
    seed: int = 0,
    scene: str = "swimmers",
    port: int = 5556,
    pick: bool = False,
    steps: int | None = None,
    say: Callable[[str], object] | None = None,
    on_start: Callable[[LiveTracker], None] = lambda tracker: None,
) -> DemoResult:
    """Train on one particle of the demo microscope, then track and follow live.

    Parameters
    ----------
    frames
        Frames to track.
    out
        The run's folder is made in here.
    seed
        Of the scene and of the training.
    scene
        ``swimmers``, ``beads`` or ``holograms`` (the last with the shipped model:
        training on a field takes minutes).
    port
        First of three ZeroMQ ports on 127.0.0.1; 0: any free ones.
    pick
        Let the user click the particle to learn, in the browser.
    steps
        Of the training; None: the network's default.
    say
        Told every step; None: silent.
    on_start
        Called with the tracker before the first frame.

    Raises
    ------
    SettingsError
        Unknown scene.
    LodestarError
        A port is in use, the folder cannot be written, the training failed.
    """
    _check_scene(scene, trains=pick or steps is not None)
    out.mkdir(parents=True, exist_ok=True)
    if scene == "holograms":
        return run_holograms(
            frames=frames,
            out=out,
            seed=seed,
            port=port,
            tell=say or (lambda text: None),
            on_start=on_start,
        )
    return run_particles(
        scene,
        frames=frames,
        out=out,
        port=port,
        training=TrainingSettings(seed=seed, pick=pick, steps=steps),
        say=say,
        on_start=on_start,
    )


def _check_scene(scene: str, *, trains: bool) -> None:
    if scene not in SCENES:
        raise SettingsError(f"scene = {scene!r}: unknown; expected one of {SCENES}.")
    if trains and scene == "holograms":
        raise SettingsError(
            "pick or steps with scene = 'holograms': it runs the shipped model and "
            "trains on nothing; expected scene swimmers or beads."
        )
