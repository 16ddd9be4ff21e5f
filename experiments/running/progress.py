"""Says which run begins, of how many, and how much time is left."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping


def in_words(seconds: float) -> str:
    """A duration as people say it.

    >>> in_words(40), in_words(100), in_words(7200)
    ('less than a minute', '2 minutes', '2.0 hours')
    """
    if seconds < 45:
        return "less than a minute"
    minutes = max(1, round(seconds / 60))
    if minutes >= 90:
        return f"{seconds / 3600:.1f} hours"
    return f"{minutes} minute{'s' * (minutes != 1)}"


class Progress:
    """Counts runs as they begin and end, in whichever thread.

    Args:
        workers: runs that are done at the same time.
        say: prints a line.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        workers: int,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[str, float | None] = {}
        self._begun: list[str] = []
        self._done: set[str] = set()
        self._started = 0.0

    def expect(self, seconds: Mapping[str, float | None]) -> None:
        """Add runs that will be done.

        Args:
            seconds: what each is expected to take, by its name; none where nothing is known.
        """
        with self._lock:
            self._expected = {**seconds, **self._expected}

    def begin(self, name: str) -> None:
        """Say that a run begins; one that nobody expected is counted from now on."""
        with self._lock:
            if not self._begun:
                self._started = self._clock()
            self._expected.setdefault(name, None)
            if name not in self._begun:
                self._begun.append(name)
            left = self._left()
            said = "" if left is None else f"; about {in_words(left)} left"
            number = 1 + self._begun.index(name)
            # The end of a name is the hash of its settings, which is in the name of its file.
            self._say(f"run {number} of {len(self._expected)}: {name.rpartition('_')[0]}{said}")

    def end(self, name: str) -> None:
        """Count a run as done."""
        with self._lock:
            self._done.add(name)

    def _left(self) -> float | None:
        """Seconds until all is done, by what was expected and by how that came true; none if nothing is known."""
        known = [seconds for seconds in self._expected.values() if seconds is not None]
        typical = sum(known) / len(known) if known else 1.0

        def work(names: Iterable[str]) -> float:
            return sum(self._expected[name] or typical for name in names)

        # Of what runs now half is done, on average; what begins now has not begun.
        running = [name for name in self._begun[:-1] if name not in self._done]
        done = work(self._done) + work(running) / 2
        rest = work(self._expected) - done
        elapsed = self._clock() - self._started
        if self._done and done > 0:
            return rest * elapsed / done
        return rest / self._workers if known else None
