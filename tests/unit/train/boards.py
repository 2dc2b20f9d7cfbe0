"""Boards of hosts over real stores, and clocks that tests move: what tests of hosts share."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from containers.train import failure
from containers.train.failure import Failure
from containers.train.hosts import Board
from containers.train.job import Cluster
from tests.support.fast_clock import FastClock

NAMES = ("algo-1", "algo-2", "algo-3")


class Clock(FastClock):
    """A pause takes two milliseconds, however long it is: waiting 45 s takes a moment."""

    def __init__(self) -> None:
        super().__init__(lambda _: 0.002)


MADE: list[Board] = []


def silence(each: Board) -> None:
    """It beats no more; its last beat can be seen."""
    each.close()
    each._beating.join(60)
    assert not each._beating.is_alive()


def board(store: TCPStore, rank: int, size: int = 2, clock: FastClock | None = None) -> Board:
    """Without a `clock` by the wall's: what comes is there in a moment, and a busy machine has seconds until it is missed."""
    client = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
    cluster = Cluster(hosts=NAMES[:size], current_host=NAMES[rank])
    made = Board(client, rank, cluster, **({"clock": clock, "pause": clock.pause} if clock else {}))
    client.check(["any"])  # what it set is there: `set` waits for no answer
    MADE.append(made)
    return made


def a_failure(error: Exception, rank: int) -> Failure:
    return Failure.of(error, rank=rank, host=NAMES[rank])


def together(*calls: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(call) for call in calls]]


def aborted(rank: int) -> Failure:
    return failure.of_process(-signal.SIGABRT, Path("/nowhere"), rank=rank, host=NAMES[rank])


def end_all() -> None:
    """Of a test: a store that goes while a thread asks it would end the process."""
    for each in MADE:
        silence(each)
    MADE.clear()
