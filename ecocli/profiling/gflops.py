"""GFLOPs of every exit and part, counted on the model's own modules.

Shapes: C channels, E exits, H W pixels, K classes, Q queries.
Source: published figures of Mask2Former and ECO-M2F (arXiv 2404.15244, tables 1 and 2), whose convention
``ecocli.profiling.counter`` describes. Their "transformer encoder" column is the whole pixel decoder.
Post-processing is counted as the original does it, every query's mask at full size, so that totals compare with
published ones; what inference here really does is less.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ecocli.config.any_architecture import AnyArchitecture, Segmentation
from ecocli.config.detr import DetrConfig
from ecocli.config.fit_gate import FeatureName
from ecocli.config.profile_model import ConventionName
from ecocli.exits import ExitPlan, gate_gflops
from ecocli.model.builders import build_unfilled
from ecocli.model.contracts import ExitNetwork
from ecocli.model.detr import Detr
from ecocli.model.gate import pool_features
from ecocli.model.hybrid import AttentionLayer
from ecocli.model.layers import FrozenBatchNorm2d, NormedConv2d
from ecocli.model.parts import run_parts
from ecocli.profiling.counter import Meter, Reading

Size = tuple[int, int]


@dataclass(frozen=True)
class ExitCosts:
    """GFLOPs of one image by part; one multiply-add counts once.

    Attributes:
        exits: The encoder's exits, and the layers that each runs.
        backbone: Image to ``res2`` .. ``res5``.
        projections: The pixel decoder's projections of the backbone maps.
        encoder_layers: Every encoder layer by itself, the first layer first.
        mask_features: The pixel decoder's stride-4 convolutions.
        upsampling: Bilinear step from stride 8 to 4, which published pixel decoder figures leave out.
        transformer_decoder: Queries to class and mask logits.
        post_processing: Masks to the padded size and to the original size, and the semantic map there.
        gate: Linear layer from pooled features to exits; spent only where a gate decides.
    """

    exits: ExitPlan
    exit_depths: tuple[int, ...]
    backbone: float
    projections: float
    encoder_layers: tuple[float, ...]
    mask_features: float
    upsampling: float
    transformer_decoder: float
    post_processing: float
    gate: float

    def encoder(self, depth: int) -> float:
        """The encoder layers run at an exit depth."""
        return math.fsum(self.encoder_layers[index] for index in self.exits.layers_of(depth))

    def pixel_decoder(self, depth: int) -> float:
        """The whole pixel decoder, the papers' "transformer encoder" column."""
        return self.projections + self.encoder(depth) + self.mask_features

    def total(self, depth: int, gated: bool = False) -> float:
        """Everything for one image that leaves at an exit depth; ``gated`` adds the gate's own cost."""
        shared = self.backbone + self.upsampling + self.transformer_decoder + self.post_processing
        return shared + self.pixel_decoder(depth) + (self.gate if gated else 0.0)


@dataclass(frozen=True)
class _NetworkCosts:
    """Parts that depend on the padded size only."""

    backbone: Reading
    projections: Reading
    encoder_layers: tuple[Reading, ...]
    fusion: Reading
    transformer_decoder: Reading
    gate_channels: Mapping[FeatureName, int]


@functools.lru_cache(maxsize=4)
def _meta_model(architecture: Segmentation) -> ExitNetwork:
    return build_unfilled(architecture).to("meta").eval().requires_grad_(False)


@functools.lru_cache(maxsize=4)
def _meta_detr(config: DetrConfig) -> Detr:
    model = build_unfilled(config).to("meta").eval().requires_grad_(False)
    assert isinstance(model, Detr)
    for module in model.modules():
        # The original's frozen norm is a product and a sum, which the source's tool does not see.
        if isinstance(module, NormedConv2d) and isinstance(module.norm, FrozenBatchNorm2d):
            module.norm = nn.Identity()
    return model


