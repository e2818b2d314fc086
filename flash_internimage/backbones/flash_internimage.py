"""FlashInternImage: a convolutional backbone with four stages of DCNv4 blocks.

Source: Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
CVPR 2024 (https://arxiv.org/abs/2401.06197), after InternImage (https://arxiv.org/abs/2211.05778). Attributes have the names
of the checkpoints published by OpenGVLab/DCNv4, so that these load without renaming.

Tensors inside the network are (N, H, W, C), the layout of linear layers, layer norms and DCNv4. Convolutions see the same
memory as (N, C, H, W) in channels-last format, so no tensor is ever transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from flash_internimage.errors import UserError
from flash_internimage.families import BackboneFamily, ParameterRules, register
from flash_internimage.layers import DCNv4, LayerNorm, Linear, opaque
from flash_internimage.layers.inference import has_hooks, is_plain_inference

# Epsilon of all layer norms in the backbone; PyTorch's default is 1e-5.
NORM_EPS = 1e-6


class ToChannelsLast(nn.Module):
    """(N, C, H, W) -> (N, H, W, C) as a view."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def layer_norm(channels: int) -> nn.Sequential:
    """Layer norm over C of (N, H, W, C); in a ``Sequential`` for the index in published names (``norm1.0.weight``)."""
    return nn.Sequential(LayerNorm(channels, eps=NORM_EPS))


def layer_norm_after_convolution(channels: int) -> nn.Sequential:
    """Layer norm over C after a convolution: (N, C, H, W) -> (N, H, W, C); published names are ``norm.1.weight``."""
    return nn.Sequential(ToChannelsLast(), LayerNorm(channels, eps=NORM_EPS))


