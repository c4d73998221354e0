"""napari: live points and tails of a running tracker, and a reader of recorded runs.

Installed with ``pip install lodestar-live[napari]``; napari finds it by `napari.yaml`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from lodestar_live.data import FloatArray
from lodestar_live.errors import LodestarError
from lodestar_live.recording import Recording
from lodestar_live.recording.trajectories import Trajectories, read_trajectories
from lodestar_live.streams import Message, Subscriber
from lodestar_live.view.figures.run_data import column
from lodestar_live.view.figures.run_files import snapshot_of

LayerData = tuple[Any, dict[str, Any], str]

TAIL_FRAMES = 30
_PERIOD_MS = 100  # at most 10 updates a second: napari's own cost is the limit
_FEATURES = (
    "z_um",
    "angle_deg",
    "polarizability_um3",
    "score",
    "sigma_px",
    "intensity",
)


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """Return the reader of a run's folder or run.sqlite, None for anything else."""
    if isinstance(path, list):
        return None
    run = Path(path)
    file = run / "run.sqlite" if run.is_dir() else run
    return read_run if file.is_file() and file.suffix == ".sqlite" else None


def read_run(path: str) -> list[LayerData]:
    """Return the layers of a recorded run: snapshot, if there is one, and tracks.

    Axes are (frame, y, x); positions are in µm of the sample, stage taken out, and the
    snapshot lies where it was taken. Without a pixel size both are in pixels. What else
    was measured is a feature.
    """
    with Recording(path) as recording:
        runs = read_trajectories(recording, min_frames=2)
    name = str(runs.info.settings.get("name", "run"))
    layers: list[LayerData] = []
    snapshot = snapshot_of(path)
    if snapshot is not None:
        options = {"name": f"{name}: snapshot", "affine": _affine(runs)}
        layers.append((snapshot, options, "image"))
    if len(runs.rows):
        place = runs.rows["track_id"], runs.frame_numbers
        data = np.column_stack([*place, runs.positions])
        features = {f: column(runs.rows, f) for f in _FEATURES}
        options = {
            "name": f"{name}: tracks ({runs.length_unit.replace('um', 'µm')})",
            "features": features,
        }
        layers.append((data, options, "tracks"))
    return layers


def _affine(runs: Trajectories) -> FloatArray:
    """Return (3, 3): from pixels of the first frame to where they are in the sample."""
    affine = np.eye(3)
    if runs.map_um is not None:
        affine[:2, :2], affine[:2, 2] = runs.map_um.matrix_um_per_px, runs.origin_um
    return affine


