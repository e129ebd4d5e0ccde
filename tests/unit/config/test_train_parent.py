from typing import Any

import pytest

from ecocli.config.architecture import ARCHITECTURES, ResNetConfig, SwinConfig
from ecocli.config.loading import deep_merge, resolve_config
from ecocli.config.recipes import TRAIN_PARENT_PRESETS, train_parent_preset
from ecocli.config.train_parent import EvaluationConfig, TrainParentConfig
from ecocli.data.categories import CITYSCAPES, COCO, SHAPES
from ecocli.errors import UsageError


def settings_for(**said: Any) -> TrainParentConfig:
    return resolve_config(TrainParentConfig, train_parent_preset(said), said)


def test_train_parent_preset__coco__published_recipe() -> None:
    # Origin: Mask2Former's COCO panoptic recipe; exits 2 to 6 and alpha growing with depth from ECO-M2F.
    config = settings_for(dataset={"name": "coco"})
    assert (config.steps, config.batch_size, config.exits_per_step) == (368_750, 16, 1)
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.backbone_lr_multiplier, optimizer.weight_decay, optimizer.clip_norm) == (
        1e-4,
        0.1,
        0.05,
        0.01,
    )
    loss = config.loss
    assert (loss.class_weight, loss.mask_weight, loss.dice_weight, loss.no_object_weight) == (2.0, 5.0, 5.0, 0.1)
    assert (loss.num_points, loss.oversample_ratio, loss.importance_ratio) == (12544, 3.0, 0.75)
    assert config.exit_depths == (2, 3, 4, 5, 6)
    assert config.exit_weights == (2.0, 3.0, 4.0, 5.0, 6.0)
    assert config.exits_in_step == 1
    assert config.architecture.name == "m2f-r50"


def test_train_parent_preset__cityscapes__published_recipe() -> None:
    config = settings_for(dataset={"name": "cityscapes"})
    assert (config.steps, config.batch_size, config.schedule.kind, config.schedule.power) == (
        90_000,
        16,
        "polynomial",
        0.9,
    )


def test_train_parent_preset__cityscapes_resnet__trains_synchronised_batch_norm() -> None:
    # Origin: Mask2Former's Cityscapes recipe for R50; on COCO its batch norm is frozen. Swin has none.
    norms = {
        (dataset, arch): getattr(
            settings_for(dataset={"name": dataset}, architecture={"name": arch}).architecture.backbone, "norm", None
        )
        for dataset in ("coco", "cityscapes")
        for arch in ("m2f-r50", "m2f-swin-t", "m2f-shapes")
    }
    assert norms == {
        ("coco", "m2f-r50"): "frozen_bn",
        ("coco", "m2f-swin-t"): None,
        ("coco", "m2f-shapes"): "gn",
        ("cityscapes", "m2f-r50"): "sync_bn",
        ("cityscapes", "m2f-swin-t"): None,
        ("cityscapes", "m2f-shapes"): "gn",
    }
    said = {"dataset": {"name": "cityscapes"}}
    # Weights keep their own norm, and the user has the last word.
    started = resolve_config(TrainParentConfig, train_parent_preset(said, ARCHITECTURES["m2f-r50"]), said)
    assert getattr(started.architecture.backbone, "norm", None) == "frozen_bn"
    frozen = settings_for(**said, architecture={"backbone": {"norm": "frozen_bn"}})
    assert getattr(frozen.architecture.backbone, "norm", None) == "frozen_bn"


@pytest.mark.parametrize(("name", "categories"), [("shapes", SHAPES), ("coco", COCO), ("cityscapes", CITYSCAPES)])
def test_train_parent_preset__every_data_set__has_its_classes(name: str, categories: tuple[object, ...]) -> None:
    assert set(TRAIN_PARENT_PRESETS) == {"shapes", "coco", "cityscapes"}
    assert settings_for(dataset={"name": name}).architecture.num_classes == len(categories)


