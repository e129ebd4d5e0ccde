"""Layered configuration. Expected values are worked by hand from the rules in the module's docstring."""

from pathlib import Path

import pytest
from pydantic import Field, field_validator, model_validator

from ecocli.config.base import Config
from ecocli.config.loading import (
    deep_merge,
    load_toml,
    merge_alternatives,
    nest,
    parse_assignments,
    resolve_config,
)
from ecocli.errors import UsageError


class _Optimizer(Config):
    steps: int = Field(default=10, ge=1)
    learning_rate: float = 1e-4


class _Crop(Config):
    size: int = 64


class _Stage(Config):
    name: str = "shapes"
    root: str | None = None
    exit_depths: tuple[int, ...] = (2, 3)
    optimizer: _Optimizer = _Optimizer()
    crop: _Crop | None = None
    crops: tuple[_Crop, ...] = ()
    seed: int

    @field_validator("exit_depths")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("Exit depths must ascend")
        return value

    @model_validator(mode="after")
    def _check_root(self) -> "_Stage":
        if self.name == "coco" and self.root is None:
            raise ValueError("the data set coco needs a root")
        return self


class _Resize(Config):
    edge: int


class _Union(Config):
    step: _Resize | _Crop


def test_deep_merge__nested_mappings__merge_key_by_key_and_lists_are_replaced() -> None:
    merged = deep_merge({"a": {"x": 1, "y": 2}, "l": [1, 2]}, {"a": {"y": 3}, "l": [4]}, {"b": 5})
    assert merged == {"a": {"x": 1, "y": 3}, "l": [4], "b": 5}


def test_merge_alternatives__two_layers__the_last_said_goes_alone() -> None:
    file, flags = {"steps": 3, "optimizer": {"a": 1, "b": 2}}, {"epochs": 2.0, "optimizer": {"b": 3}}
    merged = merge_alternatives(file, flags, {}, alternatives=("steps", "epochs"))
    assert merged == {"epochs": 2.0, "optimizer": {"a": 1, "b": 3}}
    assert merge_alternatives(flags, file, alternatives=("steps", "epochs")) == {
        "steps": 3,
        "optimizer": {"a": 1, "b": 2},
    }
    assert merge_alternatives(file, flags, alternatives=()) == deep_merge(file, flags)


def test_merge_alternatives__both_in_one_layer__refused() -> None:
    with pytest.raises(UsageError, match="Both steps and epochs are given, and each determines the other"):
        merge_alternatives({}, {"epochs": 2.0, "steps": 3}, alternatives=("steps", "epochs"))


def test_deep_merge__scalar_against_mapping__later_wins() -> None:
    assert deep_merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    assert deep_merge({"a": {"b": 2}}, {"a": 1}) == {"a": 1}


def test_deep_merge__result_changed__layers_stay_as_they_were() -> None:
    layer: dict[str, object] = {"a": {"x": 1}}
    inner = deep_merge(layer)["a"]
    assert isinstance(inner, dict)
    inner["x"] = 2
    assert layer == {"a": {"x": 1}}


def test_nest__dotted_keys__become_nested() -> None:
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a=1", {"a": 1}),
        ("a = 0.5", {"a": 0.5}),
        ("a.b=true", {"a": {"b": True}}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ('a="x=y"', {"a": "x=y"}),
        ("a=coco", {"a": "coco"}),
        ("a=/data/coco-2017", {"a": "/data/coco-2017"}),
        ("a={b = 1}", {"a": {"b": 1}}),
    ],
)
def test_parse_assignments__one_value__has_its_toml_type(text: str, expected: dict[str, object]) -> None:
    assert parse_assignments([text]) == expected


