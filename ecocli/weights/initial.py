"""Published weights as the start of a training: what they are, before a model for them exists."""

from pathlib import Path

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.weights.architecture import infer_architecture
from ecocli.weights.detr import detr_from_folder, infer_detr
from ecocli.weights.files import load_state
from ecocli.weights.huggingface import architecture_from_folder
from ecocli.weights.loading import recognise


def initial_architecture(path: Path) -> AnyArchitecture | None:
    """Find the architecture of published weights.

    Args:
        path: File, or Hugging Face folder.

    Returns:
        The architecture of a whole Mask2Former; None for a backbone alone, which says nothing about the rest.

    Raises:
        DataError: The source is missing, damaged, unknown, or asks to execute something.
    """
    recognised = recognise(load_state(path), str(path))
    if recognised.is_detr:
        return detr_from_folder(path, recognised.tensors)[0] if path.is_dir() else infer_detr(recognised.tensors)
    if path.is_dir():
        return architecture_from_folder(path)[0]
    return infer_architecture(recognised.tensors) if recognised.is_full else None
