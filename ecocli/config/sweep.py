"""Settings of a sweep: many gates over one table, for the trade-off between quality and compute."""

from pydantic import PositiveInt, model_validator

from ecocli.config.fit_gate import Beta, GateFitConfig, HeadName


class SweepConfig(GateFitConfig):
    """Everything ``sweep`` needs beside the derived table.

    Attributes:
        betas: Prices of one unit of cost in panoptic quality; the default holds the paper's of both data sets.
        deepest_exits: K, the deepest exits on offer; none stands for the parent's deepest alone.
        heads: Kinds of head.
    """

    betas: tuple[Beta, ...] = (0.0, 0.0005, 0.001, 0.003, 0.005, 0.01, 0.02, 0.1)
    deepest_exits: tuple[PositiveInt, ...] = ()
    heads: tuple[HeadName, ...] = ("quality",)

    @model_validator(mode="after")
    def _no_repetition(self) -> "SweepConfig":
        for name in ("betas", "deepest_exits", "heads"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ; found {', '.join(map(str, values))}")
        if not self.betas or not self.heads:
            raise ValueError("betas and heads must name at least one each")
        return self