def test_parse_assignments__several__later_wins() -> None:
    assert parse_assignments(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", "a..b=1"])
def test_parse_assignments__no_key_or_value__raises(text: str) -> None:
    with pytest.raises(UsageError, match="expected KEY=VALUE with a dotted key"):
        parse_assignments([text])


@pytest.mark.parametrize("text", ["a=1x", "a=", "a=[1", "a=two words"])
def test_parse_assignments__not_toml__raises(text: str) -> None:
    with pytest.raises(UsageError, match="expected a TOML value such as"):
        parse_assignments([text])


def test_parse_assignments__second_line__raises() -> None:
    with pytest.raises(UsageError, match="spans several lines"):
        parse_assignments(["a=1\nb=2"])


def test_load_toml__file__gives_its_content(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text('name = "coco"\n[optimizer]\nsteps = 5\n')
    assert load_toml(path) == {"name": "coco", "optimizer": {"steps": 5}}


def test_load_toml__missing__names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read \(No such file"):
        load_toml(tmp_path / "nowhere.toml")


def test_load_toml__broken__names_line(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text("a = 1\nb = \n")
    with pytest.raises(UsageError, match=r"stage\.toml is not valid TOML: .*line 2"):
        load_toml(path)


def test_resolve_config__layers__later_wins_and_lists_become_tuples() -> None:
    config = resolve_config(
        _Stage,
        {"seed": 1, "optimizer": {"steps": 3, "learning_rate": 1}},
        {"exit_depths": [2, 4], "optimizer": {"steps": 4}},
        {"seed": 2, "root": Path("/data"), "crop": _Crop(size=32)},
    )
    assert config == _Stage(
        seed=2,
        root="/data",
        exit_depths=(2, 4),
        optimizer=_Optimizer(steps=4, learning_rate=1.0),
        crop=_Crop(size=32),
    )


def test_resolve_config__several_faults__all_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_config(_Stage, {"optimizer": {"stesp": 5, "learning_rate": "fast"}, "nmae": "x"})
    first, *faults = str(caught.value).splitlines()
    assert first == "The configuration (_Stage) has 4 faults:"
    assert sorted(faults) == [
        "  - missing key 'seed'",
        '  - optimizer.learning_rate: input should be a valid number, found "fast"',
        "  - unknown key 'nmae'; did you mean 'name'?",
        "  - unknown key 'optimizer.stesp'; did you mean 'optimizer.steps'?",
    ]


def test_resolve_config__key_of_another_level__is_suggested_with_its_path() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'steps'; did you mean 'optimizer\.steps'\?"):
        resolve_config(_Stage, {"seed": 1, "steps": 5})


def test_resolve_config__key_like_no_other__lists_the_valid_ones() -> None:
    with pytest.raises(UsageError, match=r"'crop\.zzz'; valid keys here: size$"):
        resolve_config(_Stage, {"seed": 1, "crop": {"zzz": 5}})


def test_resolve_config__fault_in_a_list__names_the_position() -> None:
    with pytest.raises(UsageError, match=r"has one fault:\n  - crops\[1\]\.size: input should be a valid integer"):
        resolve_config(_Stage, {"seed": 1, "crops": [{"size": 1}, {"size": "b"}]})


def test_resolve_config__fault_in_a_union__keys_are_as_the_user_wrote_them() -> None:
    with pytest.raises(UsageError, match=r"missing key 'step\.edge'\n.*unknown key 'step\.sise'"):
        resolve_config(_Union, {"step": {"sise": 1}})


def test_resolve_config__own_validators__keep_their_words() -> None:
    with pytest.raises(UsageError, match=r"exit_depths: exit depths must ascend, found \[3, 2\]"):
        resolve_config(_Stage, {"seed": 1, "exit_depths": [3, 2]})
    with pytest.raises(UsageError, match=r"one fault:\n  - the data set coco needs a root$"):
        resolve_config(_Stage, {"seed": 1, "name": "coco"})


def test_resolve_config__long_value__is_cut() -> None:
    with pytest.raises(UsageError, match=r"found \"x{76}\.\.\.$"):
        resolve_config(_Stage, {"seed": "x" * 200})


@pytest.mark.parametrize("value", ["1", 1.5, True])
def test_resolve_config__wrong_type__is_refused_without_conversion(value: object) -> None:
    with pytest.raises(UsageError, match="seed: input should be a valid integer"):
        resolve_config(_Stage, {"seed": value})
