"""Record every particle's trace during an acquisition; the file survives any crash.

The run file can be read while it grows: `Recording(folder).tracks()`, sqlite3, or
`lodestar-live export`.
"""

import argparse

from pycromanager import Acquisition

from lodestar_live import LiveTracker, Recording, Settings
from lodestar_live.microscope import open_demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="trained .onnx; none: train on the first frame")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", default="runs", help="folder for the run file")
    parser.add_argument("--demo", action="store_true", help="use the demo microscope")
    args = parser.parse_args()
    if args.demo:
        open_demo()
    settings = Settings(
        detection={"model": args.model},
        live={"mode": "every"},  # complete traces matter more than the newest frame
        recording={"folder": args.out},
        streams={"enabled": False},
    )
    tracker = LiveTracker(settings)
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for event in tracker.events(args.frames, say=print):
            acquisition.acquire(event)
    traces = Recording(tracker.run_folder).tracks()
    print(f"{len(traces)} rows of {len(set(traces['track_id']))} tracks")
    print(f"lodestar-live export {tracker.run_folder} --to csv")


if __name__ == "__main__":
    main()
