"""The family of DINO: how its tensors are named, what depends on the number of classes, and how its parameters learn."""

from __future__ import annotations

from flash_internimage.families import DetectorFamily, ParameterRules, register

from .dino import DINO

# {l} is the layer. MLPs count their activations too, as nn.Sequential does.
DINO_FAMILY = register(
    DetectorFamily(
        title="DINO",
        signature="transformer.level_embeds",
        class_layers=("transformer.class_heads.{i}.*", "denoising.label_embedding.*"),
        published_names=(
            ("backbone.*", "backbone.*"),
            ("neck.convs.{i}.gn.*", "neck.convs.{i}.norm.*"),
            ("neck.convs.{i}.conv.*", "neck.convs.{i}.*"),
            ("neck.extra_convs.{i}.gn.*", "neck.extra_convs.{i}.norm.*"),
            ("neck.extra_convs.{i}.conv.*", "neck.extra_convs.{i}.*"),
            ("bbox_head.transformer.level_embeds", "transformer.level_embeds"),
            ("bbox_head.transformer.encoder.layers.{l}.attentions.0.*", "transformer.encoder.layers.{l}.self_attn.*"),
            ("bbox_head.transformer.encoder.layers.{l}.ffns.0.layers.0.0.*", "transformer.encoder.layers.{l}.feed_forward.0.*"),
            ("bbox_head.transformer.encoder.layers.{l}.ffns.0.layers.1.*", "transformer.encoder.layers.{l}.feed_forward.2.*"),
            ("bbox_head.transformer.encoder.layers.{l}.norms.{i}.*", "transformer.encoder.layers.{l}.norm{i+1}.*"),
            ("bbox_head.transformer.enc_output.*", "transformer.query_selection.projection.*"),
            ("bbox_head.transformer.enc_output_norm.*", "transformer.query_selection.norm.*"),
            ("bbox_head.transformer.query_embed.*", "transformer.query_embed.*"),
            ("bbox_head.transformer.decoder.layers.{l}.attentions.0.attn.*", "transformer.decoder.layers.{l}.self_attn.*"),
            ("bbox_head.transformer.decoder.layers.{l}.attentions.1.*", "transformer.decoder.layers.{l}.cross_attn.*"),
            ("bbox_head.transformer.decoder.layers.{l}.ffns.0.layers.0.0.*", "transformer.decoder.layers.{l}.feed_forward.0.*"),
            ("bbox_head.transformer.decoder.layers.{l}.ffns.0.layers.1.*", "transformer.decoder.layers.{l}.feed_forward.2.*"),
            ("bbox_head.transformer.decoder.layers.{l}.norms.{i}.*", "transformer.decoder.layers.{l}.norm{i+1}.*"),
            ("bbox_head.transformer.decoder.ref_point_head.*", "transformer.decoder.position_head.*"),
            ("bbox_head.transformer.decoder.norm.*", "transformer.decoder.norm.*"),
            ("bbox_head.cls_branches.{i}.*", "transformer.class_heads.{i}.*"),
            ("bbox_head.reg_branches.{i}.*", "transformer.box_heads.{i}.*"),
            ("bbox_head.label_embedding.*", "denoising.label_embedding.*"),
        ),
        parameters=ParameterRules(
            offset_layers=("sampling_offsets", "reference_points"),
            at_stem_rate=("level_embeds",),
            undecayed=("sampling_offsets",),
        ),
        parts={
            "neck": "neck",
            "transformer.encoder": "proposals",
            "transformer.query_selection": "proposals",
            "transformer.decoder": "heads",
        },
        detect=DINO.detect,
        smallest_side=DINO.smallest_side,
        adapted=("transformer.encoder", "transformer.decoder"),
        compiled=("neck", "transformer.encoder", "transformer.decoder"),
    )
)
