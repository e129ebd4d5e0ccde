"""Settings of ``eco import``: what the user says about a checkpoint, and what identifies the import."""

from typing import Self

from pydantic import model_validator

from ecocli.config.any_architecture import ALL_ARCHITECTURES
from ecocli.config.base import Config
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import ResizeConfig


class ImportWeightsConfig(Config):
    """What the user says.

    Attributes:
        source: Path of the file or Hugging Face folder.
        arch: Preset that the checkpoint must be; None takes the architecture from the checkpoint.
        categories: ``coco``, ``cityscapes``, ``ade20k``, ``mapillary``, ``shapes``, each also with ``-things`` for its
            things alone, or the path of a panoptic annotation file, whose categories the classes are; None goes by
            the number of classes: 133, 80, 19, 8, 150, 100 or 65.
    """

    source: str
    arch: str | None = None
    categories: str | None = None

    @model_validator(mode="after")
    def _check_arch(self) -> Self:
        if self.arch is not None and self.arch not in ALL_ARCHITECTURES:
            raise ValueError(f"arch is {self.arch!r}, expected one of {', '.join(ALL_ARCHITECTURES)}")
        return self


class ImportRequest(Config):
    """What identifies an import; the path of the source does not.

    Attributes:
        source_digest: SHA-256 of the file, or over the files of a folder.
        arch: As the user said.
        categories: In the order of the class index.
        test_resize: How images are resized for this model.
    """

    source_digest: str
    arch: str | None
    categories: tuple[CategoryConfig, ...]
    test_resize: ResizeConfig
