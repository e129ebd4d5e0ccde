"""The parts of a model as ``torch.export`` takes them: one image, sizes free in multiples of the stride.

Axes: N tokens, C channels, H W pixels, h w cells at stride 32, Q queries, K classes, E exits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ecocli.inference.predictor import ExitGate
from ecocli.model.mask2former import Mask2Former
from ecocli.model.pixel_decoder import Features, PixelDecoder
from ecocli.model.sampling import SpatialShapes

_STRIDES = (32, 16, 8)
_STRIDE = _STRIDES[0]
# Symbols of 1 are taken for constants, so the smallest side has two cells.
_FEWEST_CELLS = 2
_MOST_CELLS = 512
Size = tuple[int, int]


@dataclass(frozen=True)
class GraphModule:
    """A part to be exported.

    Attributes:
        name: Of the graph.
        module: Its code.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        alike: Graphs of one word differ in their weights alone; None for a graph unlike any other.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alike: str | None = None


class _Extract(nn.Module):
    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, image: Float[Tensor, "1 3 H W"]
    ) -> tuple[Float[Tensor, "1 N C"], Float[Tensor, "1 C H4 W4"], Float[Tensor, "1 _c h w"]]:
        features = self.model.extract(image)
        return features.tokens, features.lateral, features.maps["res5"]


class _Layer(nn.Module):
    """One encoder layer, holding nothing but its own weights and the level embedding."""

    def __init__(self, decoder: PixelDecoder, index: int) -> None:
        super().__init__()
        self.layer = decoder.encoder.layers[index]
        self.level_embed = decoder.transformer.level_embed
        # A bound method is no module: the other layers' weights stay out of the graph.
        self.positions = decoder.encoder.positions

    def forward(self, tokens: Float[Tensor, "1 N C"], res5: Float[Tensor, "1 _c h w"]) -> Float[Tensor, "1 N C"]:
        shapes = _shapes(res5.shape[2], res5.shape[3])
        # Tells the tracer that the number of tokens follows from the size.
        tokens = torch.cat(torch.split(tokens, [height * width for height, width in shapes], dim=1), dim=1)
        encoded: Tensor = self.layer(tokens, self.positions(shapes, self.level_embed), shapes)
        return encoded


