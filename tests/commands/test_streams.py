"""Every command with stdout closed, full and without a reader: the promised exit code, and a paragraph or silence."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import typer
from helpers_evaluation import make_bench
from helpers_exports import write_class_masks
from helpers_stages import run_stage
from helpers_weights import SWIN, random_model

from ecocli.__main__ import main
from ecocli.app import COMMANDS, build_app
from ecocli.artifacts.store import Store
from ecocli.artifacts.transfer import push
from ecocli.config.derive import DeriveConfig
from ecocli.data.categories import SHAPES
from ecocli.stages import derive, evaluate
from ecocli.weights.export import to_pickle, write_original

TRAINING = (
    *("dataset.augmentation.crop_height_px=64", "dataset.augmentation.crop_width_px=64", "execution.workers=0"),
    *("dataset.test_resize.short_edge_px=64", "dataset.test_resize.long_edge_px=128"),
)
COMMAND_LINES = {
    "train-parent": "--dataset {data} --arch m2f-shapes --batch-size 2 --exits 2,3 --layers 3 --eval-every 0 --steps 1 "
    "--alpha depth " + " ".join(f"--set {setting}" for setting in TRAINING),
    "derive": "--parent {parent} --batch-size 2",
    "fit-gate": "--beta 0 --parent {parent} --set bootstrap_replicates=10 --set folds=2",
    "eval": "--parent {parent} --gate {gate} --no-predictions --metrics pq --timed-images 0",
    "profile": "--parent {parent} --size 64x64",
    "predict": "{image} --parent {parent} --gate {gate} --out {out}/predicted",
    "sweep": "--beta 0 --out {out}/sweep --set bootstrap_replicates=10 --set folds=2",
    "compare": "{parent}",
    "report": "--out {out}/page --examples 0",
    "import": "{original} --categories shapes",
    "export": "{out}/exported.pkl --format original --parent {parent}",
    "data shapes": "--root {out}/shapes --train 1 --val 1 --size 48",
    "data convert": "{masks} {out}/converted --names 1=sky,2=house --things house",
    "data check": "{data} --split val",
    "store ls": "",
    "store show": "{gate}",
    "store verify": "",
    "store gc": "--dry-run",
    "store push": "{gate} {out}/layout --name moved",
    "store pull": "{layout} moved",
    "env": "",
}


def _leaves() -> Iterator[str]:
    """Names of all commands of the application, those of groups too."""
    for entry in COMMANDS:
        command = typer.main.get_command(build_app([entry.name])).commands[entry.name]  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        yield from [entry.name] if below is None else [f"{entry.name} {name}" for name in below]


def test_command_lines__every_command_of_the_application__has_one() -> None:
    assert sorted(COMMAND_LINES) == sorted(_leaves())


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the command lines name, and the store."""
    folder = tmp_path_factory.mktemp("streams")
    bench = make_bench(folder)
    run_stage(
        derive, DeriveConfig(dataset=bench.dataset, batch_size=2), {"parent": bench.inputs["parent"]}, bench.store
    )
    run_stage(evaluate, bench.config(metrics=()), bench.inputs, bench.store)
    push(bench.store, bench.inputs["gate"], folder / "layout", name="moved")
    write_class_masks(folder / "masks")
    architecture = SWIN.model_copy(update={"num_classes": len(SHAPES)})
    (folder / "original.pkl").write_bytes(
        to_pickle(write_original(architecture, random_model(architecture).state_dict()))
    )
    return {
        **bench.inputs,
        "store": str(bench.store.root),
        "data": bench.dataset.name,
        "image": str(next((folder / "cut" / "val").glob("*.png"))),
        "layout": str(folder / "layout"),
        "masks": str(folder / "masks"),
        "original": str(folder / "original.pkl"),
    }


@pytest.fixture
def words(places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Fill the places into a command line."""
    monkeypatch.setenv("ECO_STORE", places["store"])

    def fill(command: str) -> list[str]:
        return f"{command} {COMMAND_LINES[command]}".format(**places, out=tmp_path).split()

    return fill


@pytest.fixture
def stdout_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[None]]:
    """Make a stdout that is closed, full, or whose reader has gone."""

    @contextmanager
    def put(kind: str) -> Iterator[None]:
        reading, writing = os.pipe()
        os.close(reading)
        number = os.open("/dev/full", os.O_WRONLY) if kind == "full" else os.dup(writing)
        os.close(writing)
        with os.fdopen(number, "w", encoding="utf-8") as stdout, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None if kind == "closed" else stdout)
            yield

    return put


KINDS = [("closed", 0, ""), ("full", 2, "stdout cannot be written: No space left"), ("gone", 141, "")]


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_command__stdout_that_takes_nothing__promised_code_and_a_paragraph_or_silence(
    command: str,
    words: Callable[[str], list[str]],
    tmp_path: Path,
    stdout_that: Callable[[str], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, expected, told in KINDS:
        for left in tmp_path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        with stdout_that(kind):
            assert main(words(command)) == expected, kind
        err = capsys.readouterr().err
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == (1 if told else 0)
        assert all(told in line for line in errors)


@pytest.mark.parametrize("command", ["", *COMMAND_LINES])
def test_help__stdout_that_takes_nothing__promised_code_and_a_line_or_silence(
    command: str,
    stdout_that: Callable[[str], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, expected, told in KINDS:
        with stdout_that(kind):
            assert main([*command.split(), "--help"]) == expected, kind
        err = capsys.readouterr().err
        assert err.count("\n") == (1 if told else 0)
        assert err.startswith("error: the file system refuses: No space left" if told else "")


@pytest.mark.parametrize("command", COMMAND_LINES)
def test_command__stderr_that_takes_nothing__is_done_all_the_same(
    command: str, words: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        assert main(words(command)) == 0


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        *((text, 0) for text in ("", ">&-", "2>&-", "2>/dev/full", "<&- >&- 2>&-", "2>&1 >/dev/null | head -c 0")),
        *((text, 2) for text in (">/dev/full", ">/dev/full 2>/dev/full")),
        ("| head -c 0", 141),
    ],
)
@pytest.mark.parametrize("command", ["--version", "store ls"])
def test_process__redirected_by_a_shell__ends_with_the_code_of_main(
    command: str, redirection: str, code: int, tmp_path: Path
) -> None:
    Store(tmp_path / "store").create()
    line = f'"$0" -m ecocli {command} {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
