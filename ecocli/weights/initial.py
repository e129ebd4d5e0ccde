"""Published weights as the start of a training: what they are, before a model for them exists."""

from pathlib import Path

from ecocli.config.architecture import ArchitectureConfig
from ecocli.weights.architecture import infer_architecture
from ecocli.weights.files import load_state
from ecocli.weights.huggingface import architecture_from_folder
from ecocli.weights.loading import recognise


def initial_architecture(path: Path) -> ArchitectureConfig | None:
    """Find the architecture of published weights.

    Args:
        path: File, or Hugging Face folder.

    Returns:
        The architecture of a whole Mask2Former; None for a backbone alone, which says nothing about the rest.

    Raises:
        DataError: The source is missing, damaged, unknown, or asks to execute something.
    """
    if path.is_dir():
        return architecture_from_folder(path)[0]
    recognised = recognise(load_state(path), str(path))
    return infer_architecture(recognised.tensors) if recognised.is_full else None
