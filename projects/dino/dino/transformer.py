"""DINO's transformer: feature levels in, class logits and boxes of every decoder layer out.

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
from flash_internimage.modeling.detr.feature_levels import cell_centers, flatten_levels, valid_ratios, valid_sizes
from flash_internimage.modeling.detr.mlp import mlp

from .decoder import Decoder, DecoderOutput
from .query_selection import QuerySelection, Selection


class TransformerOutput(NamedTuple):
    """Predictions of D decoder layers for P denoising and then Q learned queries.

    Attributes:
        logits: (D, N, P + Q, K) class scores before the sigmoid.
        boxes: (D, N, P + Q, 4) as (cx, cy, w, h), relative to the image.
        selection: what the encoder's tokens predict by themselves.
    """

    logits: Tensor
    boxes: Tensor
    selection: Selection


class DINOTransformer(nn.Module):
    """Encoder, query selection, decoder, and the heads that the last two share.

    Every decoder layer has its own classification and regression head, and the selection has one more of each. A layer's
    regression head is used twice: on its state to refine the next layer's box, and on its normalized state to predict.
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
            embed_dim: C, of features, queries and everything between.
            prior_probability: class score of every query before training, so that the focal loss is not swamped by
                the thousands of easy negatives at its start.
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
        self.class_heads = nn.ModuleList(nn.Linear(embed_dim, num_classes) for _ in range(num_heads))
        self.box_heads = nn.ModuleList(mlp(embed_dim, embed_dim, 4, num_layers=3) for _ in range(num_heads))
        for class_head, box_head in zip(self.class_heads, self.box_heads, strict=True):
            nn.init.constant_(class_head.bias, -math.log((1 - prior_probability) / prior_probability))
            nn.init.zeros_(box_head[-1].weight)  # every layer begins by keeping the box it is given

    def forward(
        self,
        features: Sequence[Tensor],
        padding_masks: Sequence[Tensor],
        positions: Sequence[Tensor],
        denoising: DenoisingQueries | None = None,
    ) -> TransformerOutput:
        """
        Args:
            features: (N, C, H, W) for each level.
            padding_masks: (N, H, W) bool for each level, true where a cell is padding.
            positions: (N, C, H, W) encodings for each level; their dtype is that of all geometry.
            denoising: queries made from the targets, in training.
        """
        spatial_shapes = [(level.shape[2], level.shape[3]) for level in features]
        valid = valid_sizes(padding_masks)
        dtype = positions[0].dtype
        ratios = valid_ratios(valid, spatial_shapes, dtype)
        centers = cell_centers(valid, spatial_shapes, dtype)
        mask = torch.cat([level.flatten(1) for level in padding_masks], dim=1)  # (N, S)
        placed = [p + e[:, None, None] for p, e in zip(positions, self.level_embeds, strict=True)]

        memory = self.encoder(flatten_levels(features), flatten_levels(placed), mask, centers, spatial_shapes, ratios)
        selection = self.query_selection(memory, mask, centers, spatial_shapes, self.class_heads[-1], self.box_heads[-1])

        batch, num_queries = selection.indices.shape
        queries = self.query_embed.weight[:num_queries].expand(batch, -1, -1)  # one a rank, whatever token has it
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
        """Look forward twice: a layer corrects the box that the layer before refined, without detaching it."""
        logits, boxes = [], []
        layers = zip(decoded.states, decoded.references[:-1], self.class_heads[:-1], self.box_heads[:-1], strict=True)
        for state, reference, class_head, box_head in layers:
            logits.append(class_head(state))
            boxes.append((box_head(state) + inverse_sigmoid(reference)).sigmoid())
        return torch.stack(logits), torch.stack(boxes)
