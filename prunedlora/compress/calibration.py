"""Statistics and losses of a trained adapter on data, for criteria that look at the loss."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.peft import name_in_base
from prunedlora.adapters.surgery import write_factors
from prunedlora.compress.base_model import load_with_adapter, model_class, predicts_tokens
from prunedlora.compress.examples import Batch, batches, read_records, split, to_tokens
from prunedlora.criteria import Criterion
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.factors import Factors, Scaled
from prunedlora.files.adapter_file import AdapterFile
from prunedlora.ranks.refinement import Refinement, distil
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.fisher_loss import fisher_loss
from prunedlora.statistics.measurement import measure_statistics
from prunedlora.statistics.targets import IGNORED, logits_at_targets


class Calibration:
    """A base model with its adapter, examples to calibrate on, and examples held out.

    Args:
        model: with the adapter, on its device.
        calibration: batches that statistics are taken from.
        held_out: batches that losses are taken from.

    Raises:
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
    """

    def __init__(self, model: nn.Module, calibration: list[Batch], held_out: list[Batch]) -> None:
        self.model = model.eval()
        self.held_out = held_out
        self._calibration = calibration
        self.modules = {name_in_base(module.name): module for module in find_lora_modules(model)}

    def statistics(self, criterion: Criterion, seed: int) -> dict[str, Statistics]:
        """What a criterion needs of each module, by its path in the base model.

        Measured on the calibration data only; they stay on the device of the model.
        """
        measured = measure_statistics(
            self.model,
            criterion.needs,
            self._calibration,
            loss=lambda batch: _sample_mean(*self._forward(batch)),
            fisher=self._fisher,
            seed=seed,
        )
        return {name: _detached(measured[module.name]) for name, module in self.modules.items()}

    @torch.no_grad()
    def loss(self) -> float:
        """Mean cross-entropy of a token of the held-out examples, nats.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        total = 0.0
        tokens = 0
        for batch in self.held_out:
            losses, counted = self._forward(batch)
            total += float(losses.double().sum())
            tokens += int(counted.sum())
        if not math.isfinite(total):
            raise NonFiniteError(
                "the loss on the held-out examples is NaN or infinite; check the model and the data"
            )
        return total / tokens

    def loss_with(self, modules: Mapping[str, Scaled]) -> float:
        """The loss with other factors of the same adapter; a module that is not named adds nothing.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        with self._put_back():
            for name, module in self.modules.items():
                self._put(module, modules.get(name))
            return self.loss()

    def refined(
        self, modules: Mapping[str, Scaled], steps: int
    ) -> tuple[dict[str, Factors], Refinement]:
        """Other factors of the same adapter, trained to predict what it predicts.

        Args:
            modules: the factors to start from; a module that is not named adds nothing.
            steps: see :func:`prunedlora.refine_adapter`.

        Returns:
            The factors of each named module, to the scaling that the adapter has there, and what
            came of it.
        """
        trained = [m for n, m in self.modules.items() if n in modules and m.scaling != 0]
        if not trained:
            raise ConfigurationError(
                "no module of the adapter adds anything; there is nothing to refine"
            )
        large = self._factors()

        def aim(batch: Batch) -> Tensor:
            # The adapter itself says what is to be predicted; there is no second model.
            with self._put_back():
                self._write(large)
                return self._logits(batch)[0]

        def predict(batch: Batch) -> tuple[Tensor, Tensor]:
            logits, labels = self._logits(batch)
            return logits, labels != IGNORED

        with self._put_back():
            for name, module in self.modules.items():
                self._put(module, modules.get(name))
            # Beyond the new rank both factors are zero, and so are the gradients of both.
            parameters = [p for module in trained for p in (module.B, module.A)]
            found = distil(
                self.model,
                parameters,
                aim,
                predict,
                self._calibration,
                self.held_out,
                steps,
            )
            new = {
                name: Factors(
                    self.modules[name].B.detach()[:, : start.rank].cpu().clone(),
                    self.modules[name].A.detach()[: start.rank].cpu().clone(),
                )
                for name, start in modules.items()
            }
            return new, found

    @contextmanager
    def _put_back(self) -> Iterator[None]:
        """What the modules hold now, they hold again afterwards."""
        kept = self._factors()
        try:
            yield
        finally:
            self._write(kept)

    def _factors(self) -> dict[str, Factors]:
        """Copies of what the modules hold."""
        return {
            name: Factors(module.B.detach().clone(), module.A.detach().clone())
            for name, module in self.modules.items()
        }

    @torch.no_grad()
    def _write(self, factors: Mapping[str, Factors]) -> None:
        for name, module in self.modules.items():
            module.B.copy_(factors[name].B)
            module.A.copy_(factors[name].A)

    @staticmethod
    def _put(module: LoraModule, new: Scaled | None) -> None:
        """Write factors into a module, whose own scaling stays."""
        device = module.A.device
        if new is None or module.scaling == 0:
            new = Scaled(torch.zeros(module.B.shape[0], 1), torch.zeros(1, module.A.shape[1]))
        B = new.B.double() * (new.scaling / (module.scaling or 1.0))
        write_factors(module, torch.arange(new.rank, device=device), B.to(device), new.A.to(device))

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each token, (samples, tokens), and the mask of those that count.

        It is zero where a token does not count.
        """
        logits, labels = self._logits(batch)
        losses = nn.functional.cross_entropy(
            logits.mT, labels, ignore_index=IGNORED, reduction="none"
        )
        return losses, labels != IGNORED

    def _fisher(self, batch: Batch, generator: torch.Generator) -> Tensor:
        logits, labels = self._logits(batch)
        return fisher_loss(logits, labels != IGNORED, generator)

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits from the first token on that is to be predicted, and what each predicts."""
        device = next(self.model.parameters()).device
        ids, mask, labels = (t.to(device) for t in (batch.ids, batch.mask, batch.labels))
        inputs = {"input_ids": ids, "attention_mask": mask}
        logits, following = logits_at_targets(self.model, inputs, labels)
        return logits.float(), following


def load_calibration(
    source: AdapterFile, base: str, data: str, samples: int, *, device: str = "auto", seed: int = 0
) -> Calibration:
    """Load the base model, the adapter and the data.

    Args:
        source: the adapter, of a PEFT folder.
        base: the base model, a folder or a name on the hub.
        data: see `prunedlora.compress.examples.read_records`.
        samples: how many examples to use; one in four is held out.
        device: of the model; ``"auto"`` takes a GPU if there is one.
        seed: of the choice of examples.

    Raises:
        ConfigurationError: the adapter is a file alone, was not trained for a causal language model
            or does not fit the base model, the base model cannot be loaded, or the data cannot be
            used.
        MissingPackageError: transformers, or datasets, is not installed.
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
    """
    name = model_class(source) if source.config is not None else ""
    if name and not predicts_tokens(name):
        raise ConfigurationError(
            f"{source.source} was trained for {name}, but losses are measured here of causal "
            "language models only; compress it without base and data, or measure in Python with "
            "prunedlora.measure_statistics and reduce_adapter"
        )
    records = read_records(data)
    model, tokenizer = load_with_adapter(source, base, device)
    # An example in which no token counts would add nothing to a loss.
    tokens = [to_tokens(record, tokenizer) for record in records]
    used = [pair for pair in tokens if any(label != IGNORED for label in pair.labels[1:])]
    calibration, held_out = split(used, samples, seed)
    pad = tokenizer.pad_token_id or 0
    return Calibration(model, list(batches(calibration, pad)), list(batches(held_out, pad)))


def _sample_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean over samples of each sample's own mean: the loss that the collector assumes."""
    return (losses.sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()


def _detached(statistics: Statistics) -> Statistics:
    return Statistics(**{k: v.detach() for k, v in vars(statistics).items() if v is not None})
