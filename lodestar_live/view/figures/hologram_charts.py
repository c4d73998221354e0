"""Charts of a run with holograms: field, refocused planes, z, polarizability."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from lodestar_live.data import Flag, FloatArray, Rows
from lodestar_live.diffusion import mean_squared_displacement
from lodestar_live.holography import Optics, Propagator
from lodestar_live.holography.polarizability import average_um3
from lodestar_live.view.figures import run_data, style
from lodestar_live.view.figures.charts import match_truth
from lodestar_live.view.figures.run_data import RunSource
from lodestar_live.view.figures.run_files import KeptField

_TRACES = 12
_MSD_LAGS = 12
_SCALE_ERROR = 0.05  # of a network's scale channel where nothing else is known


def seen_rows(source: RunSource) -> Rows:
    """Return the track rows in which the particle was seen, not predicted."""
    tracks = source.tracks()
    return tracks[~(run_data.column(tracks, "missed_frames") > 0)]


def shown_particle(source: RunSource, kept: KeptField) -> Rows | None:
    """Return the row of the particle to refocus on: bright, and far from focus."""
    rows = seen_rows(source)
    rows = rows[(rows["frame"] == kept.frame) & np.isfinite(rows["z_um"])]
    if not len(rows):
        return None
    alpha = np.nan_to_num(run_data.column(rows, "polarizability_um3"), nan=1.0)
    bright = rows[alpha >= np.median(alpha)]
    chosen: Rows = bright[[int(np.argmax(np.abs(bright["z_um"])))]]
    return chosen


def draw_fields(
    axes: list[Axes], source: RunSource, kept: KeptField, *, centre: Rows | None
) -> None:
    """Draw amplitude and phase, as recorded and at the plane of one particle."""
    holography = source.info.settings["holography"]
    z_um = 0.0 if centre is None else float(centre["z_um"][0])
    optics = Optics(
        holography["wavelength_um"], kept.pixel_size_um,
        holography["n_medium"], holography["na"],
    )  # fmt: skip
    distance_um = (z_um - holography["z_offset_um"]) / holography["z_scale"]
    sharp = Propagator(kept.field.shape, optics)(kept.field, distance_um)
    planes = ((kept.field, "as recorded"), (sharp, f"refocused, z = {z_um:+.2f} µm"))
    views = [
        (part(field), f"{name} {where}", colours)
        for field, where in planes
        for part, name, colours in (
            (np.abs, "Amplitude", "gray"),
            (np.angle, "Phase", "RdBu_r"),
        )
    ]
    for axis, (values, title, colours) in zip(axes, views, strict=True):
        is_phase = colours != "gray"
        limits = _symmetric(values) if is_phase else style.contrast(values)
        image = axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
        axis.set(title=title, xlabel="x (px)", ylabel="y (px)")
        axis.grid(False)
        axis.figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)
        if centre is not None:
            at = (centre["x_px"], centre["y_px"])
            axis.scatter(*at, s=260, fc="none", ec=style.ACCENT, lw=1.4)


def draw_found(axes: Axes, source: RunSource, frame: int) -> None:
    """Circle and number what was found in one frame, with its z."""
    rows = seen_rows(source)
    for row in rows[rows["frame"] == frame]:
        axes.plot(row["x_px"], row["y_px"], "o", ms=9, mfc="none", mec="#7fe0ff")
        axes.annotate(
            f"{row['z_um']:+.1f}", (row["x_px"], row["y_px"]), xytext=(6, 5),
            textcoords="offset points", color="#7fe0ff", fontsize=7,
        )  # fmt: skip


def draw_z_traces(axes: Axes, source: RunSource, *, truth: Rows | None = None) -> None:
    """Draw z of the longest tracks over time, with the truth where it is known."""
    known = run_data.trajectories(source.tracks())
    longest = sorted(known, key=lambda i: -len(known[i]))[:_TRACES]
    axes.set_title(f"z of the {len(longest)} longest tracks")
    if not longest:
        style.say_nothing_here(axes, "No particle was seen in two frames.")
        return
    has_z = truth is not None and "z_um" in (truth.dtype.names or ())
    for n, track_id in enumerate(longest):
        rows = known[track_id]
        t_s = run_data.seconds_at(source, run_data.column(rows, "frame"))
        colour = style.SERIES[n % len(style.SERIES)]
        sigma = np.nan_to_num(run_data.column(rows, "sigma_z_um"))
        z_um = run_data.column(rows, "z_um")
        band = np.minimum(sigma, 1.0)
        axes.fill_between(t_s, z_um - band, z_um + band, color=colour, alpha=0.25)
        axes.plot(t_s, z_um, ".-", color=colour, ms=3, lw=0.8)
        if truth is not None and has_z:
            found = match_truth(rows, truth)
            true_um = np.where(found >= 0, truth["z_um"][found], np.nan)
            label = "truth" if n == 0 else None
            axes.plot(t_s, true_um, "-", color=style.INK, lw=0.6, label=label)
    if has_z:
        axes.legend(loc="upper right")
    axes.set(
        xlabel=f"time ({run_data.time_unit(source)})", ylabel="z (µm), band: 1 sigma"
    )
    axes.margins(x=0.01)


def track_polarizabilities(source: RunSource) -> FloatArray:
    """Return each track's averages, (n, 5): phase, sigma, scale, sigma, length.

    `average_um3` along the trajectory; tracks of `SHORT_FRAMES` and more.
    """
    rows = []
    for track in run_data.trajectories(source.tracks(), run_data.SHORT_FRAMES).values():
        phase = run_data.column(track, "polarizability_um3")
        sigma = run_data.column(track, "sigma_polarizability_um3")
        scale = run_data.column(track, "scale_polarizability_um3")
        by_phase = average_um3(phase, sigma)
        by_scale = average_um3(scale, _SCALE_ERROR * np.abs(scale))
        rows.append([*by_phase, *by_scale, len(track)])
    return np.array(rows).reshape(-1, 5)


def draw_polarizability(
    axes: Axes, source: RunSource, *, theory_um3: FloatArray | None = None
) -> None:
    """Draw the histogram of every position and of each track's average."""
    axes.set_title("Polarizability")
    alpha = run_data.column(seen_rows(source), "polarizability_um3")
    alpha = alpha[np.isfinite(alpha)]
    if not len(alpha):
        style.say_nothing_here(axes, "Polarizability: not measured (inline holograms).")
        return
    bins = np.linspace(0, 1.15 * np.percentile(alpha, 99.5), 61).tolist()
    axes.hist(alpha, bins, color=style.PURPLE, alpha=0.35, label="positions")
    twin = axes.twinx()
    average = track_polarizabilities(source)
    for column, name, colour in (
        (0, "tracks, integrated phase", style.BLUE),
        (2, "tracks, scale channel", style.GOLD),
    ):
        values = average[:, column][np.isfinite(average[:, column])]
        twin.hist(values, bins, histtype="step", color=colour, lw=1.8, label=name)
    twin.set_ylabel("tracks")
    twin.grid(False)
    for theory in () if theory_um3 is None else theory_um3:
        axes.axvline(theory, color=style.INK, lw=1, ls="--")
    (shown, names), (more, others) = (
        each.get_legend_handles_labels() for each in (axes, twin)
    )
    axes.legend(shown + more, names + others)
    axes.set(xlabel="polarizability (µm³); dashed: theory", ylabel="positions")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.35)


