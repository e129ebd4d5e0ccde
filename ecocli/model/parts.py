"""A model as a list of steps with named tensors between them.

GFLOPs count these steps and latency times them; run in order they give what ``forward`` gives. Exporters cut otherwise
(``ecocli.export.graphs``): each encoder layer is a graph of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One step.

    Attributes:
        name: Unique in its list.
        run: Takes the inputs, in order, and returns the outputs, in order.
        outputs: Names of the tensors it writes; a name may stand for a newer tensor afterwards.
    """

    name: str
    run: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def run_parts(
    parts: Sequence[Part],
    given: Mapping[str, Tensor],
    after: Callable[[Part], None] = lambda _part: None,
) -> dict[str, Tensor]:
    """Run steps in order.

    Args:
        given: Tensors to start from, by name.

    Returns:
        All tensors by name, the given ones among them.
    """
    values = dict(given)
    for part in parts:
        outputs = part.run(*(values[name] for name in part.inputs))
        values.update(zip(part.outputs, outputs, strict=True))
        after(part)
    return values
