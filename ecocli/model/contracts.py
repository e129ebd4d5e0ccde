"""What training, scoring, inference and profiling know of a model: its parts, and nothing of its task.

Shapes: B images, Q queries, K classes, N tokens, C channels, E exits, S supervised predictions (the final one last;
S = 1 where only the final one is asked for).
A prediction is a pair per query: class logits, and what says where: mask logits or a box (its *regions*). Backbone,
projections and encoder layers are what exits share; everything after the encoder is shared by their weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.exits import ExitPlan
from ecocli.model.parts import Part

Size = tuple[int, int]
"""Height and width, in pixels."""

MAPS = ("res2", "res3", "res4", "res5")
"""The maps of a backbone."""


class Backbone(nn.Module):
    """Normalised images to maps by name, ``res2`` (stride 4) to ``res5``."""

    def seed_drop_path(self, seeds: Sequence[int] | None) -> None:
        """Decide what the images of the next training batches lose to stochastic depth; here there is none.

        Args:
            seeds: One per image, in the order of the batch; None for torch's global generator.
        """


@runtime_checkable
class SharedFeatures(Protocol):
    """What every exit of a batch shares.

    Attributes:
        maps: Backbone outputs ``res2`` (stride 4) to ``res5`` (stride 32) by name.
        tokens: Projected tokens before the encoder, the coarsest level first.
        shapes: Height and width of each level, in cells.
        stride: Pixels per cell of the coarsest level.
        padding_mask: True on tokens of the coarsest level that are padding; None where the image sizes tell.
    """

    @property
    def maps(self) -> Mapping[str, Tensor]: ...

    @property
    def tokens(self) -> Tensor: ...

    @property
    def shapes(self) -> tuple[Size, ...]: ...

    @property
    def stride(self) -> int: ...

    @property
    def padding_mask(self) -> Tensor | None: ...


class ExitModel(nn.Module, ABC):
    """A model whose encoder can be left at its exits.

    Attributes:
        size_divisor: Padded inputs are multiples of it.
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
        autocast_dtype: Type of the products in ``extract``, ``encode`` and ``decode``; None for the caller's.
    """

    size_divisor: ClassVar[int]
    backbone: Backbone

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        self.pixel_mean = tuple(pixel_mean)
        self.pixel_std = tuple(pixel_std)
        self.autocast_dtype: torch.dtype | None = None

    def _autocast(self, tensor: Tensor) -> AbstractContextManager[object]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(tensor.device.type, self.autocast_dtype)

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """K, without "no object"."""

    @property
    @abstractmethod
    def num_queries(self) -> int:
        """Q."""

    @abstractmethod
    def extract(self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size] | None = None) -> Any:
        """Backbone and projections: all that every exit and the gate share.

        Args:
            images: Normalised, padded on the right and below with zeros to a multiple of ``size_divisor``.
            image_sizes: Height and width of each image without padding; by default there is none.
        """

    @abstractmethod
    def encode(self, features: Any, exit_depths: Sequence[int]) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted encoder depth; the encoder runs once, up to the deepest."""

    @abstractmethod
    def decode(self, tokens: Float[Tensor, "B N C"], features: Any, all_layers: bool = False) -> Any:
        """Encoded tokens to predictions with the leading axis S.

        ``tokens`` may hold several exits of the batch one after the other: B is then a multiple of the features'.
        """

    @abstractmethod
    def predict_at(self, features: Any, depths: Int[Tensor, " B"]) -> Any:
        """Final predictions without a leading axis, each image at its own exit depth; images leave as they are done.

        Args:
            depths: Encoder layers to run, per image.
        """

    @abstractmethod
    def parts(self, exit_depth: int, all_layers: bool = False) -> tuple[Part, ...]:
        """The steps of one exit, from ``images`` to its prediction, for those who time, count or write them.

        Args:
            exit_depth: The exit.
            all_layers: As in ``decode``, with every layer's prediction at full size.
        """


class ExitNetwork(ExitModel):
    """An exit model whose layers are at hand: to be trained, timed, counted, written as graphs."""

    @property
    @abstractmethod
    def exits(self) -> ExitPlan:
        """The exits of the encoder, and which of its layers each of them runs."""

    @property
    @abstractmethod
    def encoder_layers(self) -> nn.ModuleList:
        """The encoder's layers, by the index that ``exits`` gives them."""

    @property
    @abstractmethod
    def class_head(self) -> nn.Linear:
        """The layer that gives the class logits."""

    @abstractmethod
    def parameter_parts(self) -> dict[str, nn.Module]:
        """What stands beside the backbone, by the names of the papers' tables."""

    @abstractmethod
    def transformer_layers(self) -> Iterator[nn.Module]:
        """All layers of encoder and decoder, whose activations may be recomputed in training."""

    @abstractmethod
    def encode_each(self, features: Any, depths: Int[Tensor, " B"]) -> Float[Tensor, "B N C"]:
        """Each image's tokens at its own exit depth; images leave the encoder as they are done."""

    @property
    def num_classes(self) -> int:
        """K, without "no object"."""
        return self.class_head.out_features - 1

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        exit_depths: Sequence[int],
        all_layers: bool = True,
        image_sizes: Sequence[Size] | None = None,
    ) -> Any:
        """Predictions of every wanted exit, [E, S, B, Q, ...]; for the arguments see ``extract`` and ``decode``."""
        features = self.extract(images, image_sizes)
        stacked = self.decode(torch.cat(self.encode(features, exit_depths)), features, all_layers)
        exits, batch = len(exit_depths), images.shape[0]

        def split(x: Tensor) -> Tensor:
            return x.view(x.shape[0], exits, batch, *x.shape[2:]).transpose(0, 1)

        return type(stacked)(split(stacked.pred_logits), split(stacked.regions))

    def predict_supervised(
        self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size], exit_depths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits and regions of every supervised prediction of every exit.

        Returns:
            Both with the leading axes [E S, B, Q]: the S predictions of the first exit come first.
        """
        found = self(images, exit_depths, image_sizes=image_sizes)
        return found.pred_logits.flatten(0, 1), found.regions.flatten(0, 1)

    def predict_at(self, features: Any, depths: Int[Tensor, " B"]) -> Any:
        """Final predictions, each image at its own exit depth."""
        final = self.decode(self.encode_each(features, depths), features)
        return type(final)(final.pred_logits[-1], final.regions[-1])

    def _maps(self, images: Float[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        # Convolutions run faster with channels last, on CPUs in float32 as on GPUs in half precision.
        maps: dict[str, Tensor] = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return maps

    def _backbone_part(self) -> Part:
        def backbone(images: Tensor) -> tuple[Tensor, ...]:
            with self._autocast(images):
                found = self._maps(images)
            return tuple(found[name] for name in MAPS)

        return Part("backbone", backbone, ("images",), MAPS)
