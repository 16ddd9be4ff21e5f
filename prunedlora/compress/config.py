"""Settings of `prunedlora.compress_adapter`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunedlora.choices import DtypeName, Layout, Scope, ZeroModules, check_choices
from prunedlora.errors import ConfigurationError

if TYPE_CHECKING:
    import prunedlora.criteria

#: What a criterion may need without data.
_DATA_FREE = {"noise"}


@dataclass(frozen=True)
class CompressConfig:
    """How far an adapter is lowered, by what, and how the result is written.

    Exactly one of `rank`, `energy`, `max_loss_increase` and `size` says how far.

    Attributes:
        rank: rank of every module; with ``scope="global"`` their mean.
        energy: share to keep of the criterion's scores (for ``svd`` the squared singular values), in (0, 1].
        max_loss_increase: largest relative increase of the held-out loss, 0.01 for 1 %; needs data.  The smallest rank
            that keeps to it is searched by bisection, on the held-out examples that the reported losses are of.
        size: largest size of the weights' file, bytes.
        criterion: see :func:`prunedlora.available_criteria`; ``svd_fisher`` with data and ``svd`` without by default.
        options: options of the criterion.
        base: the base model, a folder or a name on the hub; needed where data is.
        data: what to calibrate on, see `prunedlora.compress.examples.read_records`.
        samples: examples used; one in four is held out.
        scope: ``"module"``, or ``"global"`` for one budget over all modules.
        layout: see `prunedlora.files.layouts`; by default ``uniform``, and ``ragged`` with ``scope="global"``.
        dtype: of the result; that of the adapter by default.
        device: of the model in calibration; ``"auto"`` takes a GPU if there is one.
        zero_modules: a module that adds nothing, or that gets nothing of a global budget, is kept at rank 1
            (``"keep"``) or left out of the file and excluded in the configuration (``"exclude"``).
        seed: of the choice of examples and of the random criterion.

    Raises:
        ConfigurationError: settings that contradict each other, or values out of range.

    >>> CompressConfig(rank=16).criterion
    'svd'
    """

    rank: int | None = None
    energy: float | None = None
    max_loss_increase: float | None = None
    size: int | None = None
    criterion: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    data: str | None = None
    samples: int = 256
    scope: Scope | None = None
    layout: Layout | None = None
    dtype: DtypeName | None = None
    device: str = "auto"
    zero_modules: ZeroModules = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        given = [n for n in ("rank", "energy", "max_loss_increase", "size") if getattr(self, n) is not None]
        if len(given) != 1:
            named = " and ".join(given) if given else "none"
            raise ConfigurationError(f"name exactly one of rank, energy, max_loss_increase and size; got {named}")
        if (self.base is None) != (self.data is None):
            raise ConfigurationError("base and data go together: the loss needs a model and examples")
        if self.criterion is None:
            object.__setattr__(self, "criterion", "svd" if self.data is None else "svd_fisher")
        self._check_values()
        self._check_criterion()
        self._settle_layout()

    @property
    def rule(self) -> "prunedlora.criteria.Criterion":
        """The criterion itself."""
        from prunedlora.criteria import get_criterion  # needs torch, which takes a second to import

        assert self.criterion is not None
        return get_criterion(self.criterion)

    def _check_values(self) -> None:
        check_choices(self)
        if self.rank is not None and self.rank < 1:
            raise ConfigurationError(f"rank must be at least 1, not {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigurationError(f"energy must be in (0, 1], not {self.energy}")
        if self.max_loss_increase is not None and not 0 <= self.max_loss_increase < float("inf"):
            raise ConfigurationError(f"max_loss_increase must be at least 0, not {self.max_loss_increase}")
        if self.size is not None and self.size < 1:
            raise ConfigurationError(f"size must be at least one byte, not {self.size}")
        if self.samples < 2:
            raise ConfigurationError(f"samples must be at least 2, one of them held out, not {self.samples}")
        if self.data is None and self.max_loss_increase is not None:
            raise ConfigurationError("max_loss_increase needs data: name a base model and data, or give an energy")

    def _check_criterion(self) -> None:
        from prunedlora.criteria import check_options

        check_options(self.rule, self.options)
        if self.data is None and not _DATA_FREE.issuperset(self.rule.needs):
            raise ConfigurationError(f"{self.criterion} needs data: name a base model and data, or use 'svd'")

    def _settle_layout(self) -> None:
        from prunedlora.ranks.budget import settled_scope

        scope = settled_scope(self.rule, self.scope)
        layout = self.layout or ("ragged" if scope == "global" else "uniform")
        if scope == "global" and layout == "uniform":
            raise ConfigurationError(
                "scope 'global' gives ranks that differ, layout 'uniform' has one; use 'ragged' or 'padded'"
            )
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "layout", layout)
