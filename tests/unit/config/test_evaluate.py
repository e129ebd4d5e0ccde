"""Settings of an evaluation: whose rules it follows."""

from pathlib import Path

import pytest

from ecocli.config.evaluate import EvaluateConfig
from ecocli.config.loading import load_toml, resolve_config
from ecocli.errors import UsageError


@pytest.mark.parametrize(
    "dataset, rules", [("cityscapes", "cityscapes"), ("coco", "coco"), ("shapes", "coco"), ("cityscapes.toml", "coco")]
)
def test_rules__not_named__are_those_of_the_data_set(dataset: str, rules: str) -> None:
    assert resolve_config(EvaluateConfig, {"dataset": {"name": dataset}}).rules == rules
    for named in ("coco", "cityscapes"):
        given = {"dataset": {"name": dataset}, "rules": named}
        assert resolve_config(EvaluateConfig, given).rules == named


def test_rules__unknown__are_refused_beside_other_faults() -> None:
    with pytest.raises(UsageError, match=r"(?s)rules: .*'coco' or 'cityscapes'"):
        resolve_config(EvaluateConfig, {"dataset": {"name": "coco"}, "rules": "kitti"})
    with pytest.raises(UsageError, match="dataset: "):
        resolve_config(EvaluateConfig, {"dataset": 3})


@pytest.mark.parametrize("name", ["coco", "cityscapes"])
def test_rules__files_of_the_pipelines__follow_their_data_set(name: str) -> None:
    path = Path(__file__).parents[3] / "pipelines" / name / "eval.toml"
    assert resolve_config(EvaluateConfig, load_toml(path)).rules == name


def test_wants_instance_file__rules_and_metrics__only_for_ap_by_coco() -> None:
    given = {"dataset": {"name": "coco"}}
    assert resolve_config(EvaluateConfig, given).wants_instance_file
    assert not resolve_config(EvaluateConfig, {**given, "metrics": ["miou"]}).wants_instance_file
    assert not resolve_config(EvaluateConfig, {**given, "rules": "cityscapes"}).wants_instance_file
