"""Track every particle in a pycro-manager acquisition while it runs.

Give it a model trained with `lodestar-live train`, or none: it then trains on the first
frame. Run it with Micro-Manager open (Tools > Options > Run server), or with --demo.
"""

import argparse

from pycromanager import Acquisition

from lodestar_live import LiveTracker, Settings
from lodestar_live.microscope import open_demo


def print_tracks(update) -> None:
    """Do here what you like with every frame's tracks; you may take your time."""
    seen = update.tracks.rows[update.tracks.rows["missed_frames"] == 0]
    print(f"frame {update.frame.index}: {len(seen)} particles")
    for row in seen[:3]:
        print(f"  #{row['track_id']}  y {row['y_px']:.2f} px  x {row['x_px']:.2f} px")


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
        recording={"folder": args.out},
        streams={"enabled": False},
    )
    tracker = LiveTracker(settings, on_update=print_tracks)
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for event in tracker.events(args.frames, say=print):
            acquisition.acquire(event)
    print(tracker.summary().counts)


if __name__ == "__main__":
    main()
