"""DETR with exits in its interface.

Shapes: B images, Q queries, K classes, N tokens, C channels, E exits, S supervised predictions (one per decoder layer,
the final one last; S = 1 where only the final one is asked for).
Source: DETR (arXiv 2005.12872); exits after any encoder layer: ECO-M2F (arXiv 2404.15244, table 7). State-dict names
are the original's, but for the backbone's, which are this project's ResNet's (``ecocli.weights`` renames).

Unlike Mask2Former's, DETR's result depends on an image's batch mates: images are padded to the largest of their batch,
not to a multiple of the stride, and padding changes where strides fall and what convolutions see at the border. Cells
of padding are masked everywhere else. So results are compared on batches of images of one size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.exits import ExitPlan
from ecocli.model.contracts import Backbone, ExitNetwork, Size
from ecocli.model.detr_transformer import QueryDecoder, Transformer, TransformerEncoder
from ecocli.model.layers import masked_sine_positions, sine_positions
from ecocli.model.parts import Part
from ecocli.model.transformer_decoder import MaskEmbedding


@dataclass(frozen=True)
class BoxPredictions:
    """Class logits and boxes; leading axes as the producing method says.

    Attributes:
        pred_boxes: Centre x, centre y, width, height, as ratios of the image without padding.
    """

    pred_logits: Float[Tensor, "*lead B Q K1"]
    pred_boxes: Float[Tensor, "*lead B Q 4"]

    @property
    def regions(self) -> Tensor:
        """The boxes."""
        return self.pred_boxes


@dataclass(frozen=True)
class MapFeatures:
    """What every exit of a batch shares.

    Attributes:
        tokens: Projected tokens of ``res5`` before the encoder, row by row.
        shapes: Height and width of that map, in cells (one level).
        positions: Sine positions of the tokens; of all images at once where none is padded.
        padding_mask: True on tokens that are padding; None where there is none.
        stride: Pixels per cell: 32, or 16 with a dilated ``res5``.
    """

    maps: Mapping[str, Float[Tensor, "B _c _h _w"]]
    tokens: Float[Tensor, "B N C"]
    shapes: tuple[Size, ...]
    positions: Float[Tensor, "#B N C"]
    padding_mask: Bool[Tensor, "B N"] | None
    stride: int


class Detr(ExitNetwork):
    """DETR whose encoder can be left after any layer.

    Args:
        backbone: Module from normalised images to the maps ``res2`` .. ``res5``.
        backbone_channels: Width of ``res5``.
        stride: Its pixels per cell.
        hidden_dim: C.
        encoder_layers: The deepest exit.
        decoder_layers: S.
        num_queries: Q.
        num_classes: K, without "no object".
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
    """

    # Images are padded to the largest of their batch and no further.
    size_divisor = 1

    def __init__(
        self,
        backbone: Backbone,
        backbone_channels: int,
        stride: int,
        hidden_dim: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feedforward_dim: int,
        num_queries: int,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone
        self.stride = stride
        self.input_proj = nn.Conv2d(backbone_channels, hidden_dim, 1)
        self.transformer = Transformer(
            TransformerEncoder(hidden_dim, heads, feedforward_dim, encoder_layers),
            QueryDecoder(hidden_dim, heads, feedforward_dim, decoder_layers),
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MaskEmbedding(hidden_dim, 4)

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.query_embed.num_embeddings

    @property
    def exits(self) -> ExitPlan:
        """Its exits: any of the encoder's layers."""
        return self.transformer.encoder.exits

    @property
    def class_head(self) -> nn.Linear:
        """The layer that gives the class logits."""
        return self.class_embed

    @property
    def encoder_layers(self) -> nn.ModuleList:
        """The encoder's layers."""
        return self.transformer.encoder.layers

    def parameter_parts(self) -> dict[str, nn.Module]:
        """What stands beside the backbone, by the names of the papers' tables."""
        return {"pixel_decoder": self.transformer.encoder, "transformer_decoder": self.transformer.decoder}

    def transformer_layers(self) -> Iterator[nn.Module]:
        """All layers of encoder and decoder, whose activations may be recomputed in training."""
        yield from self.transformer.encoder.layers
        yield from self.transformer.decoder.layers

    def extract(self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size] | None = None) -> MapFeatures:
        """Backbone and projection: all that every exit and the gate share."""
        with self._autocast(images):
            maps = self._maps(images)
        return self._project(maps, (images.shape[2], images.shape[3]), image_sizes)

    def _project(
        self, maps: Mapping[str, Float[Tensor, "B _c _h _w"]], padded_size: Size, image_sizes: Sequence[Size] | None
    ) -> MapFeatures:
        with self._autocast(maps["res5"]):
            projected = self.input_proj(maps["res5"])
        batch, channels, height, width = projected.shape
        sizes = [padded_size] * batch if image_sizes is None else image_sizes
        padding = padding_of_cells(padded_size, sizes, (height, width), projected.device)
        if padding is None:
            positions = sine_positions(height, width, channels, projected.device, torch.float32)[None]
        else:
            positions = masked_sine_positions(padding, channels)
        return MapFeatures(
            maps,
            projected.flatten(2).transpose(1, 2),
            ((height, width),),
            positions,
            None if padding is None else padding.flatten(1),
            self.stride,
        )

    def encode(self, features: MapFeatures, exit_depths: Sequence[int]) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted encoder depth; the encoder runs once, up to the deepest."""
        with self._autocast(features.tokens):
            encoded: tuple[Tensor, ...] = self.transformer.encoder(
                features.tokens, features.positions, features.padding_mask, exit_depths
            )
        return encoded

    def decode(self, tokens: Float[Tensor, "B N C"], features: MapFeatures, all_layers: bool = False) -> BoxPredictions:
        """Encoded tokens to predictions with the leading axis S.

        ``tokens`` may hold several exits of the batch one after the other: B is then a multiple of the features'.
        """
        exits = len(tokens) // len(features.tokens)
        mask, positions = features.padding_mask, features.positions
        if mask is not None:
            mask, positions = mask.repeat(exits, 1), positions.repeat(exits, 1, 1)
        with self._autocast(tokens):
            layers = self.transformer.decoder(self.query_embed.weight, tokens, positions, mask)
            queries = torch.stack(layers if all_layers else layers[-1:])
            return BoxPredictions(self.class_embed(queries), self.bbox_embed(queries).float().sigmoid())

    def parts(self, exit_depth: int, all_layers: bool = False) -> tuple[Part, ...]:
        """The steps of one exit, of images that are not padded."""

        def project(res5: Tensor) -> tuple[Tensor, ...]:
            return (self._unpadded(res5).tokens,)

        def encode(tokens: Tensor, res5: Tensor) -> tuple[Tensor, ...]:
            return self.encode(self._unpadded(res5, tokens), (exit_depth,))

        def predict(tokens: Tensor, res5: Tensor) -> tuple[Tensor, ...]:
            final = self.decode(tokens, self._unpadded(res5, tokens), all_layers)
            return final.pred_logits, final.pred_boxes

        return (
            self._backbone_part(),
            Part("projections", project, ("res5",), ("tokens",)),
            Part("encoder", encode, ("tokens", "res5"), ("tokens",)),
            # A detector has none; tables show it as zero.
            Part("mask_features", lambda: (), (), ()),
            Part("transformer_decoder", predict, ("tokens", "res5"), ("pred_logits", "pred_boxes")),
        )

    def _unpadded(self, res5: Tensor, tokens: Tensor | None = None) -> MapFeatures:
        """Features of images without padding, around tokens that are there already or projected from the map."""
        height, width = res5.shape[2:]
        if tokens is None:
            with self._autocast(res5):
                tokens = self.input_proj(res5).flatten(2).transpose(1, 2)
        positions = sine_positions(height, width, tokens.shape[2], tokens.device, torch.float32)[None]
        return MapFeatures({"res5": res5}, tokens, ((height, width),), positions, None, self.stride)

    def encode_each(self, features: MapFeatures, depths: Int[Tensor, " B"]) -> Float[Tensor, "B N C"]:
        """Each image's tokens at its own exit depth; images leave the encoder as they are done."""
        with self._autocast(features.tokens):
            return self.transformer.encoder.forward_per_image(
                features.tokens, features.positions, features.padding_mask, depths
            )


def padding_of_cells(
    padded_size: Size, image_sizes: Sequence[Size], cells: Size, device: torch.device
) -> Bool[Tensor, "B H W"] | None:
    """Say which cells of a map are padding: those whose nearest pixel is. None where no image is padded."""
    if all(size == padded_size for size in image_sizes):
        return None
    inside = []
    for axis in (0, 1):
        pixels = torch.arange(padded_size[axis], device=device)
        ends = torch.tensor([size[axis] for size in image_sizes], device=device)
        own = (pixels < ends[:, None]).float()
        # The original resizes its mask so; the index rounds as torch's does.
        inside.append(F.interpolate(own[:, None], size=cells[axis], mode="nearest")[:, 0] > 0)
    return ~(inside[0][:, :, None] & inside[1][:, None, :])
