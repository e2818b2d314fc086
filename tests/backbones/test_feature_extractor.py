import pytest
import torch
from torch.testing import assert_close

from flash_internimage import backbones
from flash_internimage.backbones import FeatureExtractor, flash_intern_image_t
from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.errors import UserError

SMALL = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}


def test_returns_the_selected_features_in_order():
    net = FlashInternImageBase(**SMALL).eval()
    extractor = FeatureExtractor(out_indices=(1, 2), **SMALL).eval()
    extractor.load_state_dict(net.state_dict(), strict=False)
    image = torch.randn(1, 3, 65, 50)
    features = net(image)
    assert_close(extractor(image), [features["res3"], features["res4"]], rtol=0, atol=0)


def test_feature_info_describes_the_features():
    extractor = FeatureExtractor(out_indices=(0, 2, 3), **SMALL)
    features = extractor(torch.randn(1, 3, 64, 96))
    assert [feature.shape[1] for feature in features] == extractor.feature_info.channels() == [16, 64, 128]
    assert [64 // feature.shape[2] for feature in features] == extractor.feature_info.reduction() == [4, 16, 32]
    assert extractor.feature_info.module_name() == ["levels.0", "levels.2", "levels.3"]
    assert all(name in dict(extractor.named_modules()) for name in extractor.feature_info.module_name())


@pytest.mark.parametrize(
    ("size", "channels", "parameters"), [("t", 64, 30e6), ("s", 80, 50e6), ("b", 112, 97e6), ("l", 160, 223e6)]
)
def test_published_sizes(size: str, channels: int, parameters: float):
    with torch.device("meta"):
        net = getattr(backbones, f"flash_intern_image_{size}")(features_only=True)
    assert net.feature_info.channels() == [channels, 2 * channels, 4 * channels, 8 * channels]
    # The numbers of the paper, which include the classifier.
    assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(parameters, rel=0.05)


@pytest.mark.parametrize("out_indices", [(), (0, 4), (-1,), (2, 1), (1, 1), (0.5,)])
def test_invalid_out_indices(out_indices: tuple):
    with pytest.raises(UserError, match="out_indices must be increasing integers from 0 to 3, got"):
        FeatureExtractor(out_indices=out_indices, **SMALL)


def test_a_classifier_is_refused():
    with pytest.raises(UserError, match="flash_intern_image_t: there is no ImageNet classifier"):
        flash_intern_image_t(features_only=False)
