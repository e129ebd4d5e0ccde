"""Bounds that hold for every setting: no number is too large to be computed with."""

import pytest

from ecocli.__main__ import main

TRAINING = ["train-parent", "--dataset", "shapes", "--dry-run"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*TRAINING, "--steps", "9" * 400],
        [*TRAINING, "--seed", "9" * 40],
        [*TRAINING, "--set", "schedule.warmup_steps=99999999999999999999"],
        [*TRAINING, "--set", "dataset.augmentation.crop_height_px=999999999"],
        [*TRAINING, "--set", "dataset.test_resize.short_edge_px=999999999"],
        ["profile", "--arch", "m2f-shapes", "--size", "999999999x999999999"],
        ["data", "shapes", "--root", "never", "--train", "999999999999999999999"],
    ],
    ids=lambda arguments: " ".join(arguments)[-40:],
)
def test_settings__number_beyond_all_use__refused_by_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "number beyond" in err or "less than or equal to" in err
