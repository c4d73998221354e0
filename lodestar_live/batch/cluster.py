"""The Dask cluster of a batch: one of our own on this machine, or the user's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from lodestar_live.detection.engines.cpu import physical_cores
from lodestar_live.errors import InputError

logger = logging.getLogger(__name__)
_ANSWER_S = 15.0
_WORKERS_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Cluster:
    """A client of a Dask scheduler, and where the scheduler shows what it does."""

    client: Any
    dashboard: str
    n_workers: int


@contextmanager
def open_cluster(
    scheduler: str | None, *, n_workers: int | None, memory: str | None
) -> Iterator[Cluster]:
    """Start workers on this machine, or connect to a scheduler that has some.

    Parameters
    ----------
    scheduler
        Its address, e.g. ``tcp://10.0.0.1:8786``. None: a cluster of our own.
    n_workers
        Processes of our own; None: one per physical core.
    memory
        Limit of one worker of our own, e.g. ``2GiB``; Dask ends and replaces a worker
        that exceeds it. None: the machine's, shared equally.

    Raises
    ------
    InputError
        Dask is not installed, or no scheduler or worker of this version answers.
    """
    distributed = _load()
    if not logger.isEnabledFor(logging.INFO):  # else pages of stack, said by us in one
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if scheduler is None:
        with _own(distributed, n_workers, memory) as cluster:
            yield cluster
        return
    try:
        client = distributed.Client(scheduler, timeout=_ANSWER_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers ({error}); expected "
            "an address such as tcp://10.0.0.1:8786."
        ) from error
    with client:
        yield Cluster(client, client.dashboard_link, _workers(client, scheduler))


@contextmanager
def _own(
    distributed: Any, n_workers: int | None, memory: str | None
) -> Iterator[Cluster]:
    n_workers = n_workers or physical_cores()
    try:
        local = distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            memory_limit=memory or "auto",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
    except ValueError as error:  # a memory limit that is none
        raise InputError(f"--memory {memory}: {error}; expected e.g. 2GiB.") from error
    with local, distributed.Client(local) as client:
        yield Cluster(client, local.dashboard_link, n_workers)


def _workers(client: Any, scheduler: str) -> int:
    """Return how many workers there are; refuse those of another version."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS_WITHIN_S)
    except TimeoutError as error:
        raise InputError(
            f"--scheduler {scheduler}: it has no workers; start some with "
            f"`dask worker {scheduler} --nthreads 1`."
        ) from error
    mine = version("lodestar-live")
    for worker, theirs in client.run(_version, on_error="return").items():
        if theirs != mine:
            raise InputError(
                f"worker {worker} has lodestar-live {theirs}; expected {mine}, as "
                "here. Install the same version on every machine."
            )
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _version() -> str:
    return version("lodestar-live")


def _load() -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        raise InputError(
            "Dask is not installed; run `pip install 'lodestar-live[batch]'`."
        ) from error
