import torch

from experiments.real_layers import attention
from theory.statements.attention import head_output


def test_recorded_heads_give_the_models_own_attention_output(measured):
    batch = attention.sentences(measured)
    with attention.recorded(measured.model.get_base_model()):
        Q, K, V, mask = attention.heads_of(measured.model, batch, (0,))[0]
    kind = "self_attn.o_proj" if measured.settings.run.model == "tiny" else "attention.output.dense"
    layer = next(
        c.module.layer for p, c in measured.candidates.items() if p.depth == 0 and p.kind == kind
    )
    seen = []
    handle = layer.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        measured.model(**batch)
    handle.remove()
    allowed = None if mask is None else (mask >= 0).expand(*Q.shape[:2], *mask.shape[-2:])
    Z = head_output(Q, K, V, allowed).transpose(1, 2).flatten(2)
    torch.testing.assert_close(Z, seen[0].double(), rtol=1e-4, atol=1e-6)


def test_the_corrected_bound_holds_on_every_head(measured):
    for row in attention.bounds(measured):
        assert row["corrected_violated"] == 0
        assert 0 < row["error_over_corrected_max"] <= 1
