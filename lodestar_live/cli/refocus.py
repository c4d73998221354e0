"""``lodestar-live refocus``: field, planes and particles of a recorded hologram."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lodestar_live.errors import InputError

if TYPE_CHECKING:
    from lodestar_live.holography import Optics
    from lodestar_live.holography.propagation import ComplexImage
    from lodestar_live.settings import HolographySettings


Hologram = Annotated[
    Path, typer.Argument(help="Hologram (TIFF, PNG, .npy) or a field (.npy).")
]
Config = Annotated[
    Path | None, typer.Option(help="Settings with a holography section.")
]
Mode = Annotated[str, typer.Option(help="offaxis or inline.")]
Wavelength = Annotated[float | None, typer.Option(help="In vacuum.")]
PixelSize = Annotated[
    float | None, typer.Option(help="Camera pixel in the sample plane.")
]
Index = Annotated[float, typer.Option(help="Refractive index.")]
Aperture = Annotated[float, typer.Option(help="Numerical aperture.")]
Empty = Annotated[
    Path | None, typer.Option(help="Holograms of an empty region, averaged.")
]
Number = Annotated[int, typer.Option(min=0, help="Of a stack.")]
PlanesAt = Annotated[
    list[float] | None, typer.Option("--z", help="Plane, µm; may be repeated.")
]
Stack = Annotated[
    str | None, typer.Option(help="Planes LOW,HIGH,STEP in µm, e.g. -5,5,0.5.")
]
At = Annotated[
    list[str] | None,
    typer.Option(help="Y,X of a particle (field px): find its z; may be repeated."),
]
ZRange = Annotated[str, typer.Option(help="LOW,HIGH searched by --at.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help=".npy: complex; .tif: amplitude, phase."),
]
Picture = Annotated[Path | None, typer.Option(help="Amplitude and phase as a PNG.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("refocus")(refocus)


def refocus(
    hologram: Hologram,
    config: Config = None,
    mode: Mode = "offaxis",
    wavelength_um: Wavelength = None,
    pixel_size_um: PixelSize = None,
    n_medium: Index = 1.33,
    na: Aperture = 1.3,
    background: Empty = None,
    frame: Number = 0,
    z: PlanesAt = None,
    stack: Stack = None,
    at: At = None,
    z_range: ZRange = "",
    output: Output = None,
    picture: Picture = None,
    as_json: AsJson = False,
) -> None:
    """Retrieve the field of HOLOGRAM, refocus it, find the z of particles.

    Coordinates are those of the field, which is smaller than an off-axis hologram by
    the factor that is printed.
    """
    from lodestar_live.holography import Propagator

    settings = _settings(config, mode, wavelength_um, n_medium, na, background)
    field, optics, facts = _field(hologram, frame, settings, pixel_size_um)
    particles = _particles(field, optics, settings, at, z_range)
    planes_um = _planes(z, stack, particles)
    shown = Propagator(field.shape, optics).prepare(field).stack(planes_um)
    answer = {**facts, "particles": particles, "planes_um": planes_um}
    if output is not None:
        _save(output, shown, planes_um, optics)
        answer["output"] = str(output)
    if picture is not None:
        _draw(picture, shown, planes_um, optics)
        answer["picture"] = str(picture)
    typer.echo(json.dumps(answer) if as_json else _text(answer))


def _field(
    hologram: Path,
    frame: int,
    settings: HolographySettings,
    pixel_size_um: float | None,
) -> tuple[ComplexImage, Optics, dict[str, Any]]:
    """Return the field, its optics and what to tell about it."""
    import numpy as np

    from lodestar_live.holography.prepare import make_retrieval, read_holograms
    from lodestar_live.holography.propagation import safe_distance_um

    pixels = read_holograms(hologram)
    if frame >= len(pixels):
        raise InputError(f"--frame {frame}: {hologram} holds {len(pixels)} images.")
    image = pixels[frame]
    pixel = pixel_size_um or settings.pixel_size_um or float("nan")
    facts: dict[str, Any] = {"hologram": str(hologram), "frame": frame}
    if np.iscomplexobj(image):
        field, optics = image.astype(np.complex64), _optics(settings, pixel)
    else:
        retrieval = make_retrieval(settings, image.shape, pixel_size_um=pixel)
        field, optics = retrieval(image), retrieval.optics
        facts["factor"] = retrieval.factor
        facts["carrier"] = getattr(retrieval, "carrier", None)
    facts["shape"], facts["pixel_size_um"] = list(field.shape), optics.pixel_size_um
    facts["safe_distance_um"] = safe_distance_um(min(field.shape), optics)
    return field, optics, facts


def _settings(
    config: Path | None,
    mode: str,
    wavelength_um: float | None,
    n_medium: float,
    na: float,
    background: Path | None,
) -> HolographySettings:
    from lodestar_live.resources import find
    from lodestar_live.settings import load_settings, parse_settings

    if config is not None:
        found = load_settings(find("config", str(config))).holography
        if found is None:
            raise InputError(f"{config}: no holography section.")
    else:
        if wavelength_um is None:
            raise InputError("--wavelength-um or --config is needed to refocus.")
        section: dict[str, Any] = {
            "mode": mode,
            "wavelength_um": wavelength_um,
            "n_medium": n_medium,
            "na": na,
        }
        if mode == "inline":
            section["z_range_um"] = (0.0, 100.0)
        found = parse_settings({"holography": section}, source="options").holography
        assert found is not None  # noqa: S101 - the section was just given
    if background is not None:
        found = found.model_copy(update={"background_file": str(background)})
    return found


def _optics(settings: HolographySettings, pixel_size_um: float) -> Optics:
    from lodestar_live.holography import Optics

    return Optics(settings.wavelength_um, pixel_size_um, settings.n_medium, settings.na)


def _particles(
    field: ComplexImage,
    optics: Optics,
    settings: HolographySettings,
    at: list[str] | None,
    z_range: str,
) -> list[dict[str, float | bool]]:
    import numpy as np

    from lodestar_live.holography import autofocus
    from lodestar_live.holography.inline import check_one_sided
    from lodestar_live.holography.polarizability import polarizability_um3
    from lodestar_live.holography.radial import RadialWaves

    if not at:
        return []
    low, high = _numbers(z_range, 2, "--z-range") if z_range else settings.z_range_um
    if settings.mode == "inline":
        check_one_sided((low, high))
    positions = [_numbers(text, 2, "--at") for text in at]
    focus = autofocus(field, positions, optics, z_range_um=(low, high))
    alpha = np.full(len(positions), np.nan)
    if settings.mode == "offaxis":
        waves = RadialWaves(optics, (low, high))
        alpha, _ = polarizability_um3(
            waves, waves.spectra(field, positions), focus.z_um
        )
    return [
        {
            "y_px": y,
            "x_px": x,
            "z_um": float(z_um),
            "at_edge": bool(edge),
            **({"polarizability_um3": float(a)} if np.isfinite(a) else {}),
        }
        for (y, x), z_um, edge, a in zip(
            positions, focus.z_um, focus.at_edge, alpha, strict=True
        )
    ]


def _planes(
    z: list[float] | None, stack: str | None, particles: list[dict[str, float | bool]]
) -> list[float]:
    """Return the planes asked for; else those of the particles; else the recorded."""
    import numpy as np

    planes = list(z or [])
    if stack is not None:
        low, high, step = _numbers(stack, 3, "--stack")
        if step <= 0 or high < low:
            raise InputError(f"--stack {stack}: expected LOW <= HIGH and STEP > 0.")
        planes += [float(v) for v in np.arange(low, high + step / 2, step)]
    return planes or [float(p["z_um"]) for p in particles] or [0.0]


def _numbers(text: str, n: int, option: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != n:
        raise InputError(f"{option} {text}: expected {n} numbers, comma between.")
    return values


def _save(
    path: Path, planes: ComplexImage, planes_um: list[float], optics: Optics
) -> None:
    import numpy as np
    import tifffile

    if path.suffix == ".npy":
        np.save(path, planes)
    elif path.suffix in (".tif", ".tiff"):
        channels = np.stack([np.abs(planes), np.angle(planes)], axis=1)
        tifffile.imwrite(
            path,
            channels.astype(np.float32),
            imagej=True,
            resolution=(1 / optics.pixel_size_um, 1 / optics.pixel_size_um),
            metadata={
                "axes": "ZCYX",
                "unit": "um",
                "Labels": [f"z {z:g} um" for z in planes_um for _ in range(2)],
            },
        )
    else:
        raise InputError(f"{path}: expected a name ending in .npy or .tif.")


def _draw(
    path: Path, planes: ComplexImage, planes_um: list[float], optics: Optics
) -> None:
    """Draw amplitude above phase for up to six planes."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(planes) - 1, min(6, len(planes))).astype(int))
    figure = Figure(figsize=(1 + 3 * len(chosen), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(chosen), squeeze=False)
    height, width = planes.shape[1:]
    extent = (0.0, width * optics.pixel_size_um, height * optics.pixel_size_um, 0.0)
    kinds = (
        (np.abs(planes[chosen]), "amplitude", "gray"),
        (np.angle(planes[chosen]), "phase (rad)", "RdBu_r"),
    )
    for row, (values, name, colours) in zip(axes, kinds, strict=True):
        low, high = np.percentile(values, [0.2, 99.8])
        for axis, value, index in zip(row, values, chosen, strict=True):
            image = axis.imshow(value, cmap=colours, vmin=low, vmax=high, extent=extent)
            axis.set_title(f"{name}, z = {planes_um[index]:.2f} µm", fontsize=9)
            axis.set_xlabel("x (µm)")
        row[0].set_ylabel("y (µm)")
        figure.colorbar(image, ax=list(row), shrink=0.8)
    figure.savefig(path, dpi=110)


def _text(answer: dict[str, Any]) -> str:
    height, width = answer["shape"]
    lines = [f"field {height} x {width} px, {answer['pixel_size_um']:.4g} µm per px"]
    if answer.get("factor"):
        lines[0] += f"; 1 field px = {answer['factor']} camera px"
    if answer.get("carrier"):
        fy, fx = answer["carrier"]
        lines.append(f"carrier ({fy:.4f}, {fx:.4f}) cycles per px")
    for particle in answer["particles"]:
        text = "particle at ({y_px:g}, {x_px:g}): z = {z_um:.3f} µm".format(**particle)
        if "polarizability_um3" in particle:
            text += f", polarizability {particle['polarizability_um3']:.4g} µm³"
        lines.append(text + (" (end of the range!)" if particle["at_edge"] else ""))
    farthest_um = max(abs(float(z_um)) for z_um in answer["planes_um"])
    safe_um = answer["safe_distance_um"]
    if farthest_um > safe_um:
        lines.append(
            f"note: at {farthest_um:.1f} µm steep rays have left a window this small; "
            f"beyond {safe_um:.1f} µm planes lose resolution and contrast."
        )
    lines += [answer[key] for key in ("output", "picture") if key in answer]
    return "\n".join(lines)