class _Decode(nn.Module):
    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Float[Tensor, "1 N C"], lateral: Float[Tensor, "1 C H4 W4"]
    ) -> tuple[Float[Tensor, "1 Q K1"], Float[Tensor, "1 Q H4 W4"]]:
        shapes = _shapes(lateral.shape[2] // 8, lateral.shape[3] // 8)
        final = self.model.decode(tokens, Features({}, tokens, shapes, lateral))
        return final.pred_logits[-1], final.pred_masks[-1]


class GateScores(nn.Module):
    """The gate's scores: pooled over the cells that the image reaches into, as ``pool_features`` does.

    Args:
        gate: The gate.
    """

    def __init__(self, gate: ExitGate) -> None:
        super().__init__()
        self.linear = gate.gate
        self.feature = gate.feature

    def forward(
        self, tokens: Float[Tensor, "1 N C"], res5: Float[Tensor, "1 _c h w"], image_size: Int[Tensor, " 2"]
    ) -> Float[Tensor, "1 E"]:
        """Pool the gate's feature and score every exit.

        Args:
            tokens: Projected tokens before the encoder.
            res5: The backbone's coarsest map.
            image_size: Height and width without padding, in pixels.
        """
        scores: Tensor = self.linear(self._pooled(tokens, res5, image_size).half().float())
        return scores

    def _pooled(
        self, tokens: Float[Tensor, "1 N C"], res5: Float[Tensor, "1 _c h w"], image_size: Int[Tensor, " 2"]
    ) -> Float[Tensor, "1 _d"]:
        if self.feature == "res5":
            return _mean_and_max(res5, _STRIDE, image_size)[0]
        shapes = _shapes(res5.shape[2], res5.shape[3])
        levels = torch.split(tokens, [height * width for height, width in shapes], dim=1)
        found = [
            _mean_and_max(level.transpose(1, 2).reshape(1, -1, height, width), stride, image_size)
            for level, (height, width), stride in zip(levels, shapes, _STRIDES, strict=True)
        ]
        if self.feature == "projected":
            return found[0][0]
        if self.feature == "tokens":
            return torch.cat([pooled for pair in found for pooled in pair], -1)
        assert_never(self.feature)


def _mean_and_max(
    level: Float[Tensor, "1 C h w"], stride: int, image_size: Int[Tensor, " 2"]
) -> tuple[Float[Tensor, "1 C"], Float[Tensor, "1 C"]]:
    """Mean and maximum over the cells that the image reaches into."""
    rows = torch.arange(level.shape[2]) * stride < image_size[0]
    columns = torch.arange(level.shape[3]) * stride < image_size[1]
    own = rows[:, None] & columns[None]
    inside = torch.where(own, level.float(), 0.0).sum(dim=(2, 3)) / own.float().sum()
    return inside, torch.where(own, level.float(), -torch.inf).amax(dim=(2, 3))


def _shapes(height: int, width: int) -> SpatialShapes:
    """Cells of the levels with stride 32, 16, 8."""
    return (height, width), (2 * height, 2 * width), (4 * height, 4 * width)


def graph_modules(model: Mask2Former, gate: ExitGate | None, depths: Sequence[int]) -> list[GraphModule]:
    """Cut a model into graphs: ``extract``, ``gate``, one for each encoder layer, ``decode``.

    Args:
        model: In evaluation mode.
        gate: Chooses the exit, if there is one.
        depths: Exits wanted.
    """
    decoder = model.sem_seg_head.pixel_decoder
    parts = [GraphModule("extract", _Extract(model), ("image",), ("tokens", "lateral", "res5"))]
    if gate is not None:
        parts.append(GraphModule("gate", GateScores(gate), ("tokens", "res5", "image_size"), ("scores",)))
    indices = sorted({index for depth in depths for index in model.exits.layers_of(depth)})
    for index in indices:
        alike = "tail" if index in model.exits.tail else "layer"
        parts.append(GraphModule(layer_name(index), _Layer(decoder, index), ("tokens", "res5"), ("encoded",), alike))
    parts.append(GraphModule("decode", _Decode(model), ("tokens", "lateral"), ("class_logits", "mask_logits")))
    return parts


def layer_name(layer: int) -> str:
    """Name of the graph of an encoder layer, counted from 0 as in state dicts."""
    return f"layer{layer}"


def trace(part: GraphModule, values: Mapping[str, Tensor], fixed: bool) -> ExportedProgram:
    """Record a part as a graph.

    Args:
        part: What to record.
        values: An example of each input.
        fixed: Whether it is for the examples' size only.
    """
    free: Mapping[str, dict[int, object]] = {
        "image": {
            2: _STRIDE * Dim("rows", min=_FEWEST_CELLS, max=_MOST_CELLS),
            3: _STRIDE * Dim("columns", min=_FEWEST_CELLS, max=_MOST_CELLS),
        },
        "tokens": {1: Dim.AUTO},
        "lateral": {2: Dim.AUTO, 3: Dim.AUTO},
        "res5": {2: Dim.AUTO, 3: Dim.AUTO},
        "image_size": {},
    }
    examples = tuple(values[name] for name in part.inputs)
    dynamic = None if fixed else tuple(free[name] for name in part.inputs)
    # With gradients on, the model takes its plain paths, without tiles and folded norms: engines do their own.
    with torch.enable_grad():
        return torch.export.export(part.module.eval(), examples, dynamic_shapes=dynamic, strict=False)


def example_values(parts: Sequence[GraphModule], image: Float[Tensor, "1 3 H W"]) -> dict[str, Tensor]:
    """An example of every input of every part, by running them on an image."""
    values = {"image": image, "image_size": torch.tensor(image.shape[2:])}
    with torch.no_grad():
        for part in parts:
            made = part.module(*(values[name] for name in part.inputs))
            values |= dict(zip(part.outputs, made if isinstance(made, tuple) else (made,), strict=True))
    return values
