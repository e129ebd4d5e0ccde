"""The images gates are fitted on and scored on, as the derived table gives them.

Axes: N images, E exits on offer, D features. Everything that depends on neither beta nor head is prepared here, once,
and shared by all gates of a sweep.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float64
from torch import Tensor

from ecocli.config.fit_gate import ObjectiveName, ThroughName
from ecocli.errors import DataError
from ecocli.gates.contents import ContentsFit, fit_contents
from ecocli.gates.solver import LinearHead, StandardisedFeatures
from ecocli.losses.gate import exit_utilities, target_exit_indices
from ecocli.metrics.controls import Arena
from ecocli.metrics.results import ResultTable


@dataclass(frozen=True, eq=False)
class SplitData:
    """One split of the derived table with the cost model applied.

    Attributes:
        quality: Panoptic quality of each image at each of the parent's exits in 0..1, NaN where undefined.
        costs: Cost of each image at each exit, in the unit that beta is a price of.
        encoder_gflops: The pixel decoder's share of it.
        objective: What a gate is to raise.
        milliseconds: Measured milliseconds of each image at each exit, where a gate is compared at equal ms.
        mirror: The same of each image's mirror image; None where these were not measured.
    """

    quality: Float64[np.ndarray, "N E"]
    counts: ResultTable
    features: Float16[np.ndarray, "N D"] | Float[np.ndarray, "N D"]
    costs: Float64[np.ndarray, "N E"]
    gflops: Float64[np.ndarray, "N E"]
    encoder_gflops: Float64[np.ndarray, "N E"]
    objective: ObjectiveName = "image-pq"
    milliseconds: Float64[np.ndarray, "N E"] | None = None
    mirror: "SplitData | None" = None

    @cached_property
    def worth(self) -> Float64[np.ndarray, "N E"]:
        """What each exit is worth on each image, before its cost: the image's PQ, or what it does to the data set's."""
        return self.quality if self.objective == "image-pq" else self.counts.contributions()

    @cached_property
    def usable(self) -> Bool[np.ndarray, " N"]:
        """Images whose quality, and whose mirror's, is defined at every exit of the parent; only they teach a gate."""
        usable: Bool[np.ndarray, " N"] = ~np.isnan(self.quality).any(axis=1)
        return usable if self.mirror is None else usable & self.mirror.usable

    def rows(self, kept: Bool[np.ndarray, " N"]) -> "SplitData":
        """Keep some images only."""
        return SplitData(
            self.quality[kept],
            self.counts.select(np.flatnonzero(kept)),
            self.features[kept],
            self.costs[kept],
            self.gflops[kept],
            self.encoder_gflops[kept],
            self.objective,
            None if self.milliseconds is None else self.milliseconds[kept],
            None if self.mirror is None else self.mirror.rows(kept),
        )

    @property
    def contents(self) -> Float64[np.ndarray, "N K"]:
        """True segments of each class in each image: matched and missed ones, at any exit."""
        return self.counts.contents()

    def arena(self, exit_depths: tuple[int, ...], replicates: int, seed: int) -> Arena:
        """Offer the first exits only, for scoring."""
        E = len(exit_depths)
        return Arena(
            exit_depths=exit_depths,
            counts=self.counts.first_exits(E),
            gflops=self.gflops[:, :E],
            encoder_gflops=self.encoder_gflops[:, :E],
            replicates=replicates,
            seed=seed,
            quality=self.quality[:, :E],
            costs=self.costs[:, :E],
            worth=self.worth[:, :E],
            milliseconds=None if self.milliseconds is None else self.milliseconds[:, :E],
            mirror=None if self.mirror is None else self.mirror.counts.first_exits(E).contributions(),
        )


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Images to fit on: defined quality everywhere, features standardised once.

    The rows are those of the images, and then, where these are fitted on too, those of their mirror images.

    Attributes:
        split: The images' part of the table.
        worth: Of every exit of the parent on them, before its cost, as the whole table says.
        raw: Standardised features of the table.
        features: What heads are fitted to: these, or standardised contents predicted from them.
        contents: What predicts those contents; None where heads are fitted to the features themselves.
    """

    split: SplitData
    worth: Float64[Tensor, "N E"]
    raw: StandardisedFeatures
    features: StandardisedFeatures
    contents: ContentsFit | None = None

    @classmethod
    def of(
        cls,
        split: SplitData,
        through: ThroughName = "features",
        folds: int = 5,
        seed: int = 0,
        *,
        mirrors: bool = True,
    ) -> "TrainingRows":
        """Leave out the images without a defined quality.

        Args:
            through: What heads are fitted to.
            folds: Of the cross-validation behind predicted contents.
            mirrors: Whether to fit on mirror images too, where there are any.

        Raises:
            DataError: No image is left, or a feature is no finite number.
        """
        usable = split.usable
        if not usable.any():
            raise DataError(
                f"None of the {len(usable)} images of the training table has a defined quality at every exit: expected "
                "annotated images with at least one segment. Check the annotations with `eco data check`."
            )
        sides = [split] if split.mirror is None or not mirrors else [split, split.mirror]
        worth = torch.from_numpy(np.concatenate([side.worth[usable] for side in sides]))
        split = split if usable.all() else split.rows(usable)
        raw = split.features
        if split.mirror is not None and mirrors:
            raw = np.concatenate([raw, split.mirror.features])
        features = StandardisedFeatures.from_raw(raw, copies=len(sides))
        if through == "features":
            return cls(split, worth, features, features)
        # Mirror images hold what their images hold.
        true = torch.from_numpy(split.contents).repeat(len(sides), 1)
        contents = fit_contents(features, true, folds=folds, seed=seed)
        predicted = StandardisedFeatures.from_raw(contents.out_of_fold.numpy(), copies=len(sides))
        return cls(split, worth, features, predicted, contents)

    @property
    def images(self) -> int:
        """Number of images; the rows of their mirror images come behind."""
        return self.raw.num_images

    def inputs(self, raw: Float16[np.ndarray, "M D"] | Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M _d"]:
        """What heads see of raw features: the features, or the contents predicted from them."""
        return raw.astype(np.float32) if self.contents is None else self.contents.layer.scores(raw).numpy()

    def on_raw(self, head: LinearHead) -> LinearHead:
        """Turn a head on what heads see into a head on raw features."""
        return head if self.contents is None else head.after(self.contents.layer)

    @cached_property
    def costs(self) -> Float64[Tensor, "N E"]:
        """In the unit of the cost model; a mirror image costs what its image does."""
        return torch.from_numpy(np.array(self.split.costs)).repeat(self.raw.copies, 1)

    def utilities(self, exits: int, beta: float) -> Float64[Tensor, "N E"]:
        """Utility of the first exits on every image."""
        return exit_utilities(self.worth[:, :exits], self.costs[:, :exits], beta)

    def majority(self, exits: int, beta: float) -> int:
        """Exit index that is the target of most rows, the shallowest of equals."""
        return int(target_exit_indices(self.utilities(exits, beta)).bincount(minlength=exits).argmax())

    def mean_costs(self, exits: int) -> Float64[np.ndarray, " E"]:
        """Mean cost of each of the first exits."""
        costs: Float64[np.ndarray, " E"] = self.costs[:, :exits].mean(dim=0).numpy()
        return costs
