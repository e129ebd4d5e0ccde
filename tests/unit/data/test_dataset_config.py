import re

import pytest
from pydantic import ValidationError

from ecocli.config.dataset import AugmentationConfig, DatasetConfig, ResizeConfig
from ecocli.config.loading import resolve_config


def test_dataset_config__coco__published_recipe() -> None:
    # Mask2Former, COCO panoptic: large-scale jitter 0.1 to 2.0 with a 1024 crop; tested at 800, at most 1333.
    config = DatasetConfig(name="coco")
    assert config.augmentation.scale_range == (0.1, 2.0)
    assert config.augmentation.crop_size == (1024, 1024)
    assert config.test_resize == ResizeConfig(short_edge_px=800, long_edge_px=1333)


def test_dataset_config__cityscapes__published_recipe() -> None:
    # Mask2Former, Cityscapes: short edge 0.5 to 2.0 times 1024 in steps of a tenth, crop 512 x 1024, SSD colours.
    config = DatasetConfig(name="cityscapes")
    edges = config.augmentation.short_edges_px
    assert (len(edges), edges[0], edges[1], edges[5], edges[-1]) == (16, 512, 614, 1024, 2048)
    assert config.augmentation.long_edge_px == 4096
    assert config.augmentation.crop_size == (512, 1024)
    assert config.augmentation.color == "ssd"
    assert config.test_resize == ResizeConfig(short_edge_px=1024, long_edge_px=2048)


def test_dataset_config__shapes__flip_and_mild_colors_at_full_size() -> None:
    config = DatasetConfig()
    assert config.augmentation == AugmentationConfig(flip_ratio=0.5, color="mild")
    assert config.test_resize == ResizeConfig()
    assert config.cache_images


def test_dataset_config__one_key_changed__others_keep_the_recipe() -> None:
    layers = ({"name": "coco"}, {"augmentation": {"flip_ratio": 0.0, "scale_range": [0.5, 1.5]}})
    config = resolve_config(DatasetConfig, *layers)
    assert config.augmentation.scale_range == (0.5, 1.5)
    assert config.augmentation.crop_size == (1024, 1024)
    assert config.test_resize.short_edge_px == 800


def test_dataset_config__written_and_read__same_without_the_root() -> None:
    config = DatasetConfig(name="cityscapes", root="/somewhere")
    text = config.model_dump_json()
    assert "somewhere" not in text
    assert DatasetConfig.model_validate_json(text) == config.model_copy(update={"root": None})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"crop_height_px": 5}, "crop_height_px and crop_width_px go together"),
        (
            {"scale_range": (0.1, 2.0), "short_edges_px": (3,), "crop_height_px": 5, "crop_width_px": 5},
            "scale_range and short_edges_px exclude each other",
        ),
        ({"scale_range": (0.1, 2.0)}, "scale_range is relative to the crop"),
        (
            {"scale_range": (2.0, 0.1), "crop_height_px": 5, "crop_width_px": 5},
            "scale_range must be ascending and positive",
        ),
    ],
)
def test_augmentation_config__contradiction__says_what_to_set(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        AugmentationConfig.model_validate(settings)


def test_dataset_config__not_a_mapping__refused() -> None:
    with pytest.raises(ValidationError, match="valid dictionary"):
        DatasetConfig.model_validate(3)
