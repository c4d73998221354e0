"""Keep one particle in the middle of the frame by moving the XY stage.

Nothing moves until you pass --armed and a calibration that `lodestar-live calibrate`
measured; without, commands are only noted. The stage never leaves the box of
--travel-um around where it stands.
"""

import argparse

from pycromanager import Acquisition, Core

from lodestar_live import LiveTracker, Recording, Settings
from lodestar_live.microscope import open_demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="trained .onnx; none: train on the first frame")
    parser.add_argument("--calibration", help="file made by lodestar-live calibrate")
    parser.add_argument("--travel-um", type=float, default=500.0)
    parser.add_argument("--target", default="nearest", help="or brightest, fastest")
    parser.add_argument("--armed", action="store_true", help="really move")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--out", default="runs", help="folder for the run file")
    parser.add_argument("--demo", action="store_true", help="use the demo microscope")
    args = parser.parse_args()
    if args.demo:
        open_demo()
    y_um, x_um = Core().get_y_position(), Core().get_x_position()
    reach_um = args.travel_um
    limits = {
        "y_um": (y_um - reach_um, y_um + reach_um),
        "x_um": (x_um - reach_um, x_um + reach_um),
    }
    control = {"follow": True, "armed": args.armed, "target": args.target}
    control |= {"limits": limits, "calibration": args.calibration}
    settings = Settings(
        detection={"model": args.model},
        control=control,
        recording={"folder": args.out},
        streams={"enabled": False},
    )
    tracker = LiveTracker(settings)
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for k in range(args.frames):  # events without x, y or z: the stage is ours
            acquisition.acquire({"axes": {"time": k}})
    events = Recording(tracker.run_folder).events()
    print(f"{sum(e.kind == 'stage.move' for e in events)} moves")


if __name__ == "__main__":
    main()