def test_train_parent_preset__own_data_set__starts_from_coco() -> None:
    # COCO's 368,750 steps of 16 images are 50 epochs of its 118,287; the data set's own size makes them steps.
    assert settings_for(dataset={"name": "mine.toml"}).epochs == 50.0
    assert settings_for(dataset={"name": "mine.toml"}, architecture={"name": "m2f-swin-l-384"}).epochs == 100.0
    assert settings_for(dataset={"name": "mine.toml"}, architecture={"name": "detr-r50"}).epochs == 300.0
    given = settings_for(dataset={"name": "mine.toml"}, steps=70)
    assert (given.steps, given.epochs) == (70, None)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_train_parent_preset__every_architecture__resolves(name: str) -> None:
    config = settings_for(architecture={"name": name})
    assert config.architecture.name == name
    assert config.architecture.backbone == ARCHITECTURES[name].backbone


def test_train_parent_preset__fewer_layers__fewer_exits() -> None:
    assert settings_for(architecture={"pixel_decoder": {"encoder": {"layers": 4}}}).exit_depths == (2, 3, 4)
    assert settings_for(architecture={"pixel_decoder": {"encoder": {"layers": 1}}}).exit_depths == (1,)


def test_train_parent_preset__initial_parent__brings_its_architecture() -> None:
    initial = ARCHITECTURES["m2f-swin-t"]
    config = resolve_config(TrainParentConfig, train_parent_preset({}, initial))
    assert config.architecture.backbone == initial.backbone
    assert config.architecture.num_classes == len(SHAPES)
    said = {"architecture": {"name": "m2f-r50"}}
    assert resolve_config(TrainParentConfig, train_parent_preset(said, initial), said).architecture.name == "m2f-r50"


def test_train_parent_preset__unknown_architecture__names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"architecture 'm2f-r5' is unknown; did you mean 'm2f-r50'\?"):
        train_parent_preset({"architecture": {"name": "m2f-r5"}})
    with pytest.raises(UsageError, match=r"'zzz' is unknown; There are detr-r101.* needs a section \[architecture\]"):
        train_parent_preset({"architecture": {"name": "zzz"}})


@pytest.mark.parametrize(
    ("arch", "said", "expected"),
    [
        ("m2f-shapes", {"kind": "swin"}, SwinConfig()),
        ("m2f-shapes", {"kind": "swin", "embed_dim": 24}, SwinConfig(embed_dim=24)),
        ("m2f-swin-s", {"kind": "resnet"}, ResNetConfig()),
        ("m2f-swin-s", {"kind": "swin"}, ARCHITECTURES["m2f-swin-s"].backbone),
        ("m2f-shapes", {"kind": "resnet", "blocks": [1, 1, 2, 1]}, ResNetConfig(
            blocks=(1, 1, 2, 1), stem_channels=16, res2_channels=32, bottleneck_channels=16, norm="gn"
        )),
    ],
)  # fmt: skip
def test_train_parent_preset__backbone_kind_said__presets_keys_of_that_kind_alone(
    arch: str, said: dict[str, Any], expected: object
) -> None:
    assert settings_for(architecture={"name": arch, "backbone": said}).architecture.backbone == expected


def test_train_parent_preset__own_swin_on_shapes__taken() -> None:
    said = {"kind": "swin", "embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    architecture = settings_for(architecture={"name": "tiny", "backbone": said}).architecture
    assert (architecture.name, architecture.backbone.kind) == ("tiny", "swin")
    # What is not said is still the preset's.
    assert architecture.pixel_decoder == ARCHITECTURES["m2f-shapes"].pixel_decoder


def test_train_parent_preset__other_kind_than_the_initial_parents__taken() -> None:
    said = {"architecture": {"backbone": {"kind": "resnet"}}}
    config = resolve_config(TrainParentConfig, train_parent_preset(said, ARCHITECTURES["m2f-swin-t"]), said)
    assert config.architecture.backbone == ResNetConfig()


def test_train_parent_preset__resnet_in_place_of_swin_on_cityscapes__trains_batch_norm() -> None:
    said = {"name": "m2f-swin-t", "backbone": {"kind": "resnet"}}
    config = settings_for(dataset={"name": "cityscapes"}, architecture=said)
    assert config.architecture.backbone == ResNetConfig(norm="sync_bn")


def test_train_parent_preset__unknown_kind_of_backbone__names_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"architecture\.backbone\.kind: input should be 'resnet' or 'swin', found \"vit\""
    ):
        settings_for(architecture={"backbone": {"kind": "vit"}})


