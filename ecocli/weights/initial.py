"""Published weights as the start of a training: what they are, before a model for them exists."""

from pathlib import Path

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.weights.files import load_state
from ecocli.weights.formats import FORMATS
from ecocli.weights.loading import recognise


def initial_architecture(path: Path) -> AnyArchitecture | None:
    """Find the architecture of published weights.

    Returns:
        The architecture of a whole model; None for a backbone alone, which says nothing about the rest.

    Raises:
        DataError: The source is missing, damaged, unknown, or asks to execute something.
    """
    recognised = recognise(load_state(path), str(path))
    return FORMATS[recognised.kind].read(path, recognised.tensors, None)[0] if recognised.is_full else None
