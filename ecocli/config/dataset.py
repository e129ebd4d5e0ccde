"""Settings of a data set: which one, where it lies, and the knobs of the drawn ``shapes`` scenes."""

from typing import Annotated

from pydantic import Field

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
    max_objects: Annotated[int, Field(ge=1, le=60)] = 13
    clutter: Ratio = 0.8
    camouflage: Ratio = 0.5
    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 9.0
    illumination: Ratio = 0.35
    worms: Ratio = 0.35
    far_context: Ratio = 0.3
    void: Ratio = 0.35
    crowd: Ratio = 0.25
