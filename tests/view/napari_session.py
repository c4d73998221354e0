"""A session with the real napari, run as a program: prints what it saw as JSON.

A program of its own, because napari's dependencies warn (and warnings are errors in
this test suite), and because its windows want the main thread.
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))


def main(run_folder: str) -> None:
    """Read a recorded run and watch a live one, through napari's own plugin manager."""
    import napari
    import npe2
    from qtpy.QtWidgets import QApplication

    from tests.view.live_source import LiveSource

    manager = npe2.PluginManager.instance()
    if "lodestar-live" not in manager:  # the package is run from its checkout
        manifest = ROOT / "lodestar_live" / "view" / "napari.yaml"
        manager.register(npe2.PluginManifest.from_file(manifest))
    viewer = napari.Viewer(show=False)
    seen = {}
    for path in (run_folder, f"{run_folder}/run.sqlite"):
        viewer.open(path, plugin="lodestar-live")
        (tracks,) = (x for x in viewer.layers if x._type_string == "tracks")
        seen["n_vertices"] = len(tracks.data)
        seen["first"] = tracks.data[0].tolist()
        seen["has_snapshot"] = any(x._type_string == "image" for x in viewer.layers)
        viewer.layers.clear()

    with LiveSource(n_tracks=50, size_px=700) as source:
        _, widget = viewer.window.add_plugin_dock_widget("lodestar-live", "Live tracks")
        widget._address.setText(source.stream)
        widget.toggle()
        started_s = time.monotonic()
        while time.monotonic() < started_s + 30 and widget.layers.n_updates < 8:
            QApplication.processEvents()
        seen["updates"] = widget.layers.n_updates
        seen["hz"] = widget.layers.n_updates / (time.monotonic() - started_s)
        layers = {x.name: x for x in viewer.layers}
        seen["layers"] = sorted(layers)
        seen["n_points"] = len(layers["live: particles"].data)
        seen["n_tails"] = len(set(layers["live: tails"].data[:, 0]))
        extent = layers["live: camera"].extent.world
        seen["image_from_to"] = [extent[0][-1], extent[1][-1]]
        widget.disconnect_stream()
    viewer.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
