"""What each kind of architecture knows of published weights: to read what a checkpoint is, and to write one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import Tensor

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.architecture import ARCHITECTURES, ArchitectureConfig
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import ResizeConfig
from ecocli.config.detr import DetrConfig
from ecocli.config.maskformer import MaskFormerConfig
from ecocli.errors import DataError, UsageError
from ecocli.weights.architecture import apply_preset, infer_architecture, infer_as_preset
from ecocli.weights.detr import (
    check_detr_expressible,
    class_labels,
    detr_from_folder,
    infer_detr,
    infer_detr_as,
    to_original_detr,
    write_detr_folder,
)
from ecocli.weights.export import cut_encoder, with_empty_weight, write_huggingface, write_original
from ecocli.weights.huggingface import architecture_from_folder, check_expressible
from ecocli.weights.maskformer import infer_maskformer, infer_maskformer_as, maskformer_from_folder
from ecocli.weights.renaming import State


class WeightFormats(Protocol):
    """The published forms of one kind of architecture."""

    def read(self, path: Path, state: State, arch: str | None) -> tuple[AnyArchitecture, tuple[str, ...]]:
        """Find the architecture of a whole model, and the names of its classes where it has them.

        Args:
            path: File or Hugging Face folder.
            state: Its tensors by our names.
            arch: Name of the preset that it must be, or None.

        Raises:
            DataError: It is of another model than the preset, or of none that we compute.
        """

    def original(self, architecture: Any, state: Mapping[str, Tensor], depth: int) -> State:
        """Give the state dict of one exit as the original keeps it."""

    def check_folder(self, architecture: Any) -> None:
        """Make sure that a Hugging Face folder can hold it, before any tensor is read.

        Raises:
            UsageError: transformers has no such model.
        """

    def folder(
        self,
        architecture: Any,
        state: Mapping[str, Tensor],
        categories: Sequence[CategoryConfig],
        depth: int,
        resize: ResizeConfig,
    ) -> dict[str, bytes]:
        """Write one exit as a Hugging Face folder.

        Raises:
            UsageError: transformers has no such model.
        """


class _Mask2FormerFormats:
    def read(self, path: Path, state: State, arch: str | None) -> tuple[ArchitectureConfig, tuple[str, ...]]:
        preset = ARCHITECTURES.get(arch or "")
        if arch is not None and preset is None:
            raise DataError(
                f"The checkpoint is of another model than {arch}: it is a Mask2Former. Leave --arch out to take the "
                "architecture from the checkpoint."
            )
        if path.is_dir():
            architecture, labels = architecture_from_folder(path)
            return architecture if preset is None else apply_preset(architecture, preset), labels
        return infer_architecture(state) if preset is None else infer_as_preset(state, preset), ()

    def original(self, architecture: ArchitectureConfig, state: Mapping[str, Tensor], depth: int) -> State:
        return write_original(architecture, state, depth)

    def check_folder(self, architecture: ArchitectureConfig) -> None:
        check_expressible(architecture)

    def folder(
        self,
        architecture: ArchitectureConfig,
        state: Mapping[str, Tensor],
        categories: Sequence[CategoryConfig],
        depth: int,
        resize: ResizeConfig,
    ) -> dict[str, bytes]:
        return write_huggingface(architecture, state, [category.name for category in categories], depth, resize)


class _DetrFormats:
    def read(self, path: Path, state: State, arch: str | None) -> tuple[DetrConfig, tuple[str, ...]]:
        found, labels = detr_from_folder(path, state) if path.is_dir() else (infer_detr(state), ())
        return found if arch is None else infer_detr_as(arch, found, state), labels

    def original(self, architecture: DetrConfig, state: Mapping[str, Tensor], depth: int) -> State:
        return to_original_detr(cut_encoder(state, architecture.exits, depth))

    def check_folder(self, architecture: DetrConfig) -> None:
        check_detr_expressible(architecture)

    def folder(
        self,
        architecture: DetrConfig,
        state: Mapping[str, Tensor],
        categories: Sequence[CategoryConfig],
        depth: int,
        resize: ResizeConfig,
    ) -> dict[str, bytes]:
        names = class_labels(categories, architecture.num_classes)
        return write_detr_folder(architecture, cut_encoder(state, architecture.exits, depth), names, depth, resize)


class _MaskFormerFormats:
    def read(self, path: Path, state: State, arch: str | None) -> tuple[MaskFormerConfig, tuple[str, ...]]:
        found, labels = maskformer_from_folder(path, state) if path.is_dir() else (infer_maskformer(state), ())
        return found if arch is None else infer_maskformer_as(arch, found), labels

    def original(self, architecture: MaskFormerConfig, state: Mapping[str, Tensor], depth: int) -> State:
        return with_empty_weight(cut_encoder(state, architecture.exits, depth), architecture.num_classes)

    def check_folder(self, architecture: MaskFormerConfig) -> NoReturn:
        raise UsageError(
            "transformers' MaskFormer has a feature pyramid without an encoder. Export with --format original."
        )

    def folder(
        self,
        architecture: MaskFormerConfig,
        state: Mapping[str, Tensor],
        categories: Sequence[CategoryConfig],
        depth: int,
        resize: ResizeConfig,
    ) -> dict[str, bytes]:
        self.check_folder(architecture)


FORMATS: Mapping[str, WeightFormats] = {
    "mask2former": _Mask2FormerFormats(),
    "detr": _DetrFormats(),
    "maskformer": _MaskFormerFormats(),
}
"""By kind of architecture."""
