"""Settings of a data set: which one, where it lies, how images are varied and resized, what ``shapes`` draws.

The published recipes stand in ``DATASET_PRESETS``. A ``DatasetConfig`` starts from the preset of its name, so that
``DatasetConfig(name="coco")`` is complete and one changed key leaves the others at the recipe's values.
Source of the recipes: Mask2Former (arXiv 2112.01527), its COCO and Cityscapes panoptic settings.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ecocli.config.base import Config

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class SceneConfig(Config):
    """What a drawn scene may contain; every scene is a function of these, the seed, the split and its index.

    One number per image, its difficulty in 0..1, drives object count, size, overlap, colour similarity,
    texture, camouflage and illumination together.

    Attributes:
        size: Height and width of an image, in pixels.
        easy_weight: Weight of the regime with difficulty 0 to 0.25: one to three large objects.
        medium_weight: Weight of the regime with difficulty 0.25 to 0.65.
        hard_weight: Weight of the regime with difficulty 0.65 to 1: small objects, crossing worms.
        max_objects: About how many objects the hardest scene holds.
        clutter: How much the difficulty makes objects gather, overlap and share colours.
        color_cue: Share of figures of the hardest scene painted in the hue of their class, shared with one other.
        camouflage: How much the difficulty pulls object colours towards the ground below them.
        noise: Standard deviation of the pixel noise of the hardest scene, in grey levels.
        illumination: Strength of the light gradient of the hardest scene.
        worms: Share of worms among the objects of the hardest scene.
        far_context: Share of images with lamps, whose class only the distant sun or moon tells.
        void: Share of images with unlabelled borders or blobs.
        crowd: Share of the harder images with a crowd segment.
    """

    size: Annotated[int, Field(ge=48, le=1024)] = 128
    easy_weight: Annotated[float, Field(ge=0.0)] = 0.35
    medium_weight: Annotated[float, Field(ge=0.0)] = 0.35
    hard_weight: Annotated[float, Field(ge=0.0)] = 0.3
    max_objects: Annotated[int, Field(ge=1, le=60)] = 11
    clutter: Ratio = 0.5
    color_cue: Ratio = 0.85
    camouflage: Ratio = 0.2
    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 9.0
    illumination: Ratio = 0.35
    worms: Ratio = 0.22
    far_context: Ratio = 0.4
    void: Ratio = 0.35
    crowd: Ratio = 0.25


class ShapesConfig(Config):
    """The generated data set ``shapes``: how many scenes, from which seed, of what kind.

    Attributes:
        seed: Seed of all scenes.
        train: Number of training images.
        val: Number of validation images.
        scenes: What a scene may contain.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    train: Annotated[int, Field(ge=1, le=10_000_000)] = 3000
    val: Annotated[int, Field(ge=1, le=10_000_000)] = 2048
    scenes: SceneConfig = SceneConfig()


class WindowConfig(Config):
    """DETR's random window: before the short edge is chosen, some images are scaled and cut.

    Attributes:
        ratio: Share of the images it happens to.
        short_edges_px: Short edges the image is scaled to first, one of them at random.
        min_px: Least height and width of the window.
        max_px: Greatest height and width of the window.
    """

    ratio: Ratio = 0.5
    short_edges_px: tuple[int, ...] = (400, 500, 600)
    min_px: Annotated[int, Field(ge=1)] = 384
    max_px: Annotated[int, Field(ge=1)] = 600


class AugmentationConfig(Config):
    """Random changes of training images. Without jitter and short edges the size stays as it is.

    Attributes:
        flip_ratio: Probability of a horizontal flip.
        scale_range: Large-scale jitter: range of the factor between the image fitted into the crop and the
            scaled image.
        short_edges_px: Short edges to choose from, in place of the jitter.
        long_edge_px: Bound of the long edge that goes with the short edges.
        crop_height_px: Height of the crop; smaller images are padded when there is jitter.
        crop_width_px: Width of the crop.
        color: ``none``; ``mild`` changes of brightness and contrast; ``ssd``, the Cityscapes recipe's.
        keep_empty_masks: Keep segments that a crop left without a pixel, as the published recipes do.
        window: DETR's random window before the short edge; boxes only.
    """

    flip_ratio: Ratio = 0.5
    scale_range: tuple[float, float] | None = None
    short_edges_px: tuple[int, ...] = ()
    long_edge_px: int | None = None
    crop_height_px: int | None = None
    crop_width_px: int | None = None
    color: Literal["none", "mild", "ssd"] = "none"
    keep_empty_masks: bool = False
    window: WindowConfig | None = None

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """Height and width of the crop, if there is one."""
        if self.crop_height_px is None or self.crop_width_px is None:
            return None
        return self.crop_height_px, self.crop_width_px

    @model_validator(mode="after")
    def _check(self) -> "AugmentationConfig":
        if (self.crop_height_px is None) != (self.crop_width_px is None):
            raise ValueError("crop_height_px and crop_width_px go together: set both or neither")
        if self.scale_range is not None and self.short_edges_px:
            raise ValueError("scale_range and short_edges_px exclude each other: set one of them")
        if self.scale_range is not None and self.crop_size is None:
            raise ValueError("scale_range is relative to the crop: set crop_height_px and crop_width_px as well")
        if self.scale_range is not None and not 0.0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError("scale_range must be ascending and positive, such as [0.1, 2.0]")
        return self


