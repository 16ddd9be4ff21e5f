"""Worker processes: each does one job after another and keeps what does not depend on the job.

Importing torch, transformers and PEFT, starting a GPU and reading a model take longer than many runs do.  A worker does
so once.  Every job gets a fresh copy of the model (`experiments.finetuning.models.keep_models`) and draws from its own
seed, so that its result is the same to the last digit as in a process of its own.
"""

import gc
import importlib
import queue
import signal
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from experiments.finetuning.models import keep_models
from experiments.running.isolation import end_with_parent, print_to, process_context


@dataclass(frozen=True)
class Outcome:
    """What a worker says of a job.

    Attributes:
        error: traceback of a failure, or what ended the process; empty where the job is done.
        out_of_memory: whether it failed for want of memory.
        peak_bytes: most memory of the GPU that the job held; 0 without one.
    """

    error: str = ""
    out_of_memory: bool = False
    peak_bytes: int = 0


class Worker:
    """A process that does jobs in turn.

    Args:
        threads: that torch may use there; what it finds if not given.
        log: file to whose end goes what it prints; printed as it is if not given.
    """

    def __init__(self, threads: int | None, log: Path | None = None) -> None:
        here, there = process_context().Pipe()
        self._connection: Connection = here
        # As a daemon it is ended with this process, whatever it waits for.
        self._process = process_context().Process(
            target=_serve, args=(there, threads, log), daemon=True
        )
        self._process.start()
        there.close()

    def do(self, module: str, arguments: list[str]) -> Outcome:
        """``module.main(arguments)`` in the worker's process; a failure is part of the outcome."""
        with suppress(OSError):  # a process that is gone says so below
            self._connection.send((module, arguments))
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return _ended(self._process.exitcode or 0)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


class Workers:
    """Workers that are started when they are needed; one that fails is replaced.

    Args:
        threads: that torch may use in each; what it finds if not given.
        log: file to whose end goes what they print; printed as it is if not given.
    """

    def __init__(self, threads: int | None, log: Path | None = None) -> None:
        self._threads = threads
        self._log = log
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def do(self, module: str, arguments: list[str]) -> Outcome:
        """``module.main(arguments)`` in a worker that has nothing to do, or in a new one."""
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = Worker(self._threads, self._log)
        outcome = worker.do(module, arguments)
        # What a failed job has left behind is nobody's business to find out.
        if outcome.error:
            worker.close()
        else:
            self._idle.put(worker)
        return outcome

    def close(self) -> None:
        """End all workers that have nothing to do; later jobs start new ones."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return


def _serve(connection: Connection, threads: int | None, log: Path | None) -> None:
    """Do the jobs that come, until the other end is closed."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if log is not None:
        print_to(log)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_models()
    while True:
        try:
            module, arguments = connection.recv()
        except EOFError:
            return
        outcome = _done(module, arguments)
        # The traceback of a failure held its tensors; a worker that waits holds no memory that others could use.
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        connection.send(outcome)


def _done(module: str, arguments: list[str]) -> Outcome:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        importlib.import_module(module).main(arguments)
    except (Exception, SystemExit) as error:
        return Outcome(traceback.format_exc(), _is_want_of_memory(error))
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0
    return Outcome(peak_bytes=peak)


def _is_want_of_memory(error: BaseException) -> bool:
    """Whether torch, or a library below it that allocates by itself, found too little memory."""
    said = str(error)
    below = "out of memory" in said or "ALLOC_FAILED" in said
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and below)


def _ended(status: int) -> Outcome:
    """Of a process that ended in the middle of a job; where memory is short, the system kills it."""
    if status >= 0:
        return Outcome(f"its process ended with status {status}")
    name = signal.Signals(-status).name
    return Outcome(f"its process was ended by {name}", -status == signal.SIGKILL)
