"""Which adapters are measured, on which of their layers, with how much text."""

from dataclasses import dataclass

from experiments.settings.jobs import RunConfig

#: Layers of a block that are measured.
LLAMA = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
BERT = ("attention.self.query", "attention.self.value", "attention.output.dense", "output.dense")
#: Query, key and value layers of a block.
LLAMA_HEADS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
BERT_HEADS = ("attention.self.query", "attention.self.key", "attention.self.value")


@dataclass(frozen=True)
class Settings:
    """What one measurement depends on.

    Attributes:
        run: training of the adapter.
        depths: blocks of the model that are measured.
        kinds: layers of each block.
        heads: its query, key and value layers.
        calibration: training examples from which statistics come, and whose loss is measured; also as many of the
            test split.
        ranks: ranks to which single layers are reduced.
        joint_ranks: ranks to which all layers are reduced at once.
        sentences: texts of equal length for the attention bounds.
        removals: random single components, and random blocks, removed from each layer.
        draws: of the noise.
        seed: of everything random in the measurement.
    """

    run: RunConfig
    depths: tuple[int, ...]
    kinds: tuple[str, ...]
    heads: tuple[str, str, str]
    calibration: int
    ranks: tuple[int, ...]
    joint_ranks: tuple[int, ...]
    sentences: int = 8
    removals: int = 2
    draws: int = 5
    seed: int = 0


SETTINGS = {
    "smollm2": Settings(
        run=RunConfig(
            model="smollm2",
            task="arithmetic",
            initial_rank=32,
            target_rank=32,
            target_modules=("all-linear",),
            steps=150,
            test_examples=200,
            eval_batch_size=100,
        ),
        depths=(0, 29),
        kinds=LLAMA,
        heads=LLAMA_HEADS,
        calibration=48,
        ranks=(8, 1),
        joint_ranks=(16, 8, 4, 2),
    ),
    "minilm": Settings(
        run=RunConfig(
            model="minilm",
            task="movie_reviews",
            initial_rank=64,
            target_rank=64,
            target_modules=("all-linear",),
            steps=300,
            learning_rate=5e-4,
            interval=5,
            warmup_steps=20,
            max_length=128,
            test_examples=1500,
        ),
        depths=(0, 2, 5),
        kinds=BERT,
        heads=BERT_HEADS,
        calibration=96,
        ranks=(16, 2),
        joint_ranks=(16, 8, 4, 2),
    ),
}
