"""When a job may begin: as soon as there is memory for it beside the jobs that run."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: What stands for the kind of a job that is alone.
ALONE = ""


class Admission:
    """Lets jobs begin in the order in which they ask, by the memory that jobs of their kind took before.

    The first job of a kind is alone; later ones are expected to take `MARGIN` times what the largest one took.

    Args:
        capacity: bytes for all jobs together; infinite where memory is no matter.
    """

    MARGIN = 1.15
    #: What a process takes of a GPU besides its tensors.
    CONTEXT_BYTES = 2**30

    def __init__(self, capacity: float = math.inf) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._running: list[str] = []
        self._peaks: dict[str, int] = {}

    @contextmanager
    def beside_others(self, kind: str) -> Iterator[None]:
        """Wait until a job of a kind fits beside those that run, and hold its place meanwhile."""
        with self._place(kind, lambda: self._fits(kind)):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nothing runs, and let nothing begin meanwhile."""
        with self._place(ALONE, lambda: not self._running):
            yield

    @property
    def is_held_alone(self) -> bool:
        """Whether a job runs that asked to be alone."""
        return ALONE in self._running

    def learn(self, kind: str, peak_bytes: int) -> None:
        """Remember what a job of a kind took."""
        with self._changed:
            self._peaks[kind] = max(self._peaks.get(kind, 0), peak_bytes)
            self._changed.notify_all()

    @contextmanager
    def _place(self, kind: str, may_begin: Callable[[], bool]) -> Iterator[None]:
        # Who asked first begins first: a large job would wait for ever while small ones pass it.
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and may_begin())
            self._waiting.popleft()
            self._running.append(kind)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(kind)
                self._changed.notify_all()

    def _fits(self, kind: str) -> bool:
        if not self._running or math.isinf(self._capacity):
            return not self.is_held_alone
        return sum(map(self._expected, (*self._running, kind))) <= self._capacity

    def _expected(self, kind: str) -> float:
        """Bytes; infinitely many of a kind that is not known, and of a job that is alone."""
        peak = self._peaks.get(kind)
        return math.inf if peak is None else self.MARGIN * peak + self.CONTEXT_BYTES