class LiveLayers:
    """Camera image, points and short tails of a running tracker, in one viewer.

    Parameters
    ----------
    viewer
        A napari viewer.
    stream
        Address of the publisher's `stream`.
    """

    def __init__(self, viewer: Any, stream: str) -> None:
        self._viewer = viewer
        self._lock = threading.Lock()
        self._tails: deque[FloatArray] = deque(maxlen=TAIL_FRAMES)  # (n, 3): id, y, x
        self._newest: Message | None = None
        self._image: Message | None = None
        self._run = ""
        self._layers: dict[str, Any] = {}
        self.n_updates = 0
        self._next_s = 0.0
        self._subscriber = Subscriber(stream, ("tracks", "image"))
        self._subscriber.call(self._take)

    def close(self) -> None:
        """Stop listening; the layers stay as they are."""
        self._subscriber.close()

    def _take(self, message: Message) -> None:
        """Keep the newest state; on the subscriber's thread."""
        with self._lock:
            if message.header.get("run") != self._run:
                self._run = str(message.header.get("run"))
                self._tails.clear()
            if message.tracks is not None:
                rows = message.tracks.rows
                self._newest = message
                self._tails.append(
                    np.column_stack([rows[c] for c in ("track_id", "y_px", "x_px")])
                )
            elif message.topic == "image":
                self._image = message

    def refresh(self) -> None:
        """Show the newest state; on napari's thread, as often as it can bear.

        Setting a layer's data costs napari milliseconds to tenths of a second,
        depending on how many tracks there are: half of the time is left to the user.
        """
        started_s = time.monotonic()
        with self._lock:
            newest, self._newest = self._newest, None
            image, self._image = self._image, None
            tails = list(self._tails)
        if newest is None or started_s < self._next_s:
            with self._lock:
                self._newest, self._image = self._newest or newest, self._image or image
            return
        if image is not None:
            self._show_image(image)
        self._show_points(newest)
        self._show_tails(tails)
        self.n_updates += 1
        self._next_s = 2 * time.monotonic() - started_s

    def _show_image(self, message: Message) -> None:
        pixels = imageio.imread(message.image or b"", extension=".jpg")
        factor = round(max(message.header["shape_px"]) / max(pixels.shape))
        if "image" not in self._layers:
            # the centre of the first block of pixels lies half a block in
            self._layers["image"] = self._viewer.add_image(
                pixels, name="live: camera", colormap="gray",
                scale=(factor, factor), translate=((factor - 1) / 2,) * 2,
            )  # fmt: skip
        else:
            self._layers["image"].data = pixels

    def _show_points(self, message: Message) -> None:
        tracks = message.tracks
        if tracks is None:
            return
        features = {f: tracks.rows[f] for f in ("track_id", *_FEATURES)}
        if "points" not in self._layers:
            self._layers["points"] = self._viewer.add_points(
                tracks.positions_px, features=features, name="live: particles",
                face_color="transparent", border_color="#ff7a4d", size=12,
            )  # fmt: skip
            return
        layer = self._layers["points"]
        with layer.events.data.blocker():
            layer.data = tracks.positions_px
        layer.features = features

    def _show_tails(self, tails: list[FloatArray]) -> None:
        """Time runs from 0 to the tail's length, so that the slider never moves."""
        first = TAIL_FRAMES - len(tails)
        parts = [
            np.insert(rows, 1, float(first + i), axis=1) for i, rows in enumerate(tails)
        ]
        data = np.concatenate(parts) if parts else np.empty((0, 4))
        if not len(data):
            return
        if "tails" not in self._layers:
            self._layers["tails"] = self._viewer.add_tracks(
                data, name="live: tails", tail_length=TAIL_FRAMES
            )
        else:
            self._layers["tails"].data = data
        self._viewer.dims.set_point(0, TAIL_FRAMES - 1)


class LiveWidget(QWidget):  # type: ignore[misc]
    """Connect the viewer to a running tracker."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.layers: LiveLayers | None = None
        self._address = QLineEdit("tcp://127.0.0.1:5556")
        self._button = QPushButton("Connect")
        self._button.clicked.connect(self.toggle)
        self._text = QLabel("")
        layout = QVBoxLayout(self)
        for part in (QLabel("Stream"), self._address, self._button, self._text):
            layout.addWidget(part)
        layout.addStretch()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._refresh)

    def toggle(self) -> None:
        """Connect, or disconnect."""
        if self.layers is not None:
            self.disconnect_stream()
            return
        try:
            self.layers = LiveLayers(self._viewer, self._address.text().strip())
        except LodestarError as error:
            self._text.setText(str(error))
            return
        self._button.setText("Disconnect")
        self._text.setText("waiting for frames…")
        self._timer.start(_PERIOD_MS)

    def disconnect_stream(self) -> None:
        """Stop listening; the layers stay."""
        self._timer.stop()
        if self.layers is not None:
            self.layers.close()
        self.layers = None
        self._button.setText("Connect")
        self._text.setText("")

    def closeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Disconnect when the panel is closed."""
        self.disconnect_stream()
        super().closeEvent(event)

    def _refresh(self) -> None:
        if self.layers is not None:
            self.layers.refresh()
            if self.layers.n_updates:
                self._text.setText(f"{self.layers.n_updates} updates")
