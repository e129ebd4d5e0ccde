"""Settings of Step C: which exits, at what price of compute, and how the gate is fitted."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from ecocli.config.base import Config

HeadName = Literal["class", "quality"]
CostName = Literal["depth", "gflops", "ms"]
CostUnit = Literal["GFLOPs", "ms"]
LossName = Literal["hard-ce", "u-ce", "soft-ce", "soft-mse"]
ObjectiveName = Literal["image-pq", "dataset-pq"]
FeatureName = Literal["res5", "projected", "tokens"]
ThroughName = Literal["features", "contents"]
SelectName = Literal["loss", "lead"]
RecipeName = Literal["contents", "paper"]
RowsName = Literal["unseen", "all"]
Beta = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

GATE_RECIPES: Mapping[RecipeName, Mapping[str, str | bool | tuple[str, ...]]] = {
    "contents": {
        "fit_on": "unseen",
        "mirrors": True,
        "feature": "tokens",
        "through": "contents",
        "objective": "dataset-pq",
        "select": "lead",
        "head": "quality",
        "heads": ("quality",),
        "loss": "soft-ce",
    },
    "paper": {
        "fit_on": "all",
        "mirrors": False,
        "feature": "res5",
        "through": "features",
        "objective": "image-pq",
        "select": "loss",
        "head": "class",
        "heads": ("class",),
        "loss": "hard-ce",
    },
}
"""Settings by the name of a recipe. ``paper``: ECO-M2F, arXiv 2404.15244, section 3.3."""


class GateFitConfig(Config):
    """How gates are fitted; shared by ``fit-gate`` and ``sweep``.

    Attributes:
        recipe: A name for the settings below that are not given: ``contents``, what measured best here; ``paper``, what
            the paper describes.
        fit_on: Images of the training table to fit on: those ``unseen`` by the parent, where its training kept some out
            (``train-parent --hold-out``); or ``all``, as in the paper.
        mirrors: Whether to fit on mirror images too, where the table has them (``derive --mirror``).
        feature: Pooled feature the gate reads: ``res5``, the mean of the backbone's map, as in the paper;
            ``projected``, of the pixel decoder's tokens; ``tokens``, mean and maximum of these at every level.
        objective: What a gate is to raise: ``image-pq``, the mean of the images' own PQ, as in the paper;
            ``dataset-pq``, the data set's PQ, to which an image adds by what it holds of each class.
        through: What heads are fitted to: ``features`` themselves, or ``contents``, the segments of each class that the
            features predict; either way the gate is one linear layer on the features.
        select: What chooses the strength out of fold: the ``loss``; or the ``lead`` over the blend of equal cost, and
            then a gate that does not lead out of fold gives way to the blend.
        loss: What the class head is fitted to; the quality head is a regression and has no choice.
        cost: What beta is a price of: encoder layers, as in the paper; GFLOPs; milliseconds of a profile.
        exit_ms: Mean milliseconds of each of the parent's exits, for ``cost = "ms"``; from ``--profile`` as a rule.
        l2: Regularisation strength; None chooses it by cross-validation on the training table.
        folds: Parts of that cross-validation.
        train_split: Split of the derived table to fit on.
        score_split: Split to score on and to search budgets on; ``none``, and ``val`` without a table of it, hold a
            random fifth of the training table out for that.
        bootstrap_replicates: Resamplings of the images behind the intervals.
        seed: Of folds, shuffles and resampling.
    """

    recipe: RecipeName = "contents"
    fit_on: RowsName = "unseen"
    mirrors: bool = True
    feature: FeatureName = "tokens"
    objective: ObjectiveName = "dataset-pq"
    through: ThroughName = "contents"
    select: SelectName = "lead"
    loss: LossName = "soft-ce"
    cost: CostName = "depth"
    exit_ms: tuple[PositiveFloat, ...] = ()
    l2: PositiveFloat | None = None
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    train_split: str = "train"
    score_split: str = "val"
    bootstrap_replicates: Annotated[int, Field(ge=10, le=100_000)] = 1000
    seed: NonNegativeInt = 0

    def under(self, recipe: RecipeName) -> Self:
        """The same settings with those that a recipe says."""
        preset = {name: value for name, value in GATE_RECIPES[recipe].items() if name in type(self).model_fields}
        return type(self).model_validate({**self.model_dump(), **preset, "recipe": recipe})

    @model_validator(mode="before")
    @classmethod
    def _below_the_recipe(cls, given: Any) -> Any:
        """Fill in what the recipe says and nobody else did."""
        if not isinstance(given, dict) or given.get("recipe", "contents") not in GATE_RECIPES:
            return given
        recipe = GATE_RECIPES[given.get("recipe", "contents")]
        preset = {name: value for name, value in recipe.items() if name in cls.model_fields}
        # What passes here counts as Python's, where only a tuple is a tuple.
        return {name: tuple(value) if isinstance(value, list) else value for name, value in {**preset, **given}.items()}

    @property
    def in_ms(self) -> bool:
        """Whether gates and blends are compared at equal milliseconds, not at equal GFLOPs."""
        return self.cost == "ms"


class FitGateConfig(GateFitConfig):
    """Everything ``fit-gate`` needs beside the derived table.

    Attributes:
        beta: Price of one unit of cost in panoptic quality (0..1); None where a target decides.
        deepest_exit: K, the deepest exit on offer; None for the parent's deepest.
        head: ``class`` predicts the exit, ``quality`` the quality at each exit, so that beta can change afterwards.
        target_gflops: Largest mean GFLOPs per image.
        target_ms: Largest mean milliseconds per image, by the profile.
        max_pq_drop: Largest loss of PQ against the parent's deepest exit, in points (0..100).
        compare_heads: Also fit the other head and a small MLP, and record how all three score.
    """

    beta: Beta | None = None
    deepest_exit: Annotated[int, Field(ge=1)] | None = None
    head: HeadName = "quality"
    target_gflops: PositiveFloat | None = None
    target_ms: PositiveFloat | None = None
    max_pq_drop: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    compare_heads: bool = False

    @model_validator(mode="after")
    def _one_aim(self) -> "FitGateConfig":
        aims = {
            "beta": self.beta,
            "target_gflops": self.target_gflops,
            "target_ms": self.target_ms,
            "max_pq_drop": self.max_pq_drop,
        }
        given = [name for name, value in aims.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give exactly one of {', '.join(aims)}; found {found}")
        return self

    @property
    def in_ms(self) -> bool:
        """As of every gate, and for a budget of milliseconds."""
        return super().in_ms or self.target_ms is not None
