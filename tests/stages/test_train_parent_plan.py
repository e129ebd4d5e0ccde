"""What a training plans: steps of epochs, evaluations in between, and refusals before the first step."""

from pathlib import Path
from typing import Any

import pytest
from helpers_data import two_halves, write_split
from helpers_train_parent import SHAPES, plan, settings
from helpers_training import tiny_config

from ecocli.data.categories import SHAPES as CATEGORIES
from ecocli.data.categories import Category
from ecocli.errors import DataError, UsageError


def test_plan__nothing_to_evaluate__split_not_asked_for(data_root: Path) -> None:
    for changes in ({"evaluation": {"every": 0, "split": "none"}}, {"evaluation": {"every": 1}, "steps": 0}):
        planned = plan(settings(data_root, **changes))
        assert list(planned.action.fingerprints) == ["train"]
        assert planned.data.evaluation is None


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"),
    [
        (2, 4, 6),
        (1, 5, 3),  # 12 images are 2.4 batches of 5
        (0.01, 4, 1),
        (2.2, 1, 27),  # 26.4
        (0.7, 1, 9),  # 8.4
        (1.1, 12, 2),
    ],
)
def test_plan__epochs__steps_that_take_them(data_root: Path, epochs: float, batch_size: int, steps: int) -> None:
    # Origin: worked by hand for the 12 training images.
    config = settings(data_root, epochs=epochs, batch_size=batch_size, evaluation={"every": 1}, steps=0)
    planned = plan(config)
    assert planned.config.steps == steps
    assert planned.data.evaluation is not None  # the schedule of evaluations follows the steps found
    # The same as if the steps had been said: epochs are a way to say it, no part of what is asked.
    said = settings(data_root, batch_size=batch_size, evaluation={"every": 1}, steps=steps)
    assert planned.action.digest == plan(said).action.digest
    assert planned.action.stage_config["steps"] == steps
    assert "epochs" not in planned.action.stage_config


def test_plan__epochs_that_binary_numbers_miss__not_rounded_up(tmp_path: Path) -> None:
    # 1.1 x 50 is 55.00000000000001 in binary floating point; 55 steps of one image are 1.1 epochs.
    data = {"root": str(tmp_path), "shapes": {**SHAPES, "train": 50}}
    config = tiny_config(dataset=data, epochs=1.1, batch_size=1)
    assert plan(config).config.steps == 55


def test_plan__single_exit_weighed_by_depth__asks_for_plain_mask2former(data_root: Path) -> None:
    single = {"exit_depths": [3], "exits_per_step": "all"}
    digests = {
        str(alpha): plan(settings(data_root, alpha=alpha, **single)).action.digest
        for alpha in ("depth", "uniform", [3.0])
    }
    assert digests["depth"] == digests["uniform"] != digests["[3.0]"]
    several = plan(settings(data_root, alpha="depth")).config
    assert several.alpha == "depth"


def test_plan__evaluated_on_the_training_split__opened_once(data_root: Path) -> None:
    config = settings(data_root, evaluation={"every": 1, "split": "train"})
    planned = plan(config)
    assert list(planned.action.fingerprints) == ["train"]
    assert planned.data.evaluation is planned.data.training


def own_data(folder: Path, splits: tuple[str, ...], categories: tuple[Category, ...] = CATEGORIES) -> dict[str, Any]:
    """Settings of a data set of one's own; all splits but ``train`` have the categories given."""
    tables = []
    for split in splits:
        known = CATEGORIES if split == "train" else categories
        scenes = [two_halves(1, (1, known[0].id), (2, known[1].id))]
        write_split(scenes, known, folder / split, folder / f"{split}-ids", folder / f"{split}.json")
        tables.append(f'[splits.{split}]\nimages = "{split}"\nannotations = "{split}.json"\npanoptic = "{split}-ids"\n')
    (folder / "mine.toml").write_text('name = "mine"\n' + "".join(tables))
    return {"name": str(folder / "mine.toml")}


def test_plan__own_data_without_the_split__says_how_to_go_on(tmp_path: Path) -> None:
    config = tiny_config(dataset=own_data(tmp_path, ("train", "test")), evaluation={"every": 1})
    with pytest.raises(
        UsageError,
        match=r"has no split 'val'; it has train, test\. .*named by --set evaluation\.split=NAME\. Or train without "
        r"evaluating the exits in between: --eval-every 0\.$",
    ):
        plan(config)
    other = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"split": "test"})})
    assert list(plan(other).action.fingerprints) == ["train", "test"]
    (tmp_path / "test.json").unlink()
    with pytest.raises(DataError, match=r"annotation file was not found; tried .*test\.json\. .*--eval-every 0\.$"):
        plan(other)


def test_plan__splits_of_other_categories__refused(tmp_path: Path) -> None:
    config = tiny_config(dataset=own_data(tmp_path, ("train", "val"), CATEGORIES[:5]), evaluation={"every": 1})
    with pytest.raises(DataError, match=r"The split val has 5 categories, the split train .* has 13, .*--eval-every 0"):
        plan(config)
