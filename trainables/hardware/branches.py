"""Parts of a step that side by side are faster on a card: each level's kernels fill a part of it, for a short time.

A level asks nothing of the others but what the next larger one says of the images. So while a step is recorded, each
level has a stream of its own, a branch of the record, and the card runs kernels of several at once. What is computed
does not change. It takes more memory: what every level keeps for its backward pass is there at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

import torch

# Levels run in turn if what they keep is more of the process's share of the card: such kernels fill it. The margin that
# trials are packed with (`peak.MARGIN`) has room for so much beside what they take in turn, which is what is measured.
PART_OF_SHARE = 1 / 16

_streams: dict[tuple[int, int], torch.cuda.Stream] = {}  # of a card and a part: libraries keep workspace for each


class Branches:
    """Runs parts of a step apart from one another where a recording asks for that, and one after the other otherwise.

    A part begins with what had been asked of the card before it, and `join` waits for all of them. What a part made is
    read by others after `wait_for` alone, and by who follows after `join`; until then it must be held, as its memory
    goes to the next tensor of its branch.

    Attributes:
        share_of_card: of this process, in [0, 1]; with 0 parts never run apart.
    """

    share_of_card: ClassVar[float] = 1.0

    def __init__(self, kinds: int = 1) -> None:
        """Begin with parts that run one after the other.

        Args:
            kinds: of steps with these parts, whose records are held side by side.
        """
        self._kinds = kinds
        self._running: list[torch.cuda.Stream] = []
        self._runs_apart = False
        self._bytes_by_part: dict[int, int] | None = None  # at their marks, while parts are weighed
        self._part_number, self._bytes_before, self._weighed_bytes = 0, 0, 0

    @contextmanager
    def weighed(self) -> Iterator[None]:
        """Within it parts, one after the other, are looked at for what they keep of a card's memory."""
        by_part: dict[int, int] = {}
        self._bytes_by_part = by_part
        try:
            yield
        finally:
            self._bytes_by_part, self._weighed_bytes = None, sum(by_part.values())

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within it parts run apart, on streams of the card, if what `weighed` found is little of the share of it."""
        card_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        self._runs_apart = self._kinds * self._weighed_bytes <= PART_OF_SHARE * self.share_of_card * card_bytes
        try:
            yield
        finally:
            self._runs_apart = False
            # Where a part has failed, so that it is that error which is told and not one of streams that were left.
            with suppress(RuntimeError):
                self.join()
            self._running.clear()

    @contextmanager
    def part(self, number: int) -> Iterator[None]:
        """Within it one part of the step runs; each has a number of its own."""
        if not self._runs_apart:
            self._part_number = number
            self._bytes_before = 0 if self._bytes_by_part is None else torch.cuda.memory_allocated()
            yield
            return
        key = (torch.cuda.current_device(), number)
        if key not in _streams:
            _streams[key] = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream = _streams[key]
        stream.wait_stream(torch.cuda.current_stream())
        self._running.append(stream)
        with torch.cuda.stream(stream):
            yield

    def mark(self) -> torch.cuda.Event | None:
        """The moment at which all that this part has asked for so far is there, for `wait_for`; before a backward pass.

        `None` where parts run one after the other.
        """
        if self._runs_apart:
            moment: torch.cuda.Event = torch.cuda.current_stream().record_event()
            return moment
        if self._bytes_by_part is not None:
            kept = torch.cuda.memory_allocated() - self._bytes_before
            self._bytes_by_part[self._part_number] = max(kept, self._bytes_by_part.get(self._part_number, 0))
        return None

    def wait_for(self, moment: torch.cuda.Event | None) -> None:
        """Let what this part asks for from now on begin after a moment of another."""
        if moment is not None:
            torch.cuda.current_stream().wait_event(moment)

    def join(self) -> None:
        """Let what is asked for from now on begin after all parts."""
        for stream in self._running:
            torch.cuda.current_stream().wait_stream(stream)
        self._running.clear()
