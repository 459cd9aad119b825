"""Arms that are processes, since what they differ in holds for a whole process."""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from benchmarks.engine import NUM_THREADS
from trainables.hardware import processor


@contextmanager
def process(environment: Mapping[str, str] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A process of its own that trains as a trial's does, with variables of its own."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as arm:
            arm.submit(processor.prepare, NUM_THREADS).result()  # it is there, with the environment of now
            yield arm
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_turn(
    arms: Sequence[ProcessPoolExecutor], take_step: Callable[..., float], *what: object, rounds: int
) -> list[float]:
    """Median of what steps of each arm took; they take turns, and the first of each does not count."""
    found = [[arm.submit(take_step, *what).result() for arm in arms] for _ in range(1 + rounds)]
    return [statistics.median(arm) for arm in zip(*found[1:], strict=True)]
