"""Settings of Step A, training a multi-exit parent; the data sets' recipes are in ``ecocli.config.recipes``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, model_validator

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.base import Config
from ecocli.config.dataset import DatasetConfig

NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
MatchingName = Literal["own", "deepest"]


class OptimizerConfig(Config):
    """Optimiser with full-model gradient clipping.

    Attributes:
        kind: ``adamw``; or ``muon`` for the matrices of hidden layers, by torch's Muon, and AdamW for the rest. Both
            share rate and decay.
        lr: Peak learning rate.
        backbone_lr_multiplier: Factor of the backbone's learning rate.
        weight_decay: For everything but norms, embeddings and position biases, which have none.
        clip_norm: Bound of the norm of all gradients together; 0 for no clipping.
        ema_decay: Keep an exponential moving average of the weights with this decay per step, and deliver it
            in place of the last weights; 0 for none.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: PositiveFloat = 1e-4
    backbone_lr_multiplier: NonNegativeFloat = 0.1
    weight_decay: NonNegativeFloat = 0.05
    clip_norm: NonNegativeFloat = 0.01
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class ScheduleConfig(Config):
    """How the learning rate goes from step to step, after a linear warm-up.

    Attributes:
        kind: ``constant``; ``step``, a factor at each milestone; ``polynomial`` or ``cosine`` decay to zero.
        warmup_steps: Length of the warm-up.
        warmup_factor: Where the warm-up starts, as a fraction of the full rate.
        milestone_ratios: Where the rate drops, as fractions of all steps, so that they move with ``steps``.
        gamma: Factor at each milestone.
        power: Exponent of the polynomial decay.
    """

    kind: Literal["constant", "step", "polynomial", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 10
    warmup_factor: Ratio = 1.0
    milestone_ratios: tuple[Ratio, ...] = (0.888889, 0.962962)
    gamma: Ratio = 0.1
    power: PositiveFloat = 0.9


class LossConfig(Config):
    """Weights of the losses, in the matching too, and the points on which masks are compared.

    Attributes:
        class_weight: Weight of the class term.
        mask_weight: Weight of the masks' cross-entropy.
        dice_weight: Weight of the masks' dice term.
        no_object_weight: Class weight of "no object"; all others weigh 1.
        num_points: Points per mask.
        oversample_ratio: Candidates drawn per point.
        importance_ratio: Fraction of the points chosen by uncertainty.
        matching: Which matching of queries to objects an exit is trained with: its ``own``, or at every decoder layer
            that of the ``deepest`` exit of the step, so that a query stands for the same object at every exit.
    """

    class_weight: NonNegativeFloat = 2.0
    mask_weight: NonNegativeFloat = 5.0
    dice_weight: NonNegativeFloat = 5.0
    no_object_weight: NonNegativeFloat = 0.1
    num_points: PositiveInt = 12544
    oversample_ratio: Annotated[float, Field(ge=1.0)] = 3.0
    importance_ratio: Ratio = 0.75
    matching: MatchingName = "own"


class SetLossConfig(Config):
    """Weights of a detector's losses, in the matching too.

    Attributes:
        class_weight: Weight of the class term.
        box_weight: Weight of the boxes' L1 distance.
        giou_weight: Weight of 1 - GIoU.
        no_object_weight: Class weight of "no object"; all others weigh 1.
        matching: As in ``LossConfig``.
    """

    class_weight: NonNegativeFloat = 1.0
    box_weight: NonNegativeFloat = 5.0
    giou_weight: NonNegativeFloat = 2.0
    no_object_weight: NonNegativeFloat = 0.1
    matching: MatchingName = "own"


class MaskLossConfig(Config):
    """Weights of MaskFormer's losses, in the matching too, on all pixels of the masks.

    Attributes:
        class_weight: Weight of the class term.
        focal_weight: Weight of the masks' focal loss.
        dice_weight: Weight of the masks' dice term.
        no_object_weight: Class weight of "no object"; all others weigh 1.
        matching: As in ``LossConfig``.
    """

    class_weight: NonNegativeFloat = 1.0
    focal_weight: NonNegativeFloat = 20.0
    dice_weight: NonNegativeFloat = 1.0
    no_object_weight: NonNegativeFloat = 0.1
    matching: MatchingName = "own"


LOSSES: Mapping[str, type[Config]] = {
    "mask2former": LossConfig,
    "detr": SetLossConfig,
    "maskformer": MaskLossConfig,
}
"""The losses of each kind of architecture."""


def _loss_of(value: Any) -> str:
    """Which losses they are: those that have most of the keys."""
    keys = set(value) if isinstance(value, Mapping) else set(getattr(type(value), "model_fields", ()))
    return max(LOSSES.values(), key=lambda losses: len(keys & losses.model_fields.keys())).__name__


AnyLoss = Annotated[
    Annotated[LossConfig, Tag("LossConfig")]
    | Annotated[SetLossConfig, Tag("SetLossConfig")]
    | Annotated[MaskLossConfig, Tag("MaskLossConfig")],
    Discriminator(_loss_of),
]


class EvaluationConfig(Config):
    """Quality of every exit in the course of the training. It only watches: the weights do not depend on it.

    Attributes:
        every: Steps between two evaluations; there is one more after the last step. 0 for none at all.
        images: Size of the subset, spread evenly over the split; a smaller split is taken whole.
        split: The split to evaluate on.
        batch_size: Images per batch; it decides the last digits of floating-point results.
    """

    every: NonNegativeInt = 0
    images: PositiveInt = 64
    split: str = "val"
    batch_size: PositiveInt = 4


class ExecutionConfig(Config):
    """How the work is done. Nothing here is part of an artifact's identity.

    Attributes:
        accumulation: Parts in which each process works through its share of a batch; the loss is that of the
            whole batch.
        workers: Processes that load images; 0 loads them in the training process.
        checkpoint_every: Steps between two saved states.
        activation_checkpointing: Recompute the transformer layers in the backward pass to save memory.
        compile: Run the backbone through ``torch.compile``, where this machine can compile.
        tensorboard: Folder for TensorBoard event files.
        wandb: Project for Weights & Biases.
    """

    accumulation: PositiveInt = 1
    workers: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 500
    activation_checkpointing: bool = False
    compile: bool = False
    tensorboard: str | None = None
    wandb: str | None = None


class TrainParentConfig(Config):
    """Everything Step A needs.

    Attributes:
        dataset: The data.
        split: The split to train on.
        hold_out: Share of its images kept out of the training, by a hash of their ids, for a gate to be fitted on.
        architecture: The model.
        exit_depths: Encoder layers run at each exit, ascending, counted from 1.
        alpha: Weight of each exit's loss: ``depth`` (its depth, growing with it as Eq. 3 wants; 1 for a single exit,
            which has no other to outweigh), ``uniform`` (the paper's control), or one number per exit.
        exits_per_step: Exits drawn at random for each step, or ``all``.
        keep_deepest: Whether the deepest exit is one of them in every step; the others are drawn.
        deepest_first: Fraction of the steps, the first ones, that train the deepest exit alone; from its weights all
            exits go on. Rates, averages and the optimiser's state pass over without a break.
        steps: Optimisation steps.
        epochs: Passes over the split to train on, in place of ``steps``: as many steps as they take, the last one
            begun. What is asked holds those steps.
        batch_size: Images per step, over all processes.
        seed: Seed of everything random.
        init_file: File or Hugging Face folder of published weights to start from; its digest, not its path, is part
            of what is asked.
        precision: Number format of the forward pass; weights and losses are always float32.
        log_every: Steps averaged in one line of the metrics.
        optimizer: Optimiser.
        schedule: Learning rate schedule.
        loss: Losses.
        evaluation: What is evaluated in between.
        execution: How the work is done; no part of the serialised settings.
    """

    dataset: DatasetConfig
    split: str = "train"
    hold_out: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    architecture: AnyArchitecture
    exit_depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    alpha: Literal["depth", "uniform"] | tuple[PositiveFloat, ...] = "depth"
    exits_per_step: PositiveInt | Literal["all"] = "all"
    keep_deepest: bool = False
    deepest_first: Ratio = 0.0
    steps: NonNegativeInt
    epochs: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = Field(default=None, exclude=True)
    batch_size: PositiveInt
    seed: NonNegativeInt = 0
    init_file: str | None = Field(default=None, exclude=True)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    log_every: PositiveInt = 20
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: AnyLoss = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    execution: ExecutionConfig = Field(default=ExecutionConfig(), exclude=True)

    @model_validator(mode="after")
    def _check_exits(self) -> "TrainParentConfig":
        if list(self.exit_depths) != sorted(set(self.exit_depths)):
            raise ValueError(f"exit_depths must ascend, each depth once, found {list(self.exit_depths)}")
        try:
            self.architecture.exits.check(self.exit_depths)
        except ValueError as error:
            raise ValueError(f"{error}. Leave out the others, or raise --layers") from error
        if not isinstance(self.alpha, str) and len(self.alpha) != len(self.exit_depths):
            raise ValueError(f"alpha has {len(self.alpha)} weights for {len(self.exit_depths)} exits: give one each")
        if self.exits_per_step != "all" and self.exits_per_step > len(self.exit_depths):
            raise ValueError(
                f"exits_per_step is {self.exits_per_step}, more than the number of exits, {len(self.exit_depths)}"
            )
        own = LOSSES[self.architecture.kind]
        if not isinstance(self.loss, own):
            raise ValueError(
                f"the section [loss] is not that of {self.architecture.name}, which has {', '.join(own.model_fields)}"
            )
        if self.keep_deepest and len(self.exit_depths) > 1 and self.exits_per_step == 1:
            raise ValueError("keep_deepest with one exit per step would never train another: raise exits_per_step")
        return self

    @property
    def evaluates(self) -> bool:
        """Whether the exits are evaluated at all."""
        return self.evaluates_after(self.steps)

    def evaluates_after(self, step: int) -> bool:
        """Whether the exits are evaluated after this many steps."""
        every = self.evaluation.every
        return every > 0 and step > 0 and (step % every == 0 or step == self.steps)

    def trains_deepest_alone(self, step: int) -> bool:
        """Whether the step after this many belongs to the deepest exit alone."""
        return step < round(self.deepest_first * self.steps)

    @property
    def exits_in_step(self) -> int:
        """Number of exits trained in each step."""
        return len(self.exit_depths) if self.exits_per_step == "all" else self.exits_per_step

    @property
    def exit_weights(self) -> tuple[float, ...]:
        """Alpha of each exit. A single exit weighs 1 under ``depth`` too: its loss is plain Mask2Former's."""
        if self.alpha == "uniform" or (self.alpha == "depth" and len(self.exit_depths) == 1):
            return (1.0,) * len(self.exit_depths)
        if self.alpha == "depth":
            return tuple(float(depth) for depth in self.exit_depths)
        return tuple(float(weight) for weight in self.alpha)


class WarmStartedConfig(TrainParentConfig):
    """What identifies a training that starts from published weights.

    Attributes:
        init_digest: SHA-256 of the file, or over the files of a folder.
    """

    init_digest: str
