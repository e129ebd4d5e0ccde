"""What the shared options refuse before a command begins."""

from pathlib import Path

import pytest

from ecocli.__main__ import main


@pytest.mark.parametrize(
    "typed",
    [
        ["import", "absent.pkl"],
        ["train-parent", "--dataset", "shapes"],
        ["derive", "--shard", "0/2"],
        ["fit-gate"],
        ["sweep"],
        ["eval"],
        ["profile"],
    ],
    ids=lambda typed: typed[0],
)
@pytest.mark.parametrize("further", [[], ["--dry-run"]])
def test_name__impossible__refused_before_anything_is_looked_up(
    typed: list[str],
    further: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*typed, "--name", "fine", "--name", "Bad Name!", *further]) == 2
    captured = capsys.readouterr()
    assert "error: 'Bad Name!' cannot be a name: expected 1 to 128 letters" in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
