"""A tracker to look at: a real Publisher fed with simulated updates on a thread."""

from __future__ import annotations

import threading
import time

import numpy as np

from lodestar_live.data import (
    SUMMARY_DTYPE,
    TRACK_DTYPE,
    Counts,
    Detections,
    Event,
    Frame,
    RunInfo,
    StagePosition,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.streams import Publisher


class LiveSource:
    """Publish a drifting swarm until closed; the image shows the very particles."""

    angle_deg = np.nan  # of all particles

    def __init__(
        self, *, n_tracks=200, size_px=512, fps=50.0, control=None, port=0, **keys
    ):
        self.commands = []
        verbs = ("follow", "release", "recenter", "retrain", "stop")
        self.publisher = Publisher(
            f"tcp://127.0.0.1:{port}",
            None,
            control="tcp://127.0.0.1:0" if control else None,
            commands={v: self._handler(v) for v in verbs} if control else {},
            target_id=lambda: self.target,
            **keys,
        )
        self.stream = self.publisher.endpoints["stream"]
        self.control = self.publisher.endpoints.get("control")
        self.target, self._fps = 3, fps
        draw = np.random.default_rng(1)
        self._at = draw.uniform(15, size_px - 15, (n_tracks, 2))
        self._speed = draw.normal(0, 0.4, (n_tracks, 2))
        self._z = draw.uniform(-5, 5, n_tracks)
        self._size_px = size_px
        self._noise = draw.poisson(200, (size_px, size_px)).astype(np.uint16)
        g = np.arange(-5, 6)
        self._spot = (900 * np.exp(-(g[:, None] ** 2 + g**2) / 8)).astype(np.uint16)
        self._stopping = threading.Event()
        settings = {
            "name": "swarm",
            "streams": {"control": self.control},
            "control": {"limits": {"y_um": [-20, 20], "x_um": [-30, 30], "z_um": None}},
        }
        self.run = RunInfo(
            "feedbeef0123", "2026-11-22T19:00:00Z", settings, pixel_size_um=0.1
        )
        self.publisher.open(self.run)
        self.n_frames = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _handler(self, verb):
        def handle(args):
            self.commands.append((verb, dict(args)))
            if verb == "follow":
                self.target = args["track_id"]
            return {}

        return handle

    def update(self, index):
        self._at += self._speed
        edge = (self._at < 10) | (self._at > self._size_px - 10)
        self._speed[edge] *= -1
        rows = blank_rows(TRACK_DTYPE, len(self._at))
        rows["y_px"], rows["x_px"] = self._at.T
        rows["z_um"], rows["sigma_px"], rows["score"] = self._z, 0.05, 0.9
        rows["angle_deg"], rows["sigma_angle_deg"] = self.angle_deg, 0.5
        rows["track_id"] = np.arange(1, len(rows) + 1)
        rows["vy_px_per_frame"], rows["vx_px_per_frame"] = self._speed.T
        rows["age_frames"] = index + 1
        rows["missed_frames"] = np.arange(len(rows)) % 40 == 39
        pixels = self._noise.copy()
        for y, x in self._at.round().astype(int):
            pixels[y - 5 : y + 6, x - 5 : x + 6] += self._spot
        t_s = index / self._fps
        frame = Frame(index, pixels, t_s, t_s, StagePosition(0, 5 * np.sin(t_s), 0))
        return Update(
            frame,
            Detections.from_positions(self._at[rows["missed_frames"] == 0]),
            Tracks(rows),
            (Event("track.birth", t_s, index, {"track_ids": [7]}),)
            if index % 50 == 0
            else (),
            {"detect": 8.0, "link": 0.5, "latency": 12.0 + 3 * np.sin(index / 40)},
            Counts(
                received=index + 1 + index // 60,
                processed=index + 1,
                dropped=index // 60,
            ),
            summary=self._summary() if index % 25 == 0 else None,
        )

    def _summary(self):
        rows = blank_rows(SUMMARY_DTYPE, len(self._at))
        rows["track_id"] = np.arange(1, len(rows) + 1)
        rows["interval_s"] = 0.02
        rows["d_px2_per_frame"] = rows["track_id"]
        rows["sigma_d_px2_per_frame"] = 0.5
        rows["alpha"], rows["sigma_alpha"] = 1.1, 0.2
        rows["state"], rows["p_state"] = 1, 0.97
        return rows

    def _run(self):
        start_s = time.perf_counter()
        while not self._stopping.is_set():
            self.publisher.write(self.update(self.n_frames))
            self.n_frames += 1
            ahead_s = start_s + self.n_frames / self._fps - time.perf_counter()
            self._stopping.wait(max(0.0, ahead_s))

    def stop_frames(self):
        self._stopping.set()
        self._thread.join()

    def close(self):
        self.stop_frames()
        self.publisher.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
