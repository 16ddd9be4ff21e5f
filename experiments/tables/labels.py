"""Labels of rows: what a table prints in its first column, and by which its rows are found and compared."""

from typing import Final

from experiments.reporting.table import Label

#: LoRA-Squeeze (arXiv:2602.10993) has three forms; one of them trains on for a while at the target rank.
CONT_SQUEEZE_TAIL: Final = 0.1

# Rows that several tables share.
UNTUNED: Final = Label("untuned model")
FULL: Final = Label("full fine-tuning")
LORA: Final = Label("LoRA at the target rank")
RSLORA: Final = Label("LoRA at the target rank, rsLoRA")
DORA: Final = Label("DoRA")
ADALORA: Final = Label("AdaLoRA")
SKYLINE: Final = Label("LoRA at the initial rank (skyline)")
CONT_SQUEEZE: Final = Label(
    f"truncated by svd, then {CONT_SQUEEZE_TAIL:.0%} of the steps (Cont-Squeeze)"
)


def pruned_by(criterion: str) -> Label:
    """A row pruned during training."""
    return Label(f"pruned by {criterion}")


def truncated_by(criterion: str) -> Label:
    """A row that truncates the skyline."""
    return Label(f"skyline truncated by {criterion}")


#: The paper's rule, pruned during training.
PRUNED_BY_OURS: Final = pruned_by("prunedlora2025")
CORRECTED: Final = pruned_by("prunedlora2025, half of its recovery")
TRUNCATED_BY_SVD: Final = truncated_by("svd")
PRUNED_BY_SVD: Final = pruned_by("svd")

#: Of Table 7: nothing but truncation, of a change of all weights or of the skyline.
FULL_CHANGE: Final = Label("SVD of full fine-tuning's change")
SVD_FISHER: Final = Label("svd_fisher")


def one_budget(rule: Label) -> Label:
    """A rule whose budget is shared by all modules."""
    return Label(f"{rule}, one budget for all modules")


def from_rank(rule: Label, rank: int) -> Label:
    """A rule that prunes from an initial rank."""
    return Label(f"{rule}, from {rank}")


def lora_of_rank(rank: int) -> Label:
    """Plain LoRA of a rank, in Figure 1."""
    return Label(f"LoRA, rank {rank}")


#: Of `experiments.tables.when_to_prune`: no training follows.
AT_THE_END: Final = Label("once, after the last step")
