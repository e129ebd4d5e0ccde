"""What manifests tell of gates, evaluations and sweeps. PQ and AP stay in 0..1; NaN becomes null."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from ecocli.config.base import Config
from ecocli.config.derive import TaskName
from ecocli.config.exported import EngineName
from ecocli.config.fit_gate import CostName, CostUnit, FeatureName, HeadName
from ecocli.config.precision import GraphPrecision
from ecocli.config.rules import BOX_RULES, RULES, RulesName


def _null_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


Number = Annotated[float | None, BeforeValidator(_null_for_nan)]
"""A number, or null where undefined: JSON knows no NaN."""

Interval = tuple[Number, Number]


class ChoiceSummary(Config):
    """One way of choosing exits; see ``metrics.controls.Choice``."""

    pq: Number
    cost: Number
    gflops: Number
    encoder_gflops: Number
    mean_depth: Number
    exit_shares: tuple[float, ...]


class ExitSummary(ChoiceSummary):
    """Every image at one exit."""

    exit_depth: int


class MajoritySummary(ExitSummary):
    """Every image at the exit that is the target of most training images, and how often that hits the target."""

    accuracy: Number


class GateSummary(ChoiceSummary):
    """The gate's own choice, and how often it hits the target."""

    pq_interval: Interval
    accuracy: Number


class RandomSummary(ChoiceSummary):
    """An image-blind gate of the same mixture, and the deviation of its PQ."""

    pq_spread: Number


class OutOfFoldSummary(Config):
    """The lead on the images fitted on, each decided by a fit that left its fold out; deviation and interval of it."""

    lead: Number
    deviation: Number
    interval: Interval


class RecipeSummary(Config):
    """A recipe's gate at the same price or budget; ``blend`` where the gate gave way to the blend of fixed exits."""

    pq: Number
    gflops: Number
    lead: Number
    lead_interval: Interval
    out_of_fold: OutOfFoldSummary | None
    blend: bool


class VerdictSummary(Config):
    """A gate beside its controls; see ``metrics.controls.Verdict``."""

    unit: CostUnit
    gate: GateSummary
    fixed: tuple[ExitSummary, ...]
    best_fixed: ExitSummary
    majority: MajoritySummary
    blend: ChoiceSummary | None
    lead: Number
    lead_interval: Interval
    random: RandomSummary
    oracle: ChoiceSummary
    utility_oracle: ChoiceSummary
    attainable: ChoiceSummary | None = None
    reached: Number = None


class FitSummary(Config):
    """How the linear layer was found.

    Attributes:
        fitted_on: The images fitted on, in words, and whether the parent has seen them.
        training_images: Their number.
        left_out_images: Training images without a defined quality.
        features: Length of the feature.
        l2: Regularisation strength.
        l2_path: Strengths that the cross-validation saw, each with its loss.
        gradient_norm: At the end.
        evaluations: Passes over the features of the final fit.
        offset: What a budget took off the class head's scores per unit of cost.
    """

    fitted_on: str = ""
    training_images: int
    left_out_images: int
    features: int
    l2: float
    l2_path: tuple[tuple[float, ...], ...]
    gradient_norm: float
    evaluations: int
    offset: float


class BudgetSummary(Config):
    """Where a gate stands with its budget on the images scored on; see ``gates.budget.Standing``."""

    option: str
    unit: str
    limit: float
    reached: float
    end: float


class TradeOffStep(Config):
    """A beta that a search for a budget looked at, and what the gate was like there."""

    beta: float
    value: Number
    pq: Number
    gflops: Number


class HeadSummary(Config):
    """A head of the comparison at the gate's beta; its lead is over a blend of its own cost."""

    pq: Number
    cost: Number
    gflops: Number
    accuracy: Number
    lead: Number
    lead_interval: Interval


class GateMetrics(VerdictSummary):
    """Scores of a gate beside their controls.

    Attributes:
        scored_on: The images, in words.
        images: Their number.
        undefined_images: Those of them without a defined quality.
        warnings: Where the result is not what it seems.
        fit: How the layer was found.
        trade_off: What a search for a budget saw; empty where beta was given.
        budget: Where the gate stands with its budget; None where beta was given.
        recipes: Every recipe that the table allows at this price or budget, by name.
        recipe: The one taken.
        heads: Both heads and a small MLP by name; None where they were not compared.
    """

    scored_on: str
    images: int
    undefined_images: int
    warnings: tuple[str, ...]
    fit: FitSummary
    recipe: str
    recipes: dict[str, RecipeSummary]
    budget: BudgetSummary | None = None
    trade_off: tuple[TradeOffStep, ...] = ()
    heads: dict[str, HeadSummary] | None = None


