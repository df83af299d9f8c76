"""Heads for encoders that have none in transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class EncoderForImageClassification(PreTrainedModel):
    """Any image encoder with a linear classifier on the mean of its last hidden state, such as SAM's."""

    config_class = PreTrainedConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config)
        num_features = getattr(config, "output_channels", None) or config.hidden_size
        self.classifier = nn.Linear(num_features, config.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """``pixel_values`` are float32 [B, C, H, W], ``labels`` int64 [B]; logits are [B, num_labels].

        Where each image has several labels, ``labels`` are 0 and 1, float32 [B, num_labels].
        """
        hidden = self.encoder(pixel_values).last_hidden_state  # [B, features, rows, columns] or [B, tokens, features]
        logits = self.classifier(hidden.mean(dim=(2, 3) if hidden.ndim == 4 else 1))
        loss = None
        if labels is not None:
            of = functional.binary_cross_entropy_with_logits if labels.is_floating_point() else functional.cross_entropy
            loss = of(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


OWN_HEADS = {"ImageClassification": EncoderForImageClassification}  # by the end of the auto class that they stand for
