"""Keep one particle in the middle of the frame, and in focus, during an acquisition.

Nothing moves until you pass --armed and a calibration that `lodestar-live calibrate`
measured; without, commands are only noted. The stage never leaves the box of
--travel-um around where it stands; Ctrl-C makes it stand still at once.
"""

import argparse

from pycromanager import Acquisition, Core

from lodestar_live import LiveTracker, Recording, Settings
from lodestar_live.microscope import open_demo
from lodestar_live.view import write_control


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="trained .onnx; none: train on the first frame")
    parser.add_argument("--calibration", help="file made by lodestar-live calibrate")
    parser.add_argument("--travel-um", type=float, default=500.0)
    parser.add_argument("--target", default="nearest", help="or brightest, fastest")
    parser.add_argument("--focus", default="off", help="or z, sharpness (calibrated)")
    parser.add_argument("--move-by", default="stage", help="events: adaptive events")
    parser.add_argument("--commands", help="tcp://127.0.0.1:5558: click, stop, ...")
    parser.add_argument("--armed", action="store_true", help="really move")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--out", default="runs", help="folder for the run file")
    parser.add_argument("--demo", action="store_true", help="use the demo microscope")
    args = parser.parse_args()
    if args.demo:
        open_demo()
    core, limits = Core(), {"z_um": None}
    for axis, here_um in ("y", core.get_y_position()), ("x", core.get_x_position()):
        limits[f"{axis}_um"] = (here_um - args.travel_um, here_um + args.travel_um)
    if args.focus != "off":
        limits["z_um"] = (core.get_position() - 20.0, core.get_position() + 20.0)
    control = {"follow": True, "armed": args.armed, "limits": limits}
    control |= {"target": args.target, "focus": args.focus, "move_by": args.move_by}
    settings = Settings(
        detection={"model": args.model},
        control=control | {"calibration": args.calibration},
        recording={"folder": args.out},
        streams={"enabled": args.commands is not None, "control": args.commands},
    )
    tracker = LiveTracker(settings)
    hooks = {"image_process_fn": tracker}
    if tracker.places_events:  # else a hook only costs time
        hooks["pre_hardware_hook_fn"] = tracker.event_hook
    with tracker, Acquisition(**hooks) as acquisition:
        for event in tracker.events(args.frames, say=print):  # without x, y or z
            acquisition.acquire(event)
    run = Recording(tracker.run_folder)
    print(f"{sum(e.kind == 'stage.move' for e in run.events())} moves, the rest in")
    print(write_control(run, tracker.run_folder / "control.png"))


if __name__ == "__main__":
    main()
