"""Micro-Manager's window: Live, Snap and MDA, and the objects that show their images.

Only what `org.micromanager.Studio` documents: `live()`, `displays()`, `acquisitions()`,
data viewers with their data providers, images with coordinates and metadata.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any

import numpy as np

from tests.microscope.stand_in.bridge import JavaError, JavaObject, method
from tests.microscope.stand_in.core import Core

_DOUBLE, _INTEGER = "java.lang.Double", "java.lang.Integer"
_TEXT, _OBJECT = "java.lang.String", "java.lang.Object"
_PROVIDER = "org.micromanager.data.DataProvider"


class Store:
    """A data store with its viewer; `kind` is what the user did to get it."""

    def __init__(self, kind: str, channels: list[str]) -> None:
        self.kind, self.channels = kind, channels
        self.images: list[tuple[np.ndarray, dict[str, Any]]] = []
        self.is_frozen = False


class Gui:
    """What a user does in front of the window; images come as they do there."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.stores: list[Store] = []
        self.is_live, self.is_mda = threading.Event(), threading.Event()
        self.loses_the_next_image = False
        self.acquisitions: list[Any] = []
        self.mda_log: list[float] = []

    def set_live(self, is_on: bool) -> None:
        if is_on:
            if not self.core.mmc.isSequenceRunning():
                self.core.mmc.startContinuousSequenceAcquisition(0)
            self.is_live.set()
        elif self.is_live.is_set():
            self.core.mmc.stopSequenceAcquisition()
            self.is_live.clear()

    def snap(self) -> None:
        self.core.mmc.snapImage()
        store = next((s for s in self.stores if s.kind == "snap"), None)
        if store is None:
            store = Store("snap", ["Default"])
            self.stores.append(store)
        self._add(store, {"t": 0, "c": 0, "z": 0, "p": 0}, "", 0.0)
        store.images = store.images[-1:]  # the Snap/Live window holds the newest

    def mda(self, *, channels: int, positions: int, slices: int, times: int) -> None:
        """Acquire in the background, position by position, as the MDA window does."""
        self.is_mda.set()
        names = ["Cy5", "DAPI"][:channels]
        store = Store("mda", names)
        self.stores.append(store)
        threading.Thread(
            target=self._acquire, args=(store, positions, slices, times), daemon=True
        ).start()

    def _acquire(self, store: Store, positions: int, slices: int, times: int) -> None:
        mmc, start_s = self.core.mmc, time.time()
        for t in range(times):
            for p in range(positions):
                mmc.setXYPosition(10.0 * p, -5.0 * p)
                mmc.waitForDevice(mmc.getXYStageDevice())
                for c, name in enumerate(store.channels):
                    mmc.setConfig("Channel", name)
                    mmc.waitForConfig("Channel", name)
                    for z in range(slices):
                        mmc.setPosition(float(z))
                        mmc.waitForDevice(mmc.getFocusDevice())  # as the engine does
                        mmc.snapImage()
                        elapsed_ms = (time.time() - start_s) * 1e3
                        coords = {"t": t, "c": c, "z": z, "p": p}
                        self._add(store, coords, f"Pos{p}", elapsed_ms)
                        self.mda_log.append(time.perf_counter())
        store.is_frozen = True
        self.is_mda.clear()

    def _add(self, store, coords, position: str, elapsed_ms: float) -> None:
        pixels, tags = self.core.snapped()
        mmc = self.core.mmc
        tags |= {
            "coords": coords, "position": position, "elapsed_ms": elapsed_ms,
            "x_um": mmc.getXPosition(), "y_um": mmc.getYPosition(),
            "z_um": mmc.getPosition(), "exposure_ms": mmc.getExposure(),
            "camera": mmc.getCameraDevice(), "received": f"{datetime.now()} +0000",
        }  # fmt: skip
        store.images.append((np.array(pixels), tags))

    # --- what the bridge sees -------------------------------------------------

    def as_java(self) -> JavaObject:
        live = JavaObject(
            "org.micromanager.internal.SnapLiveManager",
            [
                method("isLiveModeOn", self.is_live.is_set, returns="boolean"),
                method("setLiveModeOn", self.set_live, "boolean"),
            ],
        )
        acquisitions = JavaObject(
            "org.micromanager.acquisition.internal.DefaultAcquisitionManager",
            [method("isAcquisitionRunning", self.is_mda.is_set, returns="boolean")],
        )
        displays = JavaObject(
            "org.micromanager.display.internal.DefaultDisplayManager",
            [method("getActiveDataViewer", self._viewer, returns=_OBJECT)],
        )
        return JavaObject(
            "org.micromanager.internal.MMStudio",
            [
                method("live", lambda: live, returns=_OBJECT),
                method("acquisitions", lambda: acquisitions, returns=_OBJECT),
                method("displays", lambda: displays, returns=_OBJECT),
                method("core", self.core.as_java, returns="mmcorej.CMMCore"),
            ],
            interfaces=("org.micromanager.Studio",),
        )

    def _viewer(self) -> JavaObject | None:
        if not self.stores:
            return None
        store = self.stores[-1]
        return JavaObject(
            "org.micromanager.display.internal.displaywindow.DisplayController",
            [
                method("getDataProvider", lambda: provider(store), returns=_PROVIDER),
                method("getName", lambda: store.kind, returns=_TEXT),
            ],
        )