class SweepRow(Config):
    """One gate of a sweep beside its controls; each field is a column of ``sweep.parquet``, described there."""

    head: HeadName
    deepest_exit: int
    beta: float
    pq: Number
    pq_low: Number
    pq_high: Number
    cost: Number
    gflops: Number
    encoder_gflops: Number
    mean_depth: Number
    exit_shares: tuple[float, ...]
    lead: Number
    lead_low: Number
    lead_high: Number
    blend_pq: Number
    random_pq: Number
    best_fixed_exit: int
    best_fixed_pq: Number
    majority_exit: int
    majority_pq: Number
    accuracy: Number
    majority_accuracy: Number
    oracle_pq: Number
    oracle_gflops: Number
    target_pq: Number
    target_gflops: Number
    attainable_pq: Number = None
    attainable_gflops: Number = None
    reached: Number = None
    l2: float
    evaluations: int


class SweepSummary(Config):
    """All gates of a sweep.

    Attributes:
        fitted_on: The images fitted on, in words, and whether the parent has seen them.
        scored_on: Those scored on.
        images: Their number.
        cost: What beta is a price of.
        exit_depths: The parent's exits.
        fixed: Deepest exit on offer, as text, to the fixed exits up to it.
        rows: The gates.
    """

    fitted_on: str = ""
    scored_on: str
    images: int
    cost: CostName
    exit_depths: tuple[int, ...]
    fixed: dict[str, tuple[ExitSummary, ...]]
    rows: tuple[SweepRow, ...]

    @property
    def unit(self) -> CostUnit:
        """What a gate and its blend have equal."""
        return "ms" if self.cost == "ms" else "GFLOPs"


class EvaluatedGate(Config):
    """The gate of an evaluation, at the beta it was run at."""

    digest: str
    beta: float
    feature: FeatureName
    exit_depths: tuple[int, ...]


QUALITIES: Mapping[TaskName, Mapping[str, str]] = {
    "panoptic": {
        "PQ": "pq",
        "SQ": "sq",
        "RQ": "rq",
        "PQ things": "pq_things",
        "PQ stuff": "pq_stuff",
        "mIoU": "miou",
        "AP": "ap",
    },
    "detection": {
        "AP": "ap",
        "AP50": "ap50",
        "AP75": "ap75",
        "AP small": "ap_small",
        "AP medium": "ap_medium",
        "AP large": "ap_large",
    },
}
"""What evaluations of a task measure: heading to field of a row, first what gates are judged by."""

MEASURES: Mapping[TaskName, str] = {task: next(iter(headings)) for task, headings in QUALITIES.items()}
"""What quality is to each task."""


class EvaluationRow(Config):
    """A row of the scorecard; see ``metrics.scorecard.ScoreRow``. None where not measured or undefined.

    AP is that of the masks of a segmentation, of the boxes of a detection.
    """

    name: str
    pq: float | None = None
    sq: float | None = None
    rq: float | None = None
    pq_things: float | None = None
    pq_stuff: float | None = None
    miou: float | None = None
    ap: float | None
    ap50: float | None
    ap75: float | None = None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    gflops: float
    encoder_gflops: float
    mean_depth: float
    exit_shares: tuple[float, ...]


class LeadSummary(Config):
    """The gate's quality less that of the best blend of equal cost; see ``metrics.scorecard.GateLead``."""

    mixture: tuple[float, ...]
    control_pq: float
    lead: float
    low: float
    high: float
    confidence: float
    replicates: int
    reached: float | None = None


class EvaluationSummary(Config):
    """The numbers of an evaluation.

    Attributes:
        task: What the model predicts; it decides what quality is.
        dataset: Name of the data set.
        split: The split.
        images: Number of images.
        undefined_images: Images with nothing to score.
        ap_truth: What AP was measured against, in words; None without AP.
        rules: Whose rules mIoU and the AP of masks follow.
        exit_depths: The fixed exits.
        gate: The gate; None without one.
        rows: The fixed exits, the gate, a random mixture like the gate's, what is attainable, the oracle.
        gate_lead: The gate against the best blend; None without a gate, or where the quality is undefined.
        engine: What computed.
        precision: What it computed in.
    """

    task: TaskName = "panoptic"
    dataset: str
    split: str
    images: int
    undefined_images: int
    ap_truth: str | None
    rules: RulesName = "coco"
    exit_depths: tuple[int, ...]
    gate: EvaluatedGate | None
    rows: tuple[EvaluationRow, ...]
    gate_lead: LeadSummary | None
    engine: EngineName = "torch"
    precision: GraphPrecision = "float32"

    @property
    def by_name(self) -> dict[str, EvaluationRow]:
        """The rows by name."""
        return {row.name: row for row in self.rows}

    @property
    def measure(self) -> str:
        """What quality is called."""
        return MEASURES[self.task]

    @property
    def qualities(self) -> Mapping[str, str]:
        """Heading to field of what was measured."""
        return QUALITIES[self.task]

    @property
    def rules_note(self) -> str | None:
        """Say whose rules the numbers of the rows follow; None where they are PQ alone."""
        if self.task == "detection":
            return BOX_RULES
        if self.ap_truth is None and all(row.miou is None for row in self.rows):
            return None
        against = "" if self.ap_truth is None else f" AP against {self.ap_truth}."
        return f"Rules {self.rules}: {RULES[self.rules]}.{against}"

    def quality(self, row: EvaluationRow) -> float | None:
        """What gates are judged by, of a row."""
        value: float | None = getattr(row, self.qualities[self.measure])
        return value