@functools.lru_cache(maxsize=4096)
def _detr_costs(config: DetrConfig, padded_size: Size) -> _NetworkCosts:
    model = _meta_detr(config)
    readings: list[Reading] = []

    def note(*_hook_arguments: object) -> None:
        readings.append(meter.read())

    hooks = [module.register_forward_hook(note) for module in (model.backbone, *model.encoder_layers)]
    try:
        with Meter() as meter:
            note()
            features = model.extract(torch.empty(1, 3, *padded_size, device="meta"))
            pooled = pool_features(features, [padded_size])
            # The original masks padding also where there is none, so the source sees no query-key product.
            masked = torch.zeros(features.tokens.shape[:2], dtype=torch.bool, device="meta")
            features = dataclasses.replace(features, padding_mask=masked)
            note()
            (tokens,) = model.encode(features, (model.exits.deepest,))
            note()
            model.decode(tokens, features)
            note()
    finally:
        for hook in hooks:
            hook.remove()
    parts = [after - before for before, after in itertools.pairwise(readings)]
    return _NetworkCosts(
        backbone=parts[0],
        projections=parts[1],
        encoder_layers=tuple(parts[2:-2]),
        fusion=parts[-2],
        transformer_decoder=parts[-1],
        gate_channels={name: feature.shape[1] for name, feature in pooled.items()},
    )


@functools.lru_cache(maxsize=4)
def _gate_channels(architecture: Segmentation) -> Mapping[FeatureName, int]:
    """Width of every pooled feature; the same for images of any size."""
    size = (2 * architecture.size_divisor,) * 2
    model = _meta_model(architecture)
    pooled = pool_features(model.extract(torch.empty(1, 3, *size, device="meta"), [size]), [size])
    return {name: feature.shape[1] for name, feature in pooled.items()}


@functools.lru_cache(maxsize=1024)
def _network_costs(architecture: Segmentation, padded_size: Size) -> _NetworkCosts:
    model = _meta_model(architecture)
    images = torch.empty(1, 3, *padded_size, device="meta")
    readings: list[Reading] = []

    def note(*_hook_arguments: object) -> None:
        readings.append(meter.read())

    # The source counts one class prediction, although the original computes one per layer.
    class_readings: list[Reading] = []

    def note_class(*_hook_arguments: object) -> None:
        class_readings.append(meter.read())

    class_head = model.class_head
    hooks = [layer.register_forward_hook(note) for layer in model.encoder_layers]
    hooks += [class_head.register_forward_pre_hook(note_class), class_head.register_forward_hook(note_class)]
    ends: list[Callable[[], None]] = []
    try:
        with Meter() as meter:
            ends += [meter.take_as_fused(module) for module in model.modules() if isinstance(module, AttentionLayer)]
            note()
            # Every layer's mask at full size, as the original computes them; inference here computes the last one.
            parts = model.parts(model.exits.deepest, all_layers=True)
            # The encoder notes its layers one by one.
            run_parts(parts, {"images": images}, lambda part: None if part.name == "encoder" else note())
    finally:
        for hook in hooks:
            hook.remove()
        for end in ends:
            end()
    auxiliary = [after - before for before, after in zip(class_readings[::2], class_readings[1::2], strict=True)][:-1]
    costs = [after - before for before, after in itertools.pairwise(readings)]
    return _NetworkCosts(
        backbone=costs[0],
        projections=costs[1],
        encoder_layers=tuple(costs[2:-2]),
        fusion=costs[-2],
        transformer_decoder=functools.reduce(operator.sub, auxiliary, costs[-1]),
        gate_channels=_gate_channels(architecture),
    )


