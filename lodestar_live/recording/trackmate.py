"""TrackMate's XML: spots, links and the image they lie on.

What must be in the file, and in which form, follows TrackMate's reader
(`TmXmlReader.java` of trackmate-sc/TrackMate, read at b0d922a, 2026-03): every element
it looks up is written, every feature is declared, numbers are finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from lodestar_live.recording.trajectories import Trajectories

_VERSION = "7.14.0"  # the reader refuses files below 2.1.0
_RADIUS_PX = 5.0  # of the circles drawn; changed at will in TrackMate


class _Feature(NamedTuple):
    key: str
    name: str
    dimension: str
    is_int: bool = False


_SPOT_FEATURES = (
    _Feature("QUALITY", "Quality", "QUALITY"),
    _Feature("POSITION_X", "X", "POSITION"),
    _Feature("POSITION_Y", "Y", "POSITION"),
    _Feature("POSITION_Z", "Z", "POSITION"),
    _Feature("POSITION_T", "T", "TIME"),
    _Feature("FRAME", "Frame", "NONE", True),
    _Feature("RADIUS", "Radius", "LENGTH"),
    _Feature("VISIBILITY", "Visibility", "NONE", True),
)
_EDGE_FEATURES = (
    _Feature("SPOT_SOURCE_ID", "Source spot ID", "NONE", True),
    _Feature("SPOT_TARGET_ID", "Target spot ID", "NONE", True),
    _Feature("LINK_COST", "Edge cost", "COST"),
)
_TRACK_FEATURES = (
    _Feature("TRACK_ID", "Track ID", "NONE", True),
    _Feature("NUMBER_SPOTS", "Number of spots in track", "NONE", True),
)
_OWN_FEATURES = {  # ours -> how TrackMate shall show it
    "sigma_px": _Feature("SIGMA_PX", "1-sigma uncertainty (px)", "NONE"),
    "polarizability_um3": _Feature("POLARIZABILITY_UM3", "Polarizability", "NONE"),
    "intensity": _Feature("PEAK_CONTRAST", "Peak contrast", "INTENSITY"),
    "y_px": _Feature("CAMERA_Y_PX", "Y in the camera image (px)", "NONE"),
    "x_px": _Feature("CAMERA_X_PX", "X in the camera image (px)", "NONE"),
}


def write_trackmate(runs: Trajectories, path: Path) -> None:
    """Write a TrackMate file; positions are relative to the first frame's first pixel.

    TrackMate draws on images in µm from pixel [0, 0], so that is the origin here; where
    the stage moved, spots follow the sample and not the images.
    """
    root = Element("TrackMate", version=_VERSION)
    SubElement(root, "Log").text = f"Exported by lodestar-live from run {runs.info.run}"
    model = SubElement(
        root,
        "Model",
        spatialunits="µm" if runs.length_unit == "um" else "pixel",
        timeunits="sec" if runs.time_unit == "s" else "frame",
    )
    own = _measured_features(runs)
    _declare_features(model, own)
    _write_spots(model, runs, own)
    _write_tracks(model, runs)
    _write_settings(root, runs, path)
    SubElement(root, "GUIState", state="ConfigureViews")
    SubElement(root, "DisplaySettings")  # empty: the user's own are taken
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)


def _measured_features(runs: Trajectories) -> dict[str, _Feature]:
    return {
        name: feature
        for name, feature in _OWN_FEATURES.items()
        if np.isfinite(runs.rows[name]).any()
    }


def _declare_features(model: Element, own: dict[str, _Feature]) -> None:
    declared = SubElement(model, "FeatureDeclarations")
    groups = {
        "SpotFeatures": (*_SPOT_FEATURES, *own.values()),
        "EdgeFeatures": _EDGE_FEATURES,
        "TrackFeatures": _TRACK_FEATURES,
    }
    for group, features in groups.items():
        element = SubElement(declared, group)
        for feature in features:
            SubElement(
                element, "Feature", feature=feature.key, name=feature.name,
                shortname=feature.name, dimension=feature.dimension,
                isint=str(feature.is_int).lower(),
            )  # fmt: skip


def _write_spots(model: Element, runs: Trajectories, own: dict[str, _Feature]) -> None:
    rows = runs.rows
    everything = SubElement(model, "AllSpots", nspots=str(len(rows)))
    place = runs.positions - (runs.origin_um if runs.length_unit == "um" else 0.0)
    radius = _RADIUS_PX * (runs.pixel_size_um if runs.length_unit == "um" else 1.0)
    values = {
        "QUALITY": rows["score"],
        "POSITION_X": place[:, 1],
        "POSITION_Y": place[:, 0],
        "POSITION_Z": np.nan_to_num(rows["z_um"]),
        "POSITION_T": runs.times,
        "RADIUS": np.full(len(rows), radius),
        **{feature.key: rows[name] for name, feature in own.items()},
    }
    order = np.argsort(runs.frame_numbers, kind="stable")
    for frame, members in _by_frame(runs.frame_numbers, order):
        element = SubElement(everything, "SpotsInFrame", frame=str(frame))
        for spot in members:
            known: dict[str, str] = {
                key: repr(float(column[spot]))
                for key, column in values.items()
                if np.isfinite(column[spot])
            }
            fixed = {"ID": str(spot), "name": f"ID{spot}", "VISIBILITY": "1"}
            SubElement(element, "Spot", {**fixed, "FRAME": str(frame), **known})


def _by_frame(frames: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    if not len(order):
        return
    sorted_frames = frames[order]
    starts = [0, *(np.flatnonzero(np.diff(sorted_frames)) + 1), len(order)]
    for first, last in pairwise(starts):
        yield int(sorted_frames[first]), order[first:last].tolist()


def _write_tracks(model: Element, runs: Trajectories) -> None:
    """Write links between spots; a track of one spot has none and is left out."""
    everything = SubElement(model, "AllTracks")
    shown = SubElement(model, "FilteredTracks")
    ids, starts, lengths = np.unique(
        runs.rows["track_id"], return_index=True, return_counts=True
    )
    for track_id, first, n in zip(
        ids.tolist(), starts.tolist(), lengths.tolist(), strict=True
    ):
        if n < 2:
            continue
        element = SubElement(
            everything, "Track", name=f"Track_{track_id}", TRACK_ID=str(track_id),
            NUMBER_SPOTS=str(n),
        )  # fmt: skip
        for source, target in pairwise(range(first, first + n)):
            SubElement(
                element, "Edge", SPOT_SOURCE_ID=str(source),
                SPOT_TARGET_ID=str(target), LINK_COST="0.0",
            )  # fmt: skip
        SubElement(shown, "TrackID", TRACK_ID=str(track_id))


def _write_settings(root: Element, runs: Trajectories, path: Path) -> None:
    """Write the image, its calibration, and the empty settings the reader wants."""
    settings = SubElement(root, "Settings")
    height, width = runs.shape_px
    scale = runs.pixel_size_um if runs.length_unit == "um" else 1.0
    interval = runs.interval_s if runs.time_unit == "s" else 1.0
    movie = None if runs.movie is None else runs.movie.resolve()
    SubElement(
        settings, "ImageData",
        filename="" if movie is None else movie.name,
        folder="" if movie is None else f"{movie.parent}/",
        width=str(width), height=str(height), nslices="1",
        nframes=str(runs.n_frames), pixelwidth=repr(scale), pixelheight=repr(scale),
        voxeldepth="1.0", timeinterval=repr(interval),
    )  # fmt: skip
    SubElement(
        settings, "BasicSettings", xstart="0", xend=str(max(width - 1, 0)), ystart="0",
        yend=str(max(height - 1, 0)), zstart="0", zend="0", tstart="0",
        tend=str(max(runs.n_frames - 1, 0)),
    )  # fmt: skip
    SubElement(
        settings, "DetectorSettings", DETECTOR_NAME="MANUAL_DETECTOR",
        RADIUS=repr(_RADIUS_PX * scale),
    )  # fmt: skip
    SubElement(settings, "TrackerSettings", TRACKER_NAME="MANUAL_TRACKER")
    SubElement(
        settings, "InitialSpotFilter", feature="QUALITY", value="-1.0E308",
        isabove="true",
    )  # fmt: skip
    SubElement(settings, "SpotFilterCollection")
    SubElement(settings, "TrackFilterCollection")
    analyzers = SubElement(settings, "AnalyzerCollection")
    for group in ("SpotAnalyzers", "EdgeAnalyzers", "TrackAnalyzers"):
        SubElement(analyzers, group)
