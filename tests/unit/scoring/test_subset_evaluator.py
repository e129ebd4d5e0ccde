import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_inference import EXIT_DEPTHS, RULE, TINY, tiny_dataset_config, tiny_model
from helpers_own_truth import make_own_truth
from hypothesis import given
from hypothesis import strategies as st

from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.dataset import DatasetConfig
from ecocli.data.categories import SHAPES
from ecocli.data.datasets import open_dataset
from ecocli.errors import DataError
from ecocli.metrics.panoptic_quality import panoptic_quality, sum_counts
from ecocli.model.builders import build_model
from ecocli.runtime.context import Runtime
from ecocli.scoring import subset_evaluator
from ecocli.scoring.batches import load_batch
from ecocli.scoring.score_exits import score_exits
from ecocli.scoring.subset_evaluator import SubsetEvaluator, spread_positions
from ecocli.tasks.registry import task_of

IMAGES = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    """Seven validation scenes whose truth is what one of the exits says, so that every exit scores something."""
    folder = tmp_path_factory.mktemp("data")
    return make_own_truth(tiny_dataset_config(folder, val=IMAGES), folder / "own")


def judged_by(architecture: ArchitectureConfig) -> dict[str, Any]:
    """What training gives an evaluator for panoptic maps of the shapes."""
    task = task_of(architecture)
    score, load_truth = task.scorer(architecture, SHAPES, "ap")
    return {"score": score, "load_truth": load_truth, "qualities": lambda results: task.qualities(results, SHAPES)}


def evaluator(data: DatasetConfig, runtime: Runtime | None = None, **changes: object) -> SubsetEvaluator:
    settings = {**judged_by(TINY), "images": IMAGES, "batch_size": 2, "precision": "float32", **changes}
    dataset = open_dataset(data, "val")
    return SubsetEvaluator(dataset, TINY, EXIT_DEPTHS, data.test_resize, runtime or Runtime.quiet(), **settings)


@pytest.mark.parametrize(
    ("total", "wanted", "expected"),
    [
        # By hand: the middles of equal stretches, rounded down.
        (512, 4, (64, 192, 320, 448)),
        (7, 3, (1, 3, 5)),
        (3, 3, (0, 1, 2)),
        (2, 64, (0, 1)),
        (0, 64, ()),
    ],
)
def test_spread_positions__small_numbers__middles_of_equal_stretches(
    total: int, wanted: int, expected: tuple[int, ...]
) -> None:
    assert spread_positions(total, wanted) == expected


@given(total=st.integers(1, 6000), wanted=st.integers(1, 600))
def test_spread_positions__any_numbers__distinct_and_even(total: int, wanted: int) -> None:
    found = spread_positions(total, wanted)
    assert len(found) == min(total, wanted)
    assert found[0] >= 0
    assert found[-1] < total
    steps = {after - before for before, after in itertools.pairwise(found)}
    assert all(step >= 1 for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


def test_call__batches_cut_for_the_device__scores_every_image(
    data: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_model().state_dict()
    whole = evaluator(data, batch_size=4)(weights)
    monkeypatch.setattr("ecocli.model.mask2former._CPU_PIXELS_AT_ONCE", 64 * 64)
    assert evaluator(data, batch_size=4)(weights) == whole


def test_call__subset__the_images_spread_over_the_split(data: DatasetConfig) -> None:
    dataset, model = open_dataset(data, "val"), tiny_model()
    counts = []
    for position in (1, 3, 5):
        batch = load_batch(dataset, [position], data.test_resize, model, "cpu")
        counts += score_exits(model, batch.images, batch.truths, EXIT_DEPTHS, RULE)
    subset = evaluator(data, images=3, batch_size=1)
    assert subset.num_images == 3
    expected = {
        depth: panoptic_quality(sum_counts([row.counts[index] for row in counts], len(SHAPES)), RULE.is_thing)
        for index, depth in enumerate(EXIT_DEPTHS)
    }
    found = subset(model.state_dict())
    assert found is not None
    for depth, quality in expected.items():
        parts = (quality.pq, quality.sq, quality.rq, quality.things.pq, quality.stuff.pq)
        assert tuple(found[depth].values()) == parts
    assert len({quality.pq for quality in expected.values()} - {0.0}) == len(EXIT_DEPTHS)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_call__half_precision__about_the_same(data: DatasetConfig, precision: str) -> None:
    weights = tiny_model().state_dict()
    exact, rounded = evaluator(data)(weights), evaluator(data, precision=precision)(weights)
    assert exact is not None
    assert rounded is not None
    assert rounded != exact
    # The truth's segments meet the threshold of one half by far; a few of some forty may change sides.
    for depth in EXIT_DEPTHS:
        assert rounded[depth]["pq"] == pytest.approx(exact[depth]["pq"], abs=0.15)
    assert not torch.is_autocast_enabled("cpu")


def test_call__model_in_training__left_as_it_is(data: DatasetConfig) -> None:
    architecture = TINY.model_copy(update={"backbone": TINY.backbone.model_copy(update={"norm": "bn"})})
    model = build_model(architecture).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subset = SubsetEvaluator(
        open_dataset(data, "val"),
        architecture,
        EXIT_DEPTHS,
        data.test_resize,
        Runtime.quiet(),
        **judged_by(architecture),
        images=2,
        batch_size=2,
        precision="float32",
    )
    assert subset(model.state_dict()) is not None
    after = model.state_dict()
    assert "backbone.stem.conv1.norm.running_mean" in before
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_call__signal_between_batches__none(data: DatasetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime.quiet()
    loaded = 0

    def load_and_signal(*arguments: object) -> object:
        for batch in iterate(*arguments):
            nonlocal loaded
            loaded += 1
            runtime.stop.request("SIGTERM")
            yield batch

    iterate = subset_evaluator.iterate_batches
    monkeypatch.setattr(subset_evaluator, "iterate_batches", load_and_signal)
    assert evaluator(data, runtime)(tiny_model().state_dict()) is None
    assert loaded == 1  # of four


def test_call__unreadable_image__its_error(data: DatasetConfig, tmp_path: Path) -> None:
    own = make_own_truth(tiny_dataset_config(tmp_path, val=2), tmp_path / "own")
    dataset = open_dataset(own, "val")
    subset = evaluator(own)
    dataset.panoptic_path(dataset.records[1]).unlink()
    with pytest.raises(DataError, match=r"The panoptic PNG .*val.* is missing"):
        subset(tiny_model().state_dict())


def test_call__nothing_predicted__quality_of_zero(data: DatasetConfig) -> None:
    weights = dict(tiny_model().state_dict())
    bias = torch.zeros(len(SHAPES) + 1)
    bias[-1] = 1e3  # everything is "no object"
    weights["sem_seg_head.predictor.class_embed.bias"] = bias
    found = evaluator(data)(weights)
    assert found is not None
    assert all(quality["pq"] == 0.0 for quality in found.values())