@pytest.mark.parametrize(
    ("dataset", "arch", "steps"),
    [
        ("coco", "m2f-swin-l-384", 737_500),
        ("mine.toml", "m2f-swin-l-384", 737_500),
        ("coco", "m2f-swin-b-384", 368_750),
        ("cityscapes", "m2f-swin-l-384", 90_000),
        ("shapes", "m2f-swin-l-384", 1750),
    ],
)
def test_train_parent_preset__swin_l__published_length(dataset: str, arch: str, steps: int) -> None:
    # Origin: Mask2Former's configurations of Swin-L, 100 epochs on COCO and 90k iterations on Cityscapes.
    assert settings_for(dataset={"name": dataset}, architecture={"name": arch}).steps == steps


def test_train_parent_preset__architecture_of_ones_own__taken() -> None:
    backbone = ARCHITECTURES["m2f-r50"].model_dump(mode="json")["backbone"]
    config = settings_for(architecture={"name": "mine", "backbone": {**backbone, "blocks": [1, 1, 1, 1]}})
    assert config.architecture.name == "mine"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"exit_depths": [3, 2]}, r"exit_depths must ascend, each depth once, found \[3, 2\]"),
        ({"exit_depths": [2, 7]}, r"exit depths \[2, 7\] asked of an encoder with 6 layers.* or raise --layers"),
        ({"alpha": [1.0, 2.0]}, r"alpha has 2 weights for 5 exits"),
        ({"exits_per_step": 6, "alpha": "depth"}, r"exits_per_step is 6, more than the number of exits, 5"),
    ],
)
def test_train_parent_config__exits_that_do_not_fit__refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings_for(**said)


def test_exit_weights__uniform_and_given__as_said() -> None:
    assert settings_for(alpha="uniform").exit_weights == (1.0,) * 5
    assert settings_for(alpha=[1, 2, 3, 4, 9.5]).exit_weights == (1.0, 2.0, 3.0, 4.0, 9.5)


@pytest.mark.parametrize(
    ("layers", "exits", "alpha", "expected"),
    [
        (6, [6], "depth", (1.0,)),
        (4, [4], "depth", (1.0,)),
        (6, [6], "uniform", (1.0,)),
        (6, [6], [6.0], (6.0,)),
        (6, [2, 6], "depth", (2.0, 6.0)),
    ],
)
def test_exit_weights__single_exit__weight_of_plain_mask2former(
    layers: int, exits: list[int], alpha: object, expected: tuple[float, ...]
) -> None:
    decoder = {"encoder": {"layers": layers}}
    assert (
        settings_for(exit_depths=exits, alpha=alpha, architecture={"pixel_decoder": decoder}).exit_weights == expected
    )


@pytest.mark.parametrize("epochs", [0, -1, "NaN", "Infinity"])
def test_train_parent_config__epochs_that_are_no_length__refused(epochs: object) -> None:
    said = float(epochs) if isinstance(epochs, str) else epochs
    with pytest.raises(UsageError, match="epochs: input should be"):
        settings_for(epochs=said)


def test_train_parent_config__serialised__without_execution_and_root() -> None:
    config = settings_for(execution={"workers": 3}, dataset={"root": "/somewhere"}, epochs=2)
    data = config.model_dump(mode="json")
    assert {"execution", "epochs"}.isdisjoint(data)
    assert "root" not in data["dataset"]
    assert config.execution.workers == 3


def test_train_parent_preset__one_exit__trains_it_in_every_step() -> None:
    said: dict[str, object] = {"exit_depths": [6]}
    resolved = resolve_config(TrainParentConfig, train_parent_preset(said), said)
    assert (resolved.exits_in_step, resolved.exit_weights, resolved.deepest_first) == (1, (1.0,), 0.0)


