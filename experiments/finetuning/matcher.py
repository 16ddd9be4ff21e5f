"""BERT as a model that matches hidden states."""

from jaxtyping import Float
from torch import Tensor
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from prunedlora.statistics.targets import IGNORED


class Matcher(BertPreTrainedModel):
    """BERT whose loss is the mean square of its distance from hidden states that are given as labels."""

    base_model_prefix = "bert"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """The last hidden states as logits; labels of their shape are ignored where they are `IGNORED`."""
        states = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        loss = None if labels is None else distances(states, labels).mean()
        return SequenceClassifierOutput(loss=loss, logits=states)


def distances(
    states: Float[Tensor, "n tokens d"], labels: Float[Tensor, "n tokens d"]
) -> Float[Tensor, " kept"]:
    """Square of the distance of each hidden state from its label, per dimension, where there is a label."""
    kept = labels[..., 0] != IGNORED
    return (states[kept] - labels[kept]).square().mean(dim=-1)
