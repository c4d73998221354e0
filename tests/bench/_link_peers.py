"""The linkers that ours is compared with, behind one function each."""

from __future__ import annotations

import logging
import multiprocessing as mp
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.linking import Linker
from tests.simulation.motion import SimulatedFrame

IntArray = npt.NDArray[np.int64]
Linked = Iterator[IntArray]  # one identity per detection, frame by frame
LinkFunction = Callable[..., Linked]


def ours(frames: Sequence[SimulatedFrame], **options: Any) -> Linked:
    """Link with `Linker`; the identities are its track ids."""
    linker = Linker(**options)
    for index, frame in enumerate(frames):
        rows = linker(frame.detections, index).rows
        ids = np.full(len(frame.particle), -1)
        seen = rows["detection_index"] >= 0
        ids[rows["detection_index"][seen]] = rows["track_id"][seen]
        yield ids


def trackpy_plain(
    frames: Sequence[SimulatedFrame], *, gate_px: float, gap: int
) -> Linked:
    """Link with trackpy's `link_iter`, numba subnet solver."""
    yield from _trackpy(frames, search_range=gate_px, memory=gap)


def trackpy_adaptive(
    frames: Sequence[SimulatedFrame], *, gate_px: float, gap: int
) -> Linked:
    """Link with trackpy, shrinking the gate where a subnet is too big."""
    yield from _trackpy(
        frames,
        search_range=gate_px,
        memory=gap,
        adaptive_stop=gate_px / 8,
        adaptive_step=0.9,
    )


def _trackpy(frames: Sequence[SimulatedFrame], **options: Any) -> Linked:
    import trackpy

    logging.getLogger("trackpy").setLevel(logging.ERROR)
    positions = (frame.detections.positions_px for frame in frames)
    for _, ids in trackpy.link_iter(positions, **options):
        yield np.asarray(ids)


def laptrack(frames: Sequence[SimulatedFrame], *, gate_px: float, gap: int) -> Linked:
    """Link with laptrack, which sees the whole movie at once."""
    import networkx
    from laptrack import LapTrack

    tracker = LapTrack(
        cutoff=gate_px**2,
        gap_closing_cutoff=gate_px**2,
        gap_closing_max_frame_count=gap,
    )
    tree = tracker.predict([frame.detections.positions_px for frame in frames])
    ids = [np.full(len(frame.particle), -1) for frame in frames]
    for identity, nodes in enumerate(
        networkx.connected_components(tree.to_undirected())
    ):
        for frame, row in nodes:
            ids[frame][row] = identity
    yield from ids


def timed(linked: Linked) -> tuple[list[IntArray], list[float]]:
    """Return the identities and the milliseconds of every frame."""
    found: list[IntArray] = []
    milliseconds: list[float] = []
    while True:
        start = time.perf_counter()
        ids = next(linked, None)
        if ids is None:
            return found, milliseconds
        milliseconds.append((time.perf_counter() - start) * 1e3)
        found.append(ids)


def within(
    seconds: float, link: LinkFunction, frames: Sequence[SimulatedFrame], **options: Any
) -> list[IntArray] | str:
    """Link in a process of its own; return why not if it raises or takes too long."""
    context = mp.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, link, frames, options))
    process.start()
    sender.close()
    try:
        result: Any = receiver.recv() if receiver.poll(seconds) else f"> {seconds:g} s"
    except EOFError:
        result = "died"
    process.kill()
    process.join()
    return result if isinstance(result, (list, str)) else "raises"


def _send(
    sender: Any, link: Any, frames: Sequence[SimulatedFrame], options: dict[str, Any]
) -> None:
    try:
        sender.send(list(link(frames, **options)))
    except Exception as error:  # a peer may fail in any way; the table says how
        sender.send(type(error).__name__)
