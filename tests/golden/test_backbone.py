"""FlashInternImage against the stored outputs of OpenGVLab/DCNv4, the published tensors and the published recipes."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import Tensor
from torch.testing import assert_close

from tests.reference import Reference
from tests.reference.deterministic import draw_image

# One recipe per size; recipes of the same size share the backbone.
RECIPES = {
    "t": "mask_rcnn_flash_intern_image_t_fpn_1x_coco",
    "s": "mask_rcnn_flash_intern_image_s_fpn_1x_coco",
    "b": "mask_rcnn_flash_intern_image_b_fpn_1x_coco",
    "l": "cascade_flash_intern_image_l_fpn_1x_coco",
}
# The stored values are of order 1 (up to 10) and were rounded to float32, by a relative eps / 2.
STORAGE_TOLERANCE = 1e-6


def build(size: str, repository: Path) -> torch.nn.Module:
    config = LazyConfig.load(str(repository / "configs/common/models/flash_internimage.py"))
    return instantiate(config[f"flash_internimage_{size}"]).eval()


def published_backbone(size: str, reference: Reference) -> dict[str, Tensor]:
    checkpoint = reference.checkpoint(RECIPES[size])
    return {name.removeprefix("backbone."): value for name, value in checkpoint.items() if name.startswith("backbone.")}


@pytest.fixture(scope="module")
def image() -> Tensor:
    pixels = torch.from_numpy(draw_image("backbone", 224, 288)).float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return ((pixels - mean) / std).permute(2, 0, 1)[None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("size", ["t", pytest.param("b", marks=pytest.mark.slow)])
def test_stages_equal_the_published_backbone(
    size: str, dtype: torch.dtype, repository: Path, reference: Reference, image: Tensor
):
    net = build(size, repository)
    net.load_state_dict(published_backbone(size, reference))
    with torch.no_grad():
        features = net.to(dtype)(image.to(dtype))

    golden, noise = reference.golden(f"backbone_{size}"), reference.float32_noise(f"backbone_{size}")
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for index, feature in enumerate(features.values()):
        tolerance = STORAGE_TOLERANCE if dtype == torch.float64 else 10 * noise[f"stage{index}"]
        channel_step, space_step = golden["channel_space_strides"][index]
        assert feature.shape == tuple(golden[f"stage{index}/shape"])
        pairs = {
            f"stage{index}": feature[:, ::channel_step, ::space_step, ::space_step],
            f"stage{index}/mean": feature.mean(dim=(0, 2, 3)),
            f"stage{index}/std": feature.std(dim=(0, 2, 3)),
        }
        for name, value in pairs.items():
            expected = torch.from_numpy(golden[name]).to(dtype)
            assert_close(value, expected, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("size", RECIPES)
def test_has_the_published_tensors(size: str, repository: Path, reference: Reference):
    with torch.device("meta"):
        net = build(size, repository)
    manifest = reference.manifest(RECIPES[size])
    published = {
        name.removeprefix("backbone."): tuple(entry["shape"])
        for name, entry in manifest["tensors"].items()
        if name.startswith("backbone.")
    }
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in net.parameters()) == manifest["backbone_parameters"]


@pytest.mark.parametrize("size", RECIPES)
def test_config_equals_the_published_recipe(size: str, repository: Path, reference: Reference):
    config = LazyConfig.load(str(repository / "configs/common/models/flash_internimage.py"))[f"flash_internimage_{size}"]
    recipe = reference.recipes[RECIPES[size]]["backbone"]
    same_name = set(config) & set(recipe)
    assert same_name >= {"channels", "depths", "groups", "mlp_ratio", "drop_path_rate", "offset_scale", "post_norm"}
    assert {name: config[name] for name in same_name} == {name: recipe[name] for name in same_name}
    assert config.layer_scale == recipe["layer_scale_init"]
    assert (not config.post_norm) == recipe["final_norm_per_stage"]