class PatchEmbed(nn.Module):
    """Stem of two stride-2 convolutions: (N, 3, H, W) image -> (N, H / 4, W / 4, C), sizes rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = layer_norm_after_convolution(channels // 2)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = layer_norm_after_convolution(channels)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm1(self.conv1(image.contiguous(memory_format=torch.channels_last)))
        x = opaque.gelu(x) if opaque.is_compiled_inference(x) else self.act(x)
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)))


class Downsample(nn.Module):
    """Stride-2 convolution between stages: (N, H, W, C) -> (N, H / 2, W / 2, 2 C), sizes rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = layer_norm_after_convolution(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class MLP(nn.Module):
    """Two linear layers with an exact (not tanh-approximated) GELU between them."""

    def __init__(self, channels: int, hidden_channels: int, fc2_bias: bool) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_channels, channels, bias=fc2_bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        # In place, where nobody else holds the hidden features.
        in_place = is_plain_inference(hidden) and not has_hooks(self.fc1, self.act) and type(self.act) is nn.GELU
        return self.fc2(torch.ops.aten.gelu_(hidden) if in_place else self.act(hidden))


class Block(nn.Module):
    """Residual block: a DCNv4 branch, then an MLP branch, with layer norm, layer scale gamma and stochastic depth.

    A branch f computes ``x + gamma * f(norm(x))`` (pre-norm) or ``x + gamma * norm(f(x))`` (post-norm).

    Args:
        channels: number of channels C.
        group: number of channel groups of the DCNv4 layer, by its published name.
        layer_scale: initial value of gamma; None to omit gamma.
        drop_path_rate: probability that a sample skips a branch in training.

    The other arguments are those of :class:`FlashInternImageBase`.
    """

    def __init__(
        self,
        channels: int,
        group: int,
        *,
        mlp_ratio: float,
        drop_path_rate: float,
        layer_scale: float | None,
        offset_scale: float,
        post_norm: bool,
        kernel_size: int,
        dw_kernel_size: int | None,
        center_feature_scale: bool,
        remove_center: bool,
        dcn_output_bias: bool,
        mlp_fc2_bias: bool,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = layer_norm(channels)
        self.dcn = DCNv4(
            channels=channels,
            kernel_size=kernel_size,
            pad=kernel_size // 2,
            group=group,
            offset_scale=offset_scale,
            dw_kernel_size=dw_kernel_size,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
            output_bias=dcn_output_bias,
        )
        self.norm2 = layer_norm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio), mlp_fc2_bias)
        self.drop_path = StochasticDepth(drop_path_rate, mode="row")
        self.gamma1: nn.Parameter | None = None
        self.gamma2: nn.Parameter | None = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((channels,), float(layer_scale)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        x = torch.addcmul(x, self._dcn_branch(x), self._scale(x, self.gamma1))
        if not self.training and self._is_opaque(x):
            fc1, fc2 = (list(module.parameters()) for module in (self.mlp.fc1, self.mlp.fc2))
            return opaque.mlp_branch(x, *self.norm2.parameters(), fc1, fc2, self.gamma2, NORM_EPS, self.post_norm)
        if self.training or not is_plain_inference(x) or has_hooks(self.norm2, self.mlp):
            return torch.addcmul(x, self._mlp_branch(x), self._scale(x, self.gamma2))
        # Cache blocking: on a CPU, temporaries that exceed the caches cost as much time as the arithmetic, and the hidden
        # features of the MLPs are the largest in the network. Autograd keeps them anyway, and a compiler fuses by itself.
        chunks = x.reshape(1, -1, 1, x.shape[-1])
        for chunk in chunks.split(opaque.CHUNK_SIZE, dim=1):
            chunk.addcmul_(self._mlp_branch(chunk), self._scale(chunk, self.gamma2))
        return chunks.view(x.shape)

    def _dcn_branch(self, x: Tensor) -> Tensor:
        return self.norm1(self.dcn(x)) if self.post_norm else self.dcn(self.norm1(x))

    def _mlp_branch(self, x: Tensor) -> Tensor:
        return self.norm2(self.mlp(x)) if self.post_norm else self.mlp(self.norm2(x))

    def _is_opaque(self, x: Tensor) -> bool:
        """Whether the MLP branch is one operator for the compiler, which would break it into slower pieces."""
        modules = (self.norm2[0], self.mlp.fc1, self.mlp.act, self.mlp.fc2)
        if not opaque.is_compiled_inference(x) or has_hooks(self.norm2, self.mlp, *modules):
            return False
        # A module of another type, such as an adapter, may compute something else.
        is_usual = tuple(map(type, modules)) == (LayerNorm, Linear, nn.GELU, Linear)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return is_usual and all(parameter.dtype == dtype for parameter in self.mlp.parameters())

    def _scale(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        """Factor on a branch: layer scale times stochastic depth, which draws one factor per sample.

        Their product is smaller than the feature map, which is multiplied once, by ``torch.addcmul``.
        """
        scale = x.new_ones(1) if gamma is None else gamma
        return self.drop_path(scale.expand(x.shape[0], 1, 1, -1))


class Stage(nn.Module):
    """Blocks at one resolution, a final norm in pre-norm networks, and the downsampling to the next resolution."""

    def __init__(self, blocks: Sequence[Block], norm: nn.Module | None, downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.downsample = downsample

    def forward(self, x: Tensor, with_cp: bool) -> tuple[Tensor, Tensor | None]:
        """Return the stage's features (N, H, W, C) and the next stage's input (N, H / 2, W / 2, 2 C), None for the last."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if with_cp else block(x)
        if self.norm is not None:
            x = self.norm(x)
        return x, None if self.downsample is None else self.downsample(x)


class FlashInternImageBase(nn.Module):
    """FlashInternImage as a module of PyTorch alone.

    :class:`flash_internimage.modeling.FlashInternImage` makes it a detectron2 ``Backbone``, :mod:`flash_internimage.backbones`
    a feature extractor with the conventions of timm.

    The stages compute the features ``res2`` ... ``res5`` at strides 4, 8, 16, 32, with 1, 2, 4, 8 times ``channels``
    channels. Any image size is accepted: each stride of 2 rounds sizes up. The defaults are those of FlashInternImage-T.

    Weights are initialized as published: linear layers from a normal distribution of standard deviation 0.02 truncated at
    +-2, norms to the identity, convolutions to PyTorch's default, and DCNv4 layers by their own rule (zero offsets and
    modulation scalars, Xavier-uniform projections).

    Some names differ between layers, because the published names are kept: the entries of ``groups`` are the ``group``
    argument of :class:`Block` and :class:`~flash_internimage.layers.DCNv4`, and ``groups`` of the operator. The padding,
    ``pad`` of the layer and ``padding`` of the operator, is always ``kernel_size // 2`` here.

    Args:
        channels: channels of the first stage; each later stage has twice as many as its predecessor.
        depths: number of blocks of each stage.
        groups: number of DCNv4 channel groups of each stage.
        mlp_ratio: ratio of hidden to input channels of the MLPs.
        drop_path_rate: stochastic depth rate of the last block; rates increase linearly from 0 at the first block.
        layer_scale: initial value of the learned factors on the residual branches; None to omit the factors.
        offset_scale: factor on the distance of sampling points from the window center in the DCNv4 layers.
        post_norm: normalize after each branch (sizes S, B, L) instead of before it (size T). Without post-norm, each stage
            ends with a norm, whose output is both the feature and the input of the next stage.
        kernel_size: kernel size of the DCNv4 layers; odd.
        dw_kernel_size: kernel size of the depth-wise convolution before the offset prediction; None to omit it.
        center_feature_scale: blend the output of the DCNv4 layers with their projected input by a learned gate.
        remove_center: omit the center point of the DCNv4 windows.
        dcn_output_bias: give the output projection of the DCNv4 layers a bias.
        mlp_fc2_bias: give the second linear layer of each MLP a bias.
        with_cp: gradient checkpointing: store only the input of each block and recompute the rest in the backward pass.
        freeze_at: freeze the stem (1), the stem and res2 (2), up to res3 (3), ...; 0 freezes nothing. Frozen parts get no
            gradients and no stochastic depth.
        out_features: names of the features to return. Stages after the last of them are not built.

    Raises:
        UserError: the arguments contradict each other.
    """

    def __init__(
        self,
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        layer_scale: float | None = 1.0,
        offset_scale: float = 1.0,
        post_norm: bool = False,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        dcn_output_bias: bool = False,
        mlp_fc2_bias: bool = False,
        with_cp: bool = False,
        freeze_at: int = 0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        super().__init__()
        if len(depths) != len(groups):
            raise UserError(
                f"FlashInternImage: depths and groups need one entry per stage, got {list(depths)} and {list(groups)}"
            )
        names = [f"res{index + 2}" for index in range(len(depths))]
        unknown = [name for name in out_features if name not in names]
        if unknown or not out_features:
            raise UserError(f"FlashInternImage: out_features must be a non-empty subset of {names}, got {list(out_features)}")
        if not 0 <= freeze_at <= len(depths) + 1:
            raise UserError(f"FlashInternImage: freeze_at must be between 0 and {len(depths) + 1}, got {freeze_at}")
        if kernel_size % 2 == 0:
            raise UserError(f"FlashInternImage: kernel_size must be odd to keep the size of the feature map, got {kernel_size}")

        self.with_cp = with_cp
        self.freeze_at = freeze_at
        self._out_features = list(out_features)
        self._out_feature_strides = {name: 4 * 2**index for index, name in enumerate(names)}
        self._out_feature_channels = {name: channels * 2**index for index, name in enumerate(names)}

        self.patch_embed = PatchEmbed(channels)
        self.levels = nn.ModuleList()
        drop_path_rates = iter(linear_rates(drop_path_rate, sum(depths)))
        last = max(names.index(name) for name in out_features)
        for index in range(last + 1):
            stage_channels = channels * 2**index
            blocks = [
                Block(
                    stage_channels,
                    groups[index],
                    mlp_ratio=mlp_ratio,
                    drop_path_rate=next(drop_path_rates),
                    layer_scale=layer_scale,
                    offset_scale=offset_scale,
                    post_norm=post_norm,
                    kernel_size=kernel_size,
                    dw_kernel_size=dw_kernel_size,
                    center_feature_scale=center_feature_scale,
                    remove_center=remove_center,
                    dcn_output_bias=dcn_output_bias,
                    mlp_fc2_bias=mlp_fc2_bias,
                )
                for _ in range(depths[index])
            ]
            norm = None if post_norm else layer_norm(stage_channels)
            downsample = None if index == last else Downsample(stage_channels)
            self.levels.append(Stage(blocks, norm, downsample))

        self.apply(_initialize_linear)
        for module in self.modules():
            if isinstance(module, DCNv4):
                module.reset_parameters()
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch of images.

        Args:
            image: (N, 3, H, W) normalized RGB images.

        Returns:
            Feature name -> (N, C, H / stride, W / stride), sizes rounded up, in channels-last memory format.
        """
        if image.dim() != 4 or image.shape[1] != 3:
            raise UserError(f"FlashInternImage: expected images (N, 3, H, W), got shape {tuple(image.shape)}")
        with_cp = self.with_cp and torch.is_grad_enabled()
        features = {}
        x = self.patch_embed(image)
        for index, stage in enumerate(self.levels):
            feature, x = stage(x, with_cp)
            if (name := f"res{index + 2}") in self._out_features:
                features[name] = feature.permute(0, 3, 1, 2)
        return features

    @property
    def size_divisibility(self) -> int:
        """Divisor that images should be padded to: the stride of the last stage."""
        return 4 * 2 ** (len(self.levels) - 1)

    def train(self, mode: bool = True) -> FlashInternImageBase:
        """Set the training mode, except that frozen parts stay in evaluation mode and hence deterministic."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.freeze_at == 0:
            return []
        frozen: list[nn.Module] = [self.patch_embed]
        stages = cast("list[Stage]", list(self.levels))
        for index, stage in enumerate(stages[: self.freeze_at - 1]):
            # A downsampling layer is frozen with the stage that it leads to.
            before = stages[index - 1].downsample if index > 0 else None
            frozen += [module for module in (before, stage.blocks, stage.norm) if module is not None]
        return frozen


def stage_channels(channels: int, names: Sequence[str]) -> list[int]:
    """Channels of the features ``names`` (``res2``, ``res3``, ...) of a backbone whose ``res2`` has ``channels`` channels.

    Configs call it lazily, so that the input channels of a neck follow ``channels`` of the backbone.
    """
    return [channels * 2 ** (int(name.removeprefix("res")) - 2) for name in names]


def linear_rates(last: float, count: int) -> list[float]:
    """``count`` rates, increasing linearly from 0 to ``last``."""
    return [last * index / max(count - 1, 1) for index in range(count)]


def _initialize_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_BLOCK = re.compile(r"(?:^|\.)levels\.(\d+)\.blocks\.(\d+)\.")
_BETWEEN_STAGES = re.compile(r"(?:^|\.)levels\.(\d+)\.(?:downsample|norm)\.")
_STEM = re.compile(r"(?:^|\.)patch_embed\.")


def stage_depths(names: Iterable[str]) -> list[int]:
    """Number of blocks of each stage, from the parameter names of a model that contains a :class:`FlashInternImageBase`."""
    depths: dict[int, int] = {}
    for match in filter(None, map(_BLOCK.search, names)):
        stage, block = int(match[1]), int(match[2])
        depths[stage] = max(depths.get(stage, 0), block + 1)
    return [depths[stage] for stage in sorted(depths)]


def layer_ids(names: Sequence[str]) -> dict[str, int]:
    """Assign a layer id to each parameter, for layer-wise learning rate decay.

    The ids are those of the published recipes:

    - stem: 0;
    - blocks: 1, 2, ... across all stages;
    - norm and downsampling between two stages: the id of the first block after them;
    - norm of the last stage: the id of the *first* block of that stage;
    - all parameters outside the backbone: the id of the last block + 1.

    Args:
        names: all parameter names of the model. Those of the backbone may have any prefix (``backbone.bottom_up.``).

    Returns:
        Parameter name -> layer id, from 0 to the number of blocks + 1.
    """
    depths = stage_depths(names)
    first_block = [1 + sum(depths[:stage]) for stage in range(len(depths))]

    def layer_id(name: str) -> int:
        if match := _BLOCK.search(name):
            return first_block[int(match[1])] + int(match[2])
        if match := _BETWEEN_STAGES.search(name):
            return first_block[min(int(match[1]) + 1, len(depths) - 1)]
        return 0 if _STEM.search(name) else sum(depths) + 1

    return {name: layer_id(name) for name in names}


FLASH_INTERNIMAGE = register(
    BackboneFamily(
        title="FlashInternImage",
        signature="patch_embed.conv1.weight",
        classifier=("head.", "conv_head.", "fc_norm.", "avgpool."),
        parameters=ParameterRules(
            offset_layers=("offset_mask.",),  # with the dot: the published rule leaves out "offset_mask_dw"
            undecayed=("relative_position",),
        ),
    )
)