@functools.lru_cache(maxsize=4096)
def _post_processing_cost(queries: int, classes: int, padded_size: Size, original_size: Size) -> float:
    height, width = padded_size
    with Meter() as meter:
        masks = torch.empty(1, queries, height // 4, width // 4, device="meta")
        masks = F.interpolate(masks, size=padded_size, mode="bilinear", align_corners=False)
        masks = F.interpolate(masks, size=original_size, mode="bilinear", align_corners=False)
        torch.einsum("qk,qhw->khw", torch.empty(queries, classes, device="meta"), masks[0])
        return meter.read().gflops("paper")


def _count_segmentation(
    architecture: Segmentation, padded_size: Size, original_size: Size
) -> tuple[_NetworkCosts, float]:
    network, model = _network_costs(architecture, padded_size), _meta_model(architecture)
    return network, _post_processing_cost(model.num_queries, model.num_classes, padded_size, original_size)


def _count_detr(architecture: DetrConfig, padded_size: Size, _original_size: Size) -> tuple[_NetworkCosts, float]:
    """A detector's post-processing, a few sums per query, is nothing."""
    return _detr_costs(architecture, padded_size), 0.0


_COUNTERS: Mapping[str, Callable[[Any, Size, Size], tuple[_NetworkCosts, float]]] = {
    "mask2former": _count_segmentation,
    "maskformer": _count_segmentation,
    "detr": _count_detr,
}
"""What counts each kind of architecture as its source does: the network by part, and the post-processing."""


def count_gflops(
    architecture: AnyArchitecture,
    padded_size: Size,
    original_size: Size,
    exit_depths: Sequence[int],
    *,
    convention: ConventionName = "paper",
    gate_feature: FeatureName = "res5",
) -> ExitCosts:
    """Count one image's GFLOPs at every exit.

    The network's parts are counted once per padded size and kept, so a data set costs about a quarter of a second per
    distinct padded size and next to nothing per image.

    Args:
        architecture: What to build; weights play no part.
        padded_size: Height and width of the network's input, in pixels, multiples of the architecture's divisor.
        original_size: Height and width of the image as it was before resizing, in pixels.
        exit_depths: Exits offered, in encoder layers run.
        convention: ``paper`` for figures that compare with published ones, ``all`` to add deformable sampling and the
            query-key products of masked attention.
        gate_feature: Pooled feature the gate reads.

    Raises:
        ValueError: If a padded side is not a positive multiple of the divisor, or a depth is not one of the encoder's.
    """
    divisor = architecture.size_divisor
    if min(padded_size) < divisor or any(side % divisor for side in padded_size):
        raise ValueError(f"padded size {padded_size[0]}x{padded_size[1]}; both sides must be multiples of {divisor}")
    network, post_processing = _COUNTERS[architecture.kind](architecture, padded_size, original_size)
    upsampling = network.fusion.resizing_gflops
    costs = ExitCosts(
        exits=architecture.exits,
        exit_depths=tuple(exit_depths),
        backbone=network.backbone.gflops(convention),
        projections=network.projections.gflops(convention),
        encoder_layers=tuple(layer.gflops(convention) for layer in network.encoder_layers),
        mask_features=network.fusion.gflops(convention) - upsampling,
        upsampling=upsampling,
        transformer_decoder=network.transformer_decoder.gflops(convention),
        post_processing=post_processing,
        gate=gate_gflops(network.gate_channels[gate_feature], len(exit_depths)),
    )
    for depth in exit_depths:
        costs.encoder(depth)
    return costs


def mean_costs(costs: Sequence[tuple[ExitCosts, int]]) -> ExitCosts:
    """Average costs over images.

    Args:
        costs: Costs and the number of images that have them; all of the same exits and layers.

    Raises:
        ValueError: There is no image.
    """
    images = sum(count for _, count in costs)
    if images == 0:
        raise ValueError("a mean needs at least one image, found none")

    def mean(part: Callable[[ExitCosts], float]) -> float:
        return math.fsum(count * part(cost) for cost, count in costs) / images

    def layer_mean(layer: int) -> float:
        return mean(lambda cost: cost.encoder_layers[layer])

    first = costs[0][0]
    return ExitCosts(
        exits=first.exits,
        exit_depths=first.exit_depths,
        backbone=mean(lambda cost: cost.backbone),
        projections=mean(lambda cost: cost.projections),
        encoder_layers=tuple(map(layer_mean, range(len(first.encoder_layers)))),
        mask_features=mean(lambda cost: cost.mask_features),
        upsampling=mean(lambda cost: cost.upsampling),
        transformer_decoder=mean(lambda cost: cost.transformer_decoder),
        post_processing=mean(lambda cost: cost.post_processing),
        gate=mean(lambda cost: cost.gate),
    )