class ResizeConfig(Config):
    """How images are resized for testing; the ground truth always keeps its own size.

    Attributes:
        short_edge_px: Wanted short edge, or None to keep the size.
        long_edge_px: Bound of the long edge, or None for none.
    """

    short_edge_px: Annotated[int, Field(ge=1)] | None = None
    long_edge_px: Annotated[int, Field(ge=1)] | None = None


KEEP_SIZE = ResizeConfig()


_COCO_PRESET: dict[str, Any] = {
    "augmentation": {
        "scale_range": (0.1, 2.0),
        "crop_height_px": 1024,
        "crop_width_px": 1024,
        "keep_empty_masks": True,
    },
    "test_resize": {"short_edge_px": 800, "long_edge_px": 1333},
}

DATASET_PRESETS: dict[str, Mapping[str, Any]] = {
    "shapes": {"augmentation": {"color": "mild"}, "cache_images": True},
    "coco": _COCO_PRESET,
    "cityscapes": {
        "augmentation": {
            "short_edges_px": tuple(int(tenths * 102.4) for tenths in range(5, 21)),
            "long_edge_px": 4096,
            "crop_height_px": 512,
            "crop_width_px": 1024,
            "color": "ssd",
            "keep_empty_masks": True,
        },
        "test_resize": {"short_edge_px": 1024, "long_edge_px": 2048},
    },
}
"""Published recipe of each built-in data set; a data set of the user's starts from COCO's."""


class DatasetConfig(Config):
    """One data set, by name or by the path of a TOML file that describes it.

    Attributes:
        name: ``shapes``, ``coco``, ``cityscapes``, or the path of a ``.toml`` file.
        root: Folder that holds the data sets; None for ``datasets`` in the working directory. It is not part of
            the serialised settings, since the same data in another place must give the same digests.
        augmentation: Random changes of training images.
        test_resize: Size rule for testing.
        cache_images: Keep decoded images in memory; for small data sets.
        shapes: What to generate when the name is ``shapes``; None for any other data set.
    """

    name: str = "shapes"
    root: str | None = Field(default=None, exclude=True)
    augmentation: AugmentationConfig
    test_resize: ResizeConfig
    cache_images: bool = False
    shapes: ShapesConfig | None = None

    @property
    def drawn(self) -> ShapesConfig:
        """What to generate; of the data set ``shapes`` alone."""
        assert self.shapes is not None
        return self.shapes

    @property
    def source(self) -> str:
        """What the images come from: the name, and for drawn scenes their seed."""
        return self.name if self.shapes is None else f"{self.name}, seed {self.shapes.seed}"

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        name = str(given.get("name", "shapes"))
        preset = DATASET_PRESETS.get(name, _COCO_PRESET)
        settings = {"augmentation": {}, "test_resize": {}, **preset, **({"shapes": {}} if name == "shapes" else {})}
        for key, value in given.items():
            former = settings.get(key)
            if isinstance(former, Mapping) and isinstance(value, Mapping):
                value = {**former, **value}
            settings[key] = value
        return _with_tuples(settings)

    @model_validator(mode="after")
    def _check(self) -> "DatasetConfig":
        if self.shapes is not None and self.name != "shapes":
            raise ValueError(f"shapes is a section of the data set shapes alone, not of {self.name}: leave it out")
        return self


def _with_tuples(value: Any) -> Any:
    """Turn lists, as JSON gives them, into the tuples that strict validation wants."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value


class CustomSplit(Config):
    """Where one split of a user's own data set lies; paths are relative to the TOML file.

    Attributes:
        images: Folder of the images.
        annotations: JSON file in COCO's panoptic format; detection does without where there is an instance file.
        panoptic: Folder of the panoptic PNG files; the same.
        instances: JSON file in COCO's instance format: the truth of detection, and what a segmentation's AP is
            measured against. None takes the things of the panoptic maps.
    """

    images: str
    annotations: str | None = None
    panoptic: str | None = None
    instances: str | None = None


class CustomDataset(Config):
    """A user's own data set in COCO's panoptic format, as described by a TOML file.

    Attributes:
        name: Name for reports.
        splits: Split name, such as ``train`` or ``val``, to its place.
    """

    name: str
    splits: dict[str, CustomSplit]
