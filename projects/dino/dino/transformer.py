"""The transformer of DINO: from feature levels to class logits and boxes of every decoder layer.

Source: Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes", arXiv:2203.03605.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flash_internimage.modeling.detr.box_ops import inverse_sigmoid
from flash_internimage.modeling.detr.denoising import DenoisingQueries
from flash_internimage.modeling.detr.encoder import Encoder
from flash_internimage.modeling.detr.feature_levels import flatten_levels, token_centers, valid_ratios, valid_sizes
from flash_internimage.modeling.detr.mlp import mlp

from .decoder import Decoder, DecoderOutput
from .query_selection import QuerySelection, Selection


class TransformerOutput(NamedTuple):
    """Predictions of D decoder layers for P denoising queries followed by Q matching queries.

    Attributes:
        logits: (D, N, P + Q, K) class scores before the sigmoid.
        boxes: (D, N, P + Q, 4) as (cx, cy, w, h), relative to the image.
        selection: the predictions of the selected encoder tokens.
    """

    logits: Tensor
    boxes: Tensor
    selection: Selection


class DINOTransformer(nn.Module):
    """Encoder, query selection and decoder, with the class and box heads of the last two.

    Every decoder layer has its own class and box head, and the selection has one more of each. The box head of a layer is
    used twice: on the state of the layer for the reference box of the next layer, and on the normalized state for the
    prediction.
    """

    def __init__(
        self,
        encoder: Encoder,
        query_selection: QuerySelection,
        decoder: Decoder,
        num_classes: int,
        num_levels: int = 4,
        embed_dim: int = 256,
        prior_probability: float = 0.01,
    ) -> None:
        """
        Args:
            num_classes: K, without a background class.
            num_levels: feature levels.
            embed_dim: C, the number of channels of features and queries.
            prior_probability: initial class score of every query. A low score keeps thousands of easy negatives from
                dominating the focal loss at the start of training.
        """
        super().__init__()
        self.encoder = encoder
        self.query_selection = query_selection
        self.decoder = decoder
        self.level_embeds = nn.Parameter(torch.empty(num_levels, embed_dim))
        self.query_embed = nn.Embedding(query_selection.num_queries, embed_dim)
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.query_embed.weight)

        num_heads = len(decoder.layers) + 1
        class_heads = [nn.Linear(embed_dim, num_classes) for _ in range(num_heads)]
        box_heads = [mlp(embed_dim, embed_dim, 4, num_layers=3) for _ in range(num_heads)]
        for class_head, box_head in zip(class_heads, box_heads, strict=True):
            nn.init.constant_(class_head.bias, -math.log((1 - prior_probability) / prior_probability))
            nn.init.zeros_(box_head.get_parameter(f"{len(box_head) - 1}.weight"))  # initially layers keep their reference boxes
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)

    def forward(
        self,
        features: Sequence[Tensor],
        padding_masks: Sequence[Tensor],
        positions: Sequence[Tensor],
        denoising: DenoisingQueries | None = None,
    ) -> TransformerOutput:
        """Predict classes and boxes.

        Args:
            features: (N, C, H, W) for each level.
            padding_masks: (N, H, W) bool for each level, true in the padding.
            positions: (N, C, H, W) position encodings for each level; boxes and points have their dtype.
            denoising: denoising queries, in training.
        """
        spatial_shapes = [(level.shape[2], level.shape[3]) for level in features]
        valid = valid_sizes(padding_masks)
        dtype = positions[0].dtype
        ratios = valid_ratios(valid, spatial_shapes, dtype)
        centers = token_centers(valid, spatial_shapes, dtype)
        mask = torch.cat([level.flatten(1) for level in padding_masks], dim=1)  # (N, S)
        placed = [p + e[:, None, None] for p, e in zip(positions, self.level_embeds, strict=True)]

        memory = self.encoder(flatten_levels(features), flatten_levels(placed), mask, centers, spatial_shapes, ratios)
        selection = self.query_selection(memory, mask, centers, spatial_shapes, self.class_heads[-1], self.box_heads[-1])

        batch, num_queries = selection.indices.shape
        queries = self.query_embed.weight[:num_queries].expand(batch, -1, -1)  # one per rank, independent of the selected token
        boxes = selection.boxes.detach()
        attention_mask = None
        if denoising is not None:
            queries = torch.cat([denoising.contents, queries], dim=1)
            boxes = torch.cat([denoising.box_logits.sigmoid(), boxes], dim=1)
            attention_mask = denoising.attention_mask(num_queries)

        box_heads = self.box_heads[:-1]
        decoded = self.decoder(queries, boxes, memory, mask, spatial_shapes, ratios, box_heads, attention_mask)
        logits, boxes = self._predict(decoded)
        return TransformerOutput(logits, boxes, selection)

    def _predict(self, decoded: DecoderOutput) -> tuple[Tensor, Tensor]:
        """Look forward twice: the prediction of a layer is attached to the refined box of the previous layer."""
        logits, boxes = [], []
        layers = zip(decoded.states, decoded.references[:-1], self.class_heads[:-1], self.box_heads[:-1], strict=True)
        for state, reference, class_head, box_head in layers:
            logits.append(class_head(state))
            boxes.append((box_head(state) + inverse_sigmoid(reference)).sigmoid())
        return torch.stack(logits), torch.stack(boxes)