def draw_agreement(axes: Axes, source: RunSource) -> None:
    """Draw both polarizabilities of each track against each other, flags in red."""
    axes.set_title("Two polarizabilities of each track")
    average = track_polarizabilities(source)
    average = average[np.isfinite(average[:, [0, 2]]).all(axis=1)]
    if not len(average):
        style.say_nothing_here(axes, "No track has both polarizabilities.")
        return
    rows = seen_rows(source)
    flagged = (rows["flags"] & Flag.POLARIZABILITY_DISAGREES) > 0
    axes.plot(
        rows["polarizability_um3"], rows["scale_polarizability_um3"], ".", ms=2,
        color=style.MUTED, alpha=0.3,
    )  # fmt: skip
    axes.plot(
        rows["polarizability_um3"][flagged], rows["scale_polarizability_um3"][flagged],
        "x", ms=4, color=style.ACCENT,
        label=f"flagged: {flagged.sum()} of {len(rows)} positions",
    )  # fmt: skip
    axes.errorbar(
        average[:, 0], average[:, 2], average[:, 3], average[:, 1], "o", ms=5,
        color=style.BLUE, label="track averages",
    )  # fmt: skip
    top = 1.3 * float(np.nanmax(average[:, [0, 2]]))
    axes.plot([0, top], [0, top], color=style.INK, lw=0.8)
    axes.set(
        xlabel="integrated phase (µm³)", ylabel="scale channel (µm³)",
        xlim=(0, top), ylim=(0, top),
    )  # fmt: skip
    axes.legend(loc="upper left")


