"""mmcorej.CMMCore: the real core, with the methods that Java adds and its tags."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pymmcore

from tests.microscope.stand_in.bridge import JavaError, JavaObject, Method, number

_SIGNATURE = re.compile(r"^(\w+)\(CMMCore self(?:, ([^)]*))?\)(?: -> (.*))?$", re.M)
_TYPES = {"char const *": "java.lang.String", "double": "double", "float": "float",
          "bool": "boolean", "int": "int", "long": "int", "unsigned int": "int",
          "unsigned": "int"}  # fmt: skip


def java_type(text: str) -> str | None:
    text = re.sub(r"\bconst\s*$|^const\s+", "", text.strip()).strip()
    return _TYPES.get(text if text != "char" else "char const *")


def argument_types(text: str | None) -> tuple[str, ...] | None:
    """Java types of a C++ argument list; None if one cannot cross the bridge."""
    found = []
    for part in filter(None, (text or "").split(", ")):
        kind = java_type(part.rsplit(" ", 1)[0])
        if kind is None:
            return None
        found.append(kind)
    return tuple(found)


class Core:
    """The core of one Micro-Manager and what Java knows of its images."""

    def __init__(self, adapters: str, config: str, *, size_px: int, exposure_ms: float):
        core = self.mmc = pymmcore.CMMCore()
        core.setDeviceAdapterSearchPaths([adapters])
        core.loadSystemConfiguration(config)
        core.setCircularBufferMemoryFootprint(64)
        core.loadDevice("Z1", "DemoCamera", "DStage")  # a piezo beside the drive
        core.initializeDevice("Z1")
        core.setConfig("Objective", "10X")
        for name, value in (
            ("Mode", "Fluorescent Beads"),
            ("PixelType", "16bit"),
            ("BitDepth", "16"),
            ("OnCameraCCDXSize", size_px),
            ("OnCameraCCDYSize", size_px),
        ):
            core.setProperty("Camera", name, value)
        core.setExposure(exposure_ms)
        core.waitForSystem()
        self.snap_done = 0.0

    def common_tags(self) -> dict[str, Any]:
        core = self.mmc
        x, y, width, height = core.getROI()
        size_um = number(core.getPixelSizeUm())
        kind = {1: "GRAY8", 2: "GRAY16", 4: "RGB32"}[core.getBytesPerPixel()]
        return {
            "Width": width, "Height": height, "PixelType": kind,
            "BitDepth": core.getImageBitDepth(), "ROI": f"{x}-{y}-{width}-{height}",
            "Binning": str(core.getProperty(core.getCameraDevice(), "Binning")),
            "PixelSizeUm": size_um, "PixelSize_um": size_um,
        }  # fmt: skip

    def snapped(self) -> tuple[np.ndarray, dict[str, Any]]:
        """The last snap, with the tags of a Java snap: no "Camera", "Core-Camera"."""
        tags = self.common_tags() | {"Core-Camera": self.mmc.getCameraDevice()}
        return self.mmc.getImage(), tags

    def _of_buffer(self, get) -> tuple[np.ndarray, dict[str, Any]]:
        md = pymmcore.Metadata()
        try:
            pixels = get(0, 0, md)
        except (RuntimeError, IndexError) as error:
            raise JavaError(str(error)) from None
        tags = {key: md.GetSingleTag(key).GetValue() for key in md.GetKeys()}
        return pixels, tags | self.common_tags()

    def pop(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self._of_buffer(self.mmc.popNextImageMD)

    def last(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self._of_buffer(self.mmc.getLastImageMD)

    def as_java(self) -> JavaObject:
        methods = [*self._core_methods(), *self._tagged_methods()]
        return JavaObject("mmcorej.CMMCore", methods, target=self)

    def _core_methods(self):
        seen = set()
        for name in dir(pymmcore.CMMCore):
            member = getattr(pymmcore.CMMCore, name)
            if name.startswith("_") or not callable(member):
                continue
            for found in _SIGNATURE.finditer(member.__doc__ or ""):
                types = argument_types(found[2])
                if found[1] != name or types is None or (name, types) in seen:
                    continue
                seen.add((name, types))
                returns = java_type(found[3] or "") or "java.lang.Object"
                if not found[3]:
                    returns = "void"
                yield Method(name, types, returns, self._caller(name))

    def _caller(self, name: str):
        def call(*args: Any) -> Any:
            try:
                value = getattr(self.mmc, name)(*args)
            except Exception as error:
                raise JavaError(str(error)) from None
            if name == "snapImage":
                self.snap_done = time.perf_counter()
            if isinstance(value, (list, tuple)) and name == "getROI":
                return rectangle(*value)
            if isinstance(value, (list, tuple)):
                return vector(list(value))
            return (
                value
                if isinstance(value, (int, float, str, bool, np.ndarray))
                else None
            )

        return call

    def _tagged_methods(self):
        for name, get in (
            ("getTaggedImage", self.snapped),
            ("popNextTaggedImage", self.pop),
            ("getLastTaggedImage", self.last),
        ):
            yield Method(name, (), "mmcorej.TaggedImage", lambda g=get: tagged(*g()))


def tagged(pixels: np.ndarray, tags: dict[str, Any]) -> JavaObject:
    flat = np.ascontiguousarray(pixels).reshape(-1)
    if flat.dtype == np.uint32:
        flat = flat.view(np.uint8)
    return JavaObject(
        "mmcorej.TaggedImage", [], {"pix": lambda: flat, "tags": lambda: tags}
    )


def vector(values: list[Any]) -> JavaObject:
    return JavaObject(
        "mmcorej.StrVector",
        [
            Method("size", (), "int", lambda: len(values)),
            Method("get", ("int",), "java.lang.String", lambda k: values[k]),
        ],
    )


def rectangle(x: int, y: int, width: int, height: int) -> JavaObject:
    fields = {"x": x, "y": y, "width": width, "height": height}
    return JavaObject(
        "java.awt.Rectangle", [], {k: lambda v=v: v for k, v in fields.items()}
    )
