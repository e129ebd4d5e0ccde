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

from ecocli.config.fit_gate import ObjectiveName
from ecocli.errors import DataError
from ecocli.gates.solver import StandardisedFeatures
from ecocli.losses.gate import exit_utilities, target_exit_indices
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.controls import Arena


@dataclass(frozen=True, eq=False)
class SplitData:
    """One split of the derived table with the cost model applied.

    Attributes:
        quality: Panoptic quality of each image at each of the parent's exits in 0..1, NaN where undefined.
        counts: The counts behind it.
        features: The gate's raw features.
        costs: Cost of each image at each exit, in the unit that beta is a price of.
        gflops: The same in GFLOPs.
        encoder_gflops: The pixel decoder's share of it.
        objective: What a gate is to raise.
    """

    quality: Float64[np.ndarray, "N E"]
    counts: CountTable
    features: Float16[np.ndarray, "N D"] | Float[np.ndarray, "N D"]
    costs: Float64[np.ndarray, "N E"]
    gflops: Float64[np.ndarray, "N E"]
    encoder_gflops: Float64[np.ndarray, "N E"]
    objective: ObjectiveName = "image-pq"

    @cached_property
    def worth(self) -> Float64[np.ndarray, "N E"]:
        """What each exit is worth on each image, before its cost: the image's PQ, or what it does to the data set's."""
        return self.quality if self.objective == "image-pq" else self.counts.contributions()

    @cached_property
    def usable(self) -> Bool[np.ndarray, " N"]:
        """Images whose quality is defined at every exit of the parent; only they can teach a gate."""
        usable: Bool[np.ndarray, " N"] = ~np.isnan(self.quality).any(axis=1)
        return usable

    def rows(self, kept: Bool[np.ndarray, " N"]) -> "SplitData":
        """Keep some images only."""
        counts = self.counts
        place = np.cumsum(kept) - 1
        entries = kept[counts.image]
        return SplitData(
            self.quality[kept],
            CountTable(
                int(kept.sum()),
                counts.num_exits,
                counts.num_classes,
                place[counts.image[entries]],
                counts.exit_index[entries],
                counts.class_index[entries],
                counts.iou_sum[entries],
                counts.tp[entries],
                counts.fp[entries],
                counts.fn[entries],
            ),
            self.features[kept],
            self.costs[kept],
            self.gflops[kept],
            self.encoder_gflops[kept],
            self.objective,
        )

    def arena(self, exit_depths: tuple[int, ...], replicates: int, seed: int) -> Arena:
        """Offer the first exits only, for scoring."""
        E = len(exit_depths)
        return Arena(
            exit_depths,
            self.counts.first_exits(E),
            self.quality[:, :E],
            self.costs[:, :E],
            self.gflops[:, :E],
            self.encoder_gflops[:, :E],
            replicates,
            seed,
            self.worth[:, :E],
        )


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Images to fit on: defined quality everywhere, features standardised once.

    Attributes:
        worth: Of every exit of the parent, before its cost.
        costs: In the unit of the cost model.
        features: Standardised.
        raw: As in the table.
    """

    worth: Float64[Tensor, "N E"]
    costs: Float64[Tensor, "N E"]
    features: StandardisedFeatures
    raw: Float16[np.ndarray, "N D"] | Float[np.ndarray, "N D"]

    @classmethod
    def of(cls, split: SplitData) -> "TrainingRows":
        """Leave out the images without a defined quality.

        Raises:
            DataError: No image is left, or a feature is no finite number.
        """
        usable = split.usable
        if not usable.any():
            raise DataError(
                f"None of the {len(usable)} images of the training table has a defined quality at every exit: expected "
                "annotated images with at least one segment. Check the annotations with `eco data check`."
            )
        raw = split.features if usable.all() else split.features[usable]
        return cls(
            torch.from_numpy(split.worth[usable]),
            torch.from_numpy(split.costs[usable]),
            StandardisedFeatures.from_raw(raw),
            raw,
        )

    def utilities(self, exits: int, beta: float) -> Float64[Tensor, "N E"]:
        """Utility of the first exits on every image."""
        return exit_utilities(self.worth[:, :exits], self.costs[:, :exits], beta)

    def majority(self, exits: int, beta: float) -> int:
        """Exit index that is the target of most images, the shallowest of equals."""
        return int(target_exit_indices(self.utilities(exits, beta)).bincount(minlength=exits).argmax())

    def mean_costs(self, exits: int) -> Float64[np.ndarray, " E"]:
        """Mean cost of each of the first exits."""
        costs: Float64[np.ndarray, " E"] = self.costs[:, :exits].mean(dim=0).numpy()
        return costs
