"""From the splits of the derived table to the images to fit on and the images to score on.

Axes: N images, E exits, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecocli.artifacts.derived_table import DerivedTable
from ecocli.config.fit_gate import GateFitConfig
from ecocli.gates.rows import SplitData, TrainingRows
from ecocli.runtime.seeds import numpy_generator

_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class GateTables:
    """What all gates of a run share.

    Attributes:
        rows: Images to fit on.
        held_out: Images to score on and to search budgets on; none of them was fitted on.
        scored_on: What these are, in words.
        left_out: Training images without a defined quality.
        cost_is_gflops: Whether the cost model counts GFLOPs.
    """

    rows: TrainingRows
    held_out: SplitData
    scored_on: str
    left_out: int
    cost_is_gflops: bool

    def gate_gflops(self, exits: int) -> float:
        """What a linear gate over some exits costs per image, one multiply-add counted once."""
        features: int = self.rows.split.features.shape[1]
        return features * exits / 1e9

    def gate_cost(self, exits: int) -> float:
        """The same in the unit of the cost model; layers and measured milliseconds of an exit do not hold it."""
        return self.gate_gflops(exits) if self.cost_is_gflops else 0.0


def build_tables(
    config: GateFitConfig, splits: Mapping[str, DerivedTable], exit_depths: Sequence[int], *, in_ms: bool = False
) -> GateTables:
    """Apply the cost model and set the images to score on apart.

    Args:
        config: Names the splits and the cost model.
        splits: Each split that there is, by name.
        exit_depths: The parent's exits.
        in_ms: Whether equal cost means milliseconds; GFLOPs otherwise.

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
        times = np.broadcast_to(np.array(config.exit_ms, np.float64), shape) if in_ms else None
        return SplitData(
            table.quality,
            table.counts,
            table.features,
            costs,
            table.gflops,
            table.encoder_gflops,
            config.objective,
            times,
        )

    train = with_costs(splits[config.train_split])
    if config.score_split != config.train_split and config.score_split in splits:
        held_out, scored_on = with_costs(splits[config.score_split]), config.score_split
    else:
        order = numpy_generator("gate-held-out", config.seed).permutation(len(train.quality))
        apart = np.zeros(len(order), bool)
        apart[order[: max(round(_HELD_OUT_SHARE * len(order)), 1)]] = True
        train, held_out, scored_on = train.rows(~apart), train.rows(apart), f"a fifth of {config.train_split}"
    rows = TrainingRows.of(train, config.through, config.folds, config.seed)
    return GateTables(rows, held_out, scored_on, int((~train.usable).sum()), config.cost == "gflops")