def draw_axis_msds(axes: Axes, source: RunSource) -> None:
    """Draw the mean squared displacement along z, y and x, and D of each."""
    axes.set_title("Diffusion along each axis")
    known = run_data.trajectories(source.tracks(), run_data.SHORT_FRAMES)
    if not known:
        style.say_nothing_here(
            axes, f"No track is {run_data.SHORT_FRAMES} frames long."
        )
        return
    scale, unit = run_data.length_unit(source)
    lag_s = np.arange(1, _MSD_LAGS + 1) * run_data.frame_interval_s(source)
    for name, factor, colour in (
        ("z_um", 1.0, style.GREEN),
        ("y_px", scale, style.BLUE),
        ("x_px", scale, style.GOLD),
    ):
        sums, pairs = np.zeros(_MSD_LAGS), np.zeros(_MSD_LAGS)
        for rows in known.values():
            place = factor * run_data.column(rows, name)[:, None]
            frame = run_data.column(rows, "frame")
            msd, n = mean_squared_displacement(frame, place, _MSD_LAGS)
            sums, pairs = sums + np.nan_to_num(msd) * n, pairs + n
        mean = sums / np.maximum(pairs, 1)
        slope = float(np.polyfit(lag_s[:4], mean[:4], 1)[0])
        label = f"{name[0]}: D = {slope / 2:.2f} {unit}²/s"
        axes.plot(lag_s, mean, "o-", ms=3, color=colour, label=label)
    axes.set(
        xlabel=f"lag ({run_data.time_unit(source)})",
        ylabel=f"MSD per axis ({unit}²)",
        ylim=(0, None),
    )
    axes.legend(loc="upper left")


def draw_errors_um(axes: Axes, source: RunSource, truth: Rows) -> None:
    """Draw the errors of z, y and x against the known truth, in µm."""
    axes.set_title("Error against the known truth")
    rows = seen_rows(source)
    rows = rows[(rows["flags"] & Flag.BORDER) == 0]
    found = match_truth(rows, truth)
    rows, true = rows[found >= 0], truth[found[found >= 0]]
    scale, _ = run_data.length_unit(source)
    errors = {
        name[0]: factor * (rows[name] - true[name])
        for name, factor in (("z_um", 1.0), ("y_px", scale), ("x_px", scale))
    }
    spread = [np.nanpercentile(np.abs(e), 95) if len(e) else 1 for e in errors.values()]
    bins = np.linspace(-1, 1, 61) * 2 * max(spread)
    for (name, error), colour in zip(
        errors.items(), (style.GREEN, style.BLUE, style.GOLD), strict=True
    ):
        rms = 1e3 * float(np.sqrt(np.nanmean(error**2))) if len(error) else np.nan
        axes.hist(
            error, bins.tolist(), histtype="stepfilled", color=colour, alpha=0.4,
            label=f"{name}: RMSE {rms:.0f} nm",
        )  # fmt: skip
    axes.set(xlabel="tracked - true (µm)", ylabel="positions")
    axes.legend(loc="upper right")


def _symmetric(values: FloatArray) -> tuple[float, float]:
    top = max(float(np.percentile(np.abs(values), 99.8)), 1e-3)
    return -top, top
