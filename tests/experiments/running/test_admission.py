"""Which jobs run beside each other."""

import threading

import pytest

from experiments.running.admission import Admission

GIB = 2**30


class Jobs:
    """Jobs that begin in threads and end when they are told to."""

    def __init__(self):
        self.begun = []
        self._began = threading.Condition()
        self._ends = {}
        self._threads = []

    def start(self, name, place):
        """Ask for a place; the job ends with `end`."""
        self._ends[name] = threading.Event()
        thread = threading.Thread(target=self._run, args=(name, place), daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self, name):
        self._ends[name].set()

    def wait_for(self, *names):
        """Wait until exactly these have begun, in this order."""
        with self._began:
            assert self._began.wait_for(lambda: len(self.begun) >= len(names), timeout=30)
        assert self.begun == list(names)

    def end_all(self):
        for name in self._ends:
            self.end(name)
        for thread in self._threads:
            thread.join(timeout=30)

    def _run(self, name, place):
        with place:
            with self._began:
                self.begun.append(name)
                self._began.notify_all()
            assert self._ends[name].wait(timeout=60)


def waits(admission):
    """Whether a job waits; asked until one does, since threads take their time."""
    with admission._changed:
        return bool(admission._waiting)


def until_one_waits(admission):
    deadline = threading.Event()
    for _ in range(3000):
        if waits(admission):
            return
        deadline.wait(0.01)
    raise AssertionError("nothing waits")


def test_without_a_limit_all_jobs_run_together():
    jobs = Jobs()
    admission = Admission()
    for name in "abc":
        jobs.start(name, admission.beside_others("unknown"))
        jobs.wait_for(*"abc"[: "abc".index(name) + 1])
    jobs.end_all()


def test_the_first_job_of_a_kind_is_alone_and_later_ones_fill_the_memory():
    jobs = Jobs()
    admission = Admission(capacity=11 * GIB)
    jobs.start("first", admission.beside_others("kind"))
    jobs.wait_for("first")
    jobs.start("second", admission.beside_others("kind"))
    until_one_waits(admission)
    admission.learn("kind", 2 * GIB)  # with margin and context, 3.5 of each
    jobs.wait_for("first", "second")
    jobs.start("third", admission.beside_others("kind"))
    jobs.wait_for("first", "second", "third")
    jobs.start("fourth", admission.beside_others("kind"))
    until_one_waits(admission)
    jobs.end("first")
    jobs.wait_for("first", "second", "third", "fourth")
    jobs.end_all()


def test_a_job_larger_than_the_memory_runs_when_nothing_else_does():
    admission = Admission(capacity=GIB)
    admission.learn("large", 5 * GIB)
    with admission.beside_others("large"):
        pass


def test_what_asks_to_be_alone_is_and_nobody_passes_it():
    jobs = Jobs()
    admission = Admission()
    jobs.start("first", admission.beside_others("kind"))
    jobs.wait_for("first")
    jobs.start("alone", admission.alone())
    until_one_waits(admission)
    jobs.start("late", admission.beside_others("kind"))
    jobs.end("first")
    jobs.wait_for("first", "alone")
    until_one_waits(admission)
    jobs.end("alone")
    jobs.wait_for("first", "alone", "late")
    jobs.end_all()


def test_a_failure_gives_its_place_back():
    admission = Admission()
    with pytest.raises(RuntimeError), admission.alone():
        raise RuntimeError("broken")
    with admission.alone():
        pass
