"""What runs in deeplay's own virtual environment: train, locate, detect on request.

Reads one JSON request per line on stdin and answers each with one JSON line. Imports
nothing of this package.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

BATCH = 8


class Peer:
    """deeplay's LodeSTAR with its default network, trained on one image."""

    def __init__(self) -> None:
        self._model: Any = None

    def train(self, image: str, steps: int, seed: int) -> dict[str, Any]:
        """Train with the paper's 8 views per mini-batch and Adam 1e-3."""
        import deeplay
        import torch

        torch.manual_seed(seed)
        view = torch.from_numpy(np.load(image).astype(np.float32))[None, None]
        model = deeplay.LodeSTAR(n_transforms=BATCH).build()
        model.train()
        model(view)  # lazy layers get their sizes
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        start = time.perf_counter()
        for _ in range(steps):
            views, inverse = model.train_preprocess(view)
            loss = sum(model.compute_loss(model(views), inverse).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        self._model = model
        return {"seconds": time.perf_counter() - start}

    def locate(self, images: str) -> dict[str, Any]:
        """Return the pooled (y, x) of every image."""
        import torch

        stack = torch.from_numpy(np.load(images).astype(np.float32))[:, None]
        with torch.no_grad():
            parts = [
                self._model.pooled(stack[i : i + 16]) for i in range(0, len(stack), 16)
            ]
        return {"positions_px": torch.cat(parts)[:, :2].tolist()}

    def find(self, image: str) -> dict[str, Any]:
        """Return its detections (y, x) in an image, with its defaults."""
        return self.detect(image, repeats=0)

    def detect(self, image: str, repeats: int) -> dict[str, Any]:
        """Return its detections (y, x), and the times of more calls, once warm."""
        import torch

        view = torch.from_numpy(np.load(image).astype(np.float32))[None, None]
        seconds, cpu_seconds = [], []
        with torch.no_grad():
            found = self._model.detect(view)[0]
            for _ in range(repeats):
                start, start_cpu = time.perf_counter(), time.process_time()
                self._model.detect(view)
                seconds.append(time.perf_counter() - start)
                cpu_seconds.append(time.process_time() - start_cpu)
        positions_px = [row[:2] for row in np.asarray(found).tolist()]
        return {
            "positions_px": positions_px,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }


def main() -> None:
    """Answer requests until stdin closes."""
    peer, out = Peer(), sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with answers
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(peer, request.pop("do"))(**request)
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
