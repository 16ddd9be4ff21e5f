"""Processes for jobs, on a CPU forked from one process that has imported what they need; one for a job alone.

A process of its own gives a job its own peak memory.  Where that is not asked for, see `experiments.running.workers`.
"""

import importlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import torch

#: Modules whose ``main(arguments)`` can be done.
JOBS = (
    "experiments.jobs.run",
    "experiments.jobs.reload",
    "experiments.jobs.one_shot",
    "experiments.jobs.refined",
    "experiments.jobs.step_cost",
    "experiments.jobs.peak_memory",
    "experiments.jobs.pretrained",
)


def do(
    module: str, arguments: list[str], threads: int | None = None, log: Path | None = None
) -> int:
    """``module.main(arguments)`` in a new process.

    Args:
        module: one of `JOBS`.
        arguments: for its main function.
        threads: that torch may use there; what it finds if not given.
        log: file to whose end goes what the process prints; printed as it is if not given.

    Returns:
        The exit status of the process; a failure has printed its traceback.
    """
    process = process_context().Process(target=_main, args=(module, arguments, threads, log))
    process.start()
    process.join()
    return process.exitcode or 0


def process_context() -> ForkServerContext | SpawnContext:
    """Forks from a server; starts from nothing where a fork may not use what its parent knows of a GPU or a screen."""
    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(JOBS))
    return context


def print_to(log: Path) -> None:
    """Send all that this process prints from now on, libraries included, to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Descriptors and not `sys.stdout`: loggers and libraries in C keep what they found at their start.
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """The same for as long as the context lasts, also where `sys.stdout` has been replaced."""
    before = [os.dup(1), os.dup(2)]
    print_to(log)
    try:
        with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)


def _main(module: str, arguments: list[str], threads: int | None, log: Path | None) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    if log is not None:
        print_to(log)
    if threads is not None:
        torch.set_num_threads(threads)
    importlib.import_module(module).main(arguments)


def end_with_parent() -> None:
    """Wait, in a thread, to end this process when the one that started it does, even if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def launcher(count: int) -> list[str]:
    """Arguments after ``python -m`` that start a module in several processes on this machine; none for a single one.

    ``accelerate launch`` starts one process for each GPU; on a CPU it would start one only, so torch does there.
    """
    if count == 1:
        return []
    if not torch.cuda.is_available():
        return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m"]
    options = {
        "--num_processes": str(count),
        "--num_machines": "1",
        "--mixed_precision": "no",
        "--dynamo_backend": "no",
    }
    flags = [text for option in options.items() for text in option]
    return ["accelerate.commands.launch", "--multi_gpu", *flags, "-m"]