def provider(store: Store) -> JavaObject:
    def find(wanted: JavaObject) -> JavaObject | None:
        for pixels, tags in list(store.images):
            if tags["coords"] == wanted.target:
                return image(pixels, tags)
        return None

    def newest() -> dict[str, int]:
        if not store.images:
            raise JavaError("the data provider has no image")
        return {
            key: max(tags["coords"][key] for _, tags in store.images) for key in "tczp"
        }

    summary = JavaObject(
        "org.micromanager.data.internal.DefaultSummaryMetadata",
        [
            method(
                "getSafeChannelName",
                lambda c: store.channels[c],
                "int",
                returns=_TEXT,
            )
        ],
    )
    return JavaObject(
        "org.micromanager.data.internal.DefaultDatastore",
        [
            method("getNumImages", lambda: len(store.images), returns="int"),
            method("getName", lambda: store.kind, returns=_TEXT),
            method("isFrozen", lambda: store.is_frozen, returns="boolean"),
            method("getMaxIndices", lambda: coords(newest()), returns=_OBJECT),
            method(
                "getAnyImage",
                lambda: image(*store.images[-1]),
                returns=_OBJECT,
            ),
            method(
                "getImage",
                find,
                "org.micromanager.data.Coords",
                returns=_OBJECT,
            ),
            method("getSummaryMetadata", lambda: summary, returns=_OBJECT),
        ],
        interfaces=(_PROVIDER,),
    )


def coords(values: dict[str, int]) -> JavaObject:
    def builder() -> JavaObject:
        return _coords_builder(dict(values))

    return JavaObject(
        "org.micromanager.data.internal.DefaultCoords",
        [
            method("getT", lambda: values.get("t", 0), returns="int"),
            method("getC", lambda: values.get("c", 0), returns="int"),
            method("getZ", lambda: values.get("z", 0), returns="int"),
            method("getP", lambda: values.get("p", 0), returns="int"),
            method("copyBuilder", builder, returns=_OBJECT),
        ],
        interfaces=("org.micromanager.data.Coords",),
        target=dict(values),
    )


def _coords_builder(values: dict[str, int]) -> JavaObject:
    def put(key: str):
        return lambda v: _coords_builder(values | {key: v})

    return JavaObject(
        "org.micromanager.data.internal.DefaultCoords$Builder",
        [
            *(method(key, put(key), "int", returns=_OBJECT) for key in "tczp"),
            method("build", lambda: coords(values), returns=_OBJECT),
        ],
    )


def image(pixels: np.ndarray, tags: dict[str, Any]) -> JavaObject:
    return JavaObject(
        "org.micromanager.data.internal.DefaultImage",
        [
            method("getRawPixels", lambda: np.ascontiguousarray(pixels).reshape(-1),
                   returns=_OBJECT),
            method("getWidth", lambda: pixels.shape[1], returns="int"),
            method("getHeight", lambda: pixels.shape[0], returns="int"),
            method("getCoords", lambda: coords(tags["coords"]), returns=_OBJECT),
            method("getMetadata", lambda: metadata(tags), returns=_OBJECT),
        ],
    )  # fmt: skip


def metadata(tags: dict[str, Any]) -> JavaObject:
    x, y, width, height = (int(v) for v in tags["ROI"].split("-"))
    roi = JavaObject(
        "java.awt.Rectangle",
        [],
        {k: lambda v=v: v for k, v in zip("xy", (x, y), strict=True)}
        | {"width": lambda: width, "height": lambda: height},
    )
    return JavaObject(
        "org.micromanager.data.internal.DefaultMetadata",
        [
            method("getCamera", lambda: tags["camera"], returns=_TEXT),
            method("getPositionName", lambda: tags["position"], returns=_TEXT),
            method("getElapsedTimeMs", lambda default: tags["elapsed_ms"], "double",
                   returns="double"),
            method("getXPositionUm", lambda: tags["x_um"], returns=_DOUBLE),
            method("getYPositionUm", lambda: tags["y_um"], returns=_DOUBLE),
            method("getZPositionUm", lambda: tags["z_um"], returns=_DOUBLE),
            method("getExposureMs", lambda: tags["exposure_ms"], returns=_DOUBLE),
            method("getPixelSizeUm", lambda: tags["PixelSizeUm"], returns=_DOUBLE),
            method("getBitDepth", lambda: tags["BitDepth"], returns=_INTEGER),
            method("getReceivedTime", lambda: tags["received"], returns=_TEXT),
            method("getBinning", lambda: int(tags["Binning"]), returns=_INTEGER),
            method("getROI", lambda: roi, returns="java.awt.Rectangle"),
        ],
    )  # fmt: skip
