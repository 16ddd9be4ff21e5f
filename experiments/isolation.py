"""Jobs in processes of their own, on a CPU forked from one process that has imported what they need.

A process of its own gives a job its own peak memory and nothing of the job before it.  To import torch, transformers
and PEFT anew takes longer there than many a job does.
"""

import importlib
import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext

import torch

#: Modules whose ``main(arguments)`` can be done.
JOBS = (
    "experiments.run",
    "experiments.reload",
    "experiments.one_shot",
    "experiments.table2",
    "experiments.table2_memory",
    "experiments.table8",
)


def do(module: str, arguments: list[str], threads: int | None = None) -> int:
    """``module.main(arguments)`` in a new process.

    Args:
        module: one of `JOBS`.
        arguments: for its main function.
        threads: that torch may use there; what it finds if not given.

    Returns:
        The exit status of the process; a failure has printed its traceback.
    """
    process = _context().Process(target=_main, args=(module, arguments, threads))
    process.start()
    process.join()
    return process.exitcode or 0


def _context() -> ForkServerContext | SpawnContext:
    """Forks from a server; starts from nothing where a fork may not use what its parent knows of a GPU or a screen."""
    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(JOBS))
    return context


def _main(module: str, arguments: list[str], threads: int | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        torch.set_num_threads(threads)
    importlib.import_module(module).main(arguments)


def _end_with_parent() -> None:
    """End this process when the one that asked for it does, which may be killed without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
