"""``eco profile`` as typed: table, JSON, dry run, refusals."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ecocli.__main__ import main
from ecocli.artifacts.store import Store


def typed(tmp_path: Path, *arguments: str) -> list[str]:
    return ["profile", "--store", str(tmp_path / "store"), "--device", "cpu", "--threads", "1", *arguments]


def test_profile__architecture__table_states_convention_and_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(tmp_path, "--arch", "m2f-swin-t", "--dataset", "cityscapes")) == 0
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines() if line.strip().startswith("cityscapes val")]
    assert [row[2] for row in rows] == ["2", "3", "4", "5", "6"]
    # Published: 281.13 in the pixel decoder, 537.85 in all.
    assert (rows[-1][5], rows[-1][-1]) == ("281.13", "537.85")
    assert "one multiply-add counts once; deformable sampling" in captured.out
    assert "network input 1024 x 2048" in captured.out
    assert "19 classes" in captured.out


def test_profile__coco_mean__lands_on_the_published_figures_in_seconds(tmp_path: Path) -> None:
    # In a process of its own: run-time type checks would triple the time. ECO-M2F, table 1: 235.57 and 121.69.
    program = [sys.executable, "-m", "ecocli", *typed(tmp_path, "--arch", "m2f-swin-t", "--dataset", "coco", "--json")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (entry,) = json.loads(done.stdout)["inputs"]
    assert entry["exits"][-1]["total"] == pytest.approx(235.57, abs=0.005)
    assert entry["exits"][-1]["pixel_decoder"] == pytest.approx(121.69, abs=0.005)
    assert entry["images"] == 5000
    # Processor time, which a busy machine stretches less than the clock's.
    assert after.ru_utime - before.ru_utime < 30
    assert after.ru_maxrss * 1024 < 6 * 2**30


def test_profile__json__holds_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(tmp_path, "--arch", "m2f-shapes", "--size", "1x1", "--size", "70x100", "--json")) == 0
    data = json.loads(capsys.readouterr().out)
    assert [entry["input"] for entry in data["inputs"]] == ["1x1", "70x100"]
    assert data["inputs"][1]["padded_sizes"] == [[96, 128]]
    row = data["inputs"][0]["exits"][0]
    parts = ("backbone", "pixel_decoder", "upsampling", "transformer_decoder", "post_processing")
    assert sum(row[part] for part in parts) == pytest.approx(row["total"])
    assert "latency" not in data


def test_profile__convention_all__counts_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    totals = []
    for convention in ("paper", "all"):
        line = typed(tmp_path, "--arch", "m2f-shapes", "--size", "64x64", "--convention", convention, "--json")
        assert main(line) == 0
        totals.append(json.loads(capsys.readouterr().out)["inputs"][0]["exits"][0]["total"])
    assert totals[1] > totals[0]


def test_profile__latency__ms_beside_gflops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = typed(tmp_path, "--arch", "m2f-shapes", "--size", "64x64", "--exits", "2,6", "--latency")
    assert main([*line, "--repetitions", "2"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.split()[:1] == ["ms"]] == ["ms"] * 3
    assert "ms per image: median (quartiles) at 64 x 64, batch 1, float32, cpu, 1 threads; peak memory" in out


def test_profile__one_size_twice__each_block_has_its_own_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--size", "64x64", "--size", "64x64", "--exits", "2")
    assert main(typed(tmp_path, "--arch", "m2f-shapes", *sizes, "--latency", "--repetitions", "2")) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.split()[:1] == ["ms"] and "per image" not in line]
    store = Store(tmp_path / "store")
    both = store.read_provenance(store.names()["profile"]).latency
    expected = [one.exits[0].total for one in both]
    assert len(rows) == 2
    for row, total in zip(rows, expected, strict=True):
        assert f"{total.median_ms:.1f} ({total.low_ms:.1f} to {total.high_ms:.1f})" in row


def test_profile__dry_run__names_the_action_and_computes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(tmp_path, "--arch", "m2f-r50", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert out.startswith("profile: would run\naction sha256:")
    assert 'dataset.name = "coco"' in out
    assert "exit_depths = [2,3,4,5,6]" in out


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--arch", "m2f-r51"], 2, "--arch is 'm2f-r51', expected one of m2f-r50, m2f-swin-t"),
        (["--arch", "m2f-r50", "--parent", "x"], 2, "--arch profiles an architecture without weights"),
        (["--arch", "m2f-r50", "--size", "12"], 2, "--size is '12', expected height x width in pixels"),
        (["--arch", "m2f-r50", "--size", "0x5"], 2, "--size is '0x5', expected height x width in pixels"),
        (["--arch", "m2f-r50", "--exits", "2;3"], 2, "--exits is '2;3', expected encoder depths such as 2,4,6"),
        (["--arch", "m2f-r50", "--exits", "2,9"], 2, "exit depths [2, 9] asked of an encoder with 6 layers"),
        (["--arch", "m2f-r50", "--convention", "some"], 2, "convention: "),
        (["--size", "64x64"], 4, "parent"),
    ],
)
def test_profile__impossible__one_paragraph(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(tmp_path, *arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
