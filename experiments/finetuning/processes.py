"""Training in several processes, as ``accelerate launch`` starts them; a single one needs none of this."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together, each on its share of every batch.

    Attributes:
        rank: of this one.
        count: of all.
        device: of this one.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def share(self, examples: list[Any]) -> list[Any]:
        """The part of a batch's examples that falls to this process.

        Raises:
            SystemExit: there are fewer examples than processes.
        """
        if len(examples) < self.count:
            raise SystemExit(
                f"a batch of {len(examples)} examples cannot be shared by {self.count} processes"
            )
        return examples[self.rank :: self.count]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages the gradients over the processes; the same one for a single one."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def weight(self, terms: int) -> float:
        """Factor that makes the average of the processes' mean losses the mean over all terms of the batch.

        Args:
            terms: tokens or examples over which this process takes the mean.
        """
        if self.count == 1:
            return 1.0
        total = torch.tensor(float(terms), device=self.device)
        dist.all_reduce(total)
        return terms * self.count / float(total)

    def average(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.count == 1:
            return values
        values = values.to(self.device)
        dist.all_reduce(values)
        return values / self.count

    def leave(self) -> None:
        """Leave the group after training: evaluation by the first may take longer than the others would wait."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()


def processes() -> Processes:
    """The processes that this one was started with."""
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, state.device)
