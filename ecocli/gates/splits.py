"""From the splits of the derived table to the images to fit on and the images to score on.

Axes: N images, E exits, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from ecocli.artifacts.derived_table import DerivedTable
from ecocli.config.fit_gate import GateFitConfig
from ecocli.exits import gate_gflops
from ecocli.gates.rows import SplitData, TrainingRows
from ecocli.runtime.seeds import numpy_generator

_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class GateTables:
    """What all gates of a run share.

    Attributes:
        held_out: Images to score on and to search budgets on; none of them was fitted on.
        scored_on: What these are, in words.
        fitted_on: What was fitted on, in words.
        left_out: Training images without a defined quality.
        cost_is_gflops: Whether the cost model counts GFLOPs.
    """

    rows: TrainingRows
    held_out: SplitData
    scored_on: str
    fitted_on: str
    left_out: int
    cost_is_gflops: bool

    def gate_gflops(self, exits: int) -> float:
        """What a linear gate over some exits costs per image, one multiply-add counted once."""
        return gate_gflops(self.rows.split.features.shape[1], exits)

    def gate_cost(self, exits: int) -> float:
        """The same in the unit of the cost model; layers and measured milliseconds of an exit do not hold it."""
        return self.gate_gflops(exits) if self.cost_is_gflops else 0.0


def build_tables(config: GateFitConfig, splits: Mapping[str, DerivedTable], exit_depths: Sequence[int]) -> GateTables:
    """Apply the cost model and set the images to score on apart.

    Args:
        splits: Each split that there is, by name.
        exit_depths: The parent's exits.

    Raises:
        DataError: No training image has a defined quality.
    """

    def with_costs(table: DerivedTable) -> SplitData:
        shape = table.quality.shape
        if config.cost == "gflops":
            costs = table.gflops
        else:
            per_exit = exit_depths if config.cost == "depth" else config.exit_ms
            costs = np.broadcast_to(np.array(per_exit, np.float64), shape)
        times = np.broadcast_to(np.array(config.exit_ms, np.float64), shape) if config.in_ms else None
        return SplitData(
            table.quality,
            table.counts,
            table.features,
            costs,
            table.gflops,
            table.encoder_gflops,
            config.objective,
            times,
            None if table.mirror is None else with_costs(table.mirror),
        )

    table = splits[config.train_split]
    train = with_costs(table)
    unseen = table.unseen if table.unseen.any() else np.ones(len(table.quality), bool)
    kept = unseen if config.fit_on == "unseen" else np.ones(len(table.quality), bool)
    if config.score_split != config.train_split and config.score_split in splits:
        held_out, scored_on = with_costs(splits[config.score_split]), config.score_split
    else:
        # Whichever images a recipe fits on, it is scored on images that the parent has not seen, where there are any.
        order = numpy_generator("gate-held-out", config.seed).permutation(np.flatnonzero(unseen))
        apart = np.zeros(len(table.quality), bool)
        apart[order[: max(round(_HELD_OUT_SHARE * len(order)), 1)]] = True
        kept, held_out, scored_on = kept & ~apart, train.rows(apart), f"a fifth of {config.train_split}"
    fitted_on = f"{config.train_split}, {_acquaintance(table, kept)}"
    if table.mirror is not None and config.mirrors:
        fitted_on += ", and their mirror images"
    train = train if kept.all() else train.rows(kept)
    rows = TrainingRows.of(train, config.through, config.folds, config.seed, mirrors=config.mirrors)
    return GateTables(rows, held_out, scored_on, fitted_on, int((~train.usable).sum()), config.cost == "gflops")


def _acquaintance(table: DerivedTable, kept: Bool[np.ndarray, " N"]) -> str:
    """Say which of some images the parent was trained on."""
    count, seen, unseen = int(kept.sum()), int(table.seen[kept].sum()), int(table.unseen[kept].sum())
    if seen == count:
        return f"{count:,} images, all seen by the parent in its training"
    if unseen == count:
        return f"{count:,} images, none seen by the parent in its training"
    if seen or unseen:
        return f"{count:,} images, {seen:,} of them seen by the parent in its training"
    return f"{count:,} images; the parent does not say whether it has seen them"