def test_train_parent_preset__one_exit_per_step_asked_for__deepest_not_kept() -> None:
    detector = {"name": "detr-shapes"}
    assert settings_for(architecture=detector).keep_deepest
    config = settings_for(architecture=detector, exits_per_step=1)
    assert (config.exits_in_step, config.keep_deepest) == (1, False)


def test_train_parent_config__one_kept_exit_per_step__refused() -> None:
    with pytest.raises(UsageError, match="keep_deepest with one exit per step would never train another"):
        settings_for(exits_per_step=1, keep_deepest=True)


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"), [(0.0, 5, 0), (0.4, 5, 2), (0.5, 3, 2), (1.0, 4, 4), (0.6, 1, 1)]
)
def test_trains_deepest_alone__fraction__first_steps_rounded(ratio: float, steps: int, expected: int) -> None:
    config = settings_for(deepest_first=ratio, steps=steps)
    assert [config.trains_deepest_alone(step) for step in range(steps)] == [step < expected for step in range(steps)]


def test_train_parent_config__deepest_first_out_of_range__refused() -> None:
    with pytest.raises(UsageError, match="deepest_first"):
        settings_for(deepest_first=1.5)


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        (0, 7, []),
        (3, 7, [3, 6, 7]),
        (3, 6, [3, 6]),
        (10, 4, [4]),
        (3, 0, []),  # nothing is trained, nothing can have changed
    ],
)
def test_evaluates_after__schedule__every_so_often_and_at_the_end(every: int, steps: int, expected: list[int]) -> None:
    config = settings_for(steps=steps, evaluation={"every": every})
    assert [step for step in range(steps + 1) if config.evaluates_after(step)] == expected
    assert config.evaluates == bool(expected)


def test_train_parent_config__evaluation__part_of_the_serialised_settings_and_off_by_itself() -> None:
    assert settings_for().model_dump(mode="json")["evaluation"] == {
        "every": 350,
        "images": 64,
        "split": "val",
        "batch_size": 16,
    }
    # Origin: Mask2Former's TEST.EVAL_PERIOD.
    for name in ("coco", "cityscapes", "mine.toml"):
        evaluation = settings_for(dataset={"name": name}).evaluation
        assert (evaluation.every, evaluation.images, evaluation.split) == (5000, 500, "val")
    assert EvaluationConfig().every == 0
    with pytest.raises(UsageError, match=r"evaluation\.images"):
        settings_for(evaluation={"images": 0})


@pytest.mark.parametrize(
    ("arch", "said", "fault"),
    [
        ("m2f-shapes", {"loss": {"matching": "each"}}, r"loss\.matching: input should be 'own' or 'deepest'"),
        ("detr-shapes", {"loss": {"matching": "each"}}, r"loss\.matching: input should be 'own' or 'deepest'"),
        (
            "m2f-shapes",
            {"loss": {"giou_weight": 1.0}},
            r"unknown key 'loss\.giou_weight'; did you mean '.*dice_weight'",
        ),
        ("detr-shapes", {"loss": {"num_points": 9}}, r"unknown key 'loss\.num_points'; valid keys here: box_weight"),
        ("m2f-shapes", {"loss": 3}, "loss: input should be an object"),
        ("m2f-shapes", {"architecture": {"kind": "yolo"}}, r"kind: input should be 'mask2former' or 'detr'"),
        ("m2f-shapes", {"architecture": {"backbone": {"blocks": 3}}}, r"architecture\.backbone\.blocks: input should"),
        ("m2f-shapes", {"exits_per_step": "two"}, "exits_per_step: input should be a valid integer or 'all', found"),
        ("m2f-shapes", {"alpha": [1.0, -2.0]}, r"alpha\[1\]: input should be greater than 0, found -2"),
    ],
)
def test_train_parent_config__fault_in_a_value_of_several_kinds__named_once_as_it_was_written(
    arch: str, said: dict[str, Any], fault: str
) -> None:
    settings = deep_merge({"dataset": {"name": "shapes"}, "architecture": {"name": arch}}, said)
    with pytest.raises(UsageError, match=rf"has one fault:\n  - .*{fault}"):
        resolve_config(TrainParentConfig, train_parent_preset(settings), settings)
