"""What the commands share. Expected output is worked by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import rich.table
from pydantic import Field

from ecocli.artifacts.store import Store
from ecocli.commands.common import (
    emit_result,
    environment_data_root,
    gather_settings,
    make_runtime,
    open_store,
    print_dry_run,
    resolve,
    resolve_input,
)
from ecocli.config.base import Config
from ecocli.errors import InterruptedRunError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.distributed import World

MAIN = World()
OTHER = World(rank=1, world_size=2)


class _Optimizer(Config):
    steps: int = 1
    learning_rate: float = 0.1


class _Stage(Config):
    dataset: str = "none"
    optimizer: _Optimizer = _Optimizer()
    exit_depths: tuple[int, ...] = (1, 2)
    root: str | None = None


class _Execution(Config):
    workers: int = 4
    tensorboard: str | None = None


class _Data(Config):
    name: str = "shapes"
    root: str | None = Field(default=None, exclude=True)


class _Executed(Config):
    seed: int = 0
    dataset: _Data = _Data()
    execution: _Execution = Field(default=_Execution(), exclude=True)


def test_resolve__four_layers__later_wins(tmp_path: Path) -> None:
    toml = tmp_path / "stage.toml"
    toml.write_text('exit_depths = [3]\ndataset = "toml"\n[optimizer]\nsteps = 3\n')
    config = resolve(
        _Stage,
        preset={"dataset": "preset", "root": "preset", "optimizer": {"steps": 2, "learning_rate": 0.2}},
        config_path=toml,
        flags={"dataset": "flag", "optimizer.steps": 4, "root": None},
        assignments=["optimizer.steps=5"],
    )
    # root: only the preset names it, for a flag of None was not given. learning_rate: preset. exit_depths: TOML.
    assert config == _Stage(
        dataset="flag", optimizer=_Optimizer(steps=5, learning_rate=0.2), exit_depths=(3,), root="preset"
    )


def test_resolve__preset_function__sees_what_the_user_said() -> None:
    def preset(settings: Mapping[str, object]) -> Mapping[str, object]:
        return {"root": f"/data/{settings['dataset']}"}

    assert resolve(_Stage, preset=preset, assignments=["dataset=coco"]).root == "/data/coco"


def test_resolve__nothing_said__is_the_defaults() -> None:
    assert resolve(_Stage) == _Stage()


def test_resolve__unknown_key__names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'optimiser\.steps'|unknown key 'optimiser'.*'optimizer'"):
        resolve(_Stage, assignments=["optimiser.steps=5"])


def test_gather_settings__flags_of_none__are_left_out() -> None:
    assert gather_settings(None, {"a.b": 1, "a.c": None}, None) == {"a": {"b": 1}}


def test_environment_data_root__two_variables__ours_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_data_root() is None
    monkeypatch.setenv("DETECTRON2_DATASETS", "/theirs")
    assert environment_data_root() == "/theirs"
    monkeypatch.setenv("ECO_DATASETS", "/ours")
    assert environment_data_root() == "/ours"


def test_open_store__option_environment_default__in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_store(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.setenv("ECO_STORE", str(tmp_path / "named"))
    assert open_store(None).root == tmp_path / "named"
    monkeypatch.delenv("ECO_STORE")
    assert open_store(None).root == Path(".eco")


def test_make_runtime__one_process__stops_on_a_signal_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with make_runtime("cpu", 1) as runtime, runtime.stop.orderly():
        assert (runtime.device, runtime.world, runtime.threads) == ("cpu", MAIN, 1)
        assert not runtime.should_stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert runtime.should_stop()
    assert capfd.readouterr() == ("", "SIGUSR1: stopping; what is finished is kept\n")


def test_make_runtime__signal_where_nothing_can_be_saved__leaves_at_once() -> None:
    def work() -> None:
        with make_runtime("cpu", 1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    started = time.monotonic()
    with pytest.raises(InterruptedRunError, match=r"Stopped by SIGTERM\. .*the same command starts from there"):
        work()
    assert time.monotonic() - started < 30


def test_make_runtime__ctrl_c__says_how_to_leave_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with make_runtime("cpu", 1) as runtime, runtime.stop.orderly():
        os.kill(os.getpid(), signal.SIGINT)
        assert runtime.stop.requested
    assert "press Ctrl-C again to leave at once" in capfd.readouterr().err


def test_make_runtime__unknown_device__is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="The device is 'gpu', expected one of auto, cpu, cuda"), make_runtime("gpu"):
        pass


def test_make_runtime__broken_launcher__is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'many'"), make_runtime("cpu"):
        pass


def test_resolve_input__reference_or_latest__is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[str, str | None]] = []

    def answer(_store: Store, reference: str, kind: str | None) -> str:
        asked.append((reference, kind))
        return "sha256:12"

    store = open_store(None)
    monkeypatch.setattr("ecocli.artifacts.references.resolve", answer)
    log = Runtime.quiet().log
    with caplog.at_level("INFO"):
        assert resolve_input(store, "parent", None, log) == "sha256:12"
        assert resolve_input(store, "parent", "mine", log) == "sha256:12"
    assert asked == [("parent", "parent"), ("mine", "parent")]
    assert caplog.messages == ["parent sha256:12 (the latest)", "parent sha256:12 (mine)"]


def test_emit_result__text__is_the_only_output(capsys: pytest.CaptureFixture[str]) -> None:
    emit_result(MAIN, {"digest": "sha256:12"}, text="sha256:12")
    assert capsys.readouterr() == ("sha256:12\n", "")


def test_emit_result__json__is_one_line_and_nan_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit_result(MAIN, {"pq": float("nan"), "path": Path("a"), "é": (1, 2)}, text="hidden", as_json=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"pq": None, "path": "a", "é": [1, 2]}


def test_emit_result__other_rank__prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    emit_result(OTHER, {"a": 1}, text="hidden")
    emit_result(OTHER, {"a": 1}, as_json=True)
    assert capsys.readouterr() == ("", "")


def test_emit_result__wide_table_in_a_pipe__is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = rich.table.Table("digest", "name")
    digest = "sha256:" + "ab" * 32
    table.add_row(digest, "a name of many words that would be wrapped")
    emit_result(MAIN, {}, table=table)
    assert f"{digest} │ a name of many words that would be wrapped" in capsys.readouterr().out


def test_print_dry_run__text__shows_settings_inputs_and_reuse(capsys: pytest.CaptureFixture[str]) -> None:
    print_dry_run(MAIN, "derive", _Stage(), {"parent": "sha256:12"}, action_digest="sha256:34", reused="sha256:56")
    assert capsys.readouterr().out.splitlines() == [
        "derive: would reuse sha256:56",
        "action sha256:34",
        "inputs",
        '  parent = "sha256:12"',
        "config",
        '  dataset = "none"',
        "  optimizer.steps = 1",
        "  optimizer.learning_rate = 0.1",
        "  exit_depths = [1,2]",
    ]


def test_print_dry_run__json__is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_dry_run(MAIN, "derive", _Stage(root="/data"), {}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "stage": "derive",
        "action": None,
        "inputs": {},
        "config": {
            "dataset": "none",
            "optimizer": {"steps": 1, "learning_rate": 0.1},
            "exit_depths": [1, 2],
            "root": "/data",
        },
        "outside_identity": {},
        "reused": None,
    }


def test_print_dry_run__settings_outside_the_identity__in_a_section_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = _Executed(dataset=_Data(root="/data"))
    print_dry_run(MAIN, "derive", config, {})
    assert capsys.readouterr().out.splitlines() == [
        "derive: would run",
        "config",
        "  seed = 0",
        '  dataset.name = "shapes"',
        "no part of the result's identity",
        '  dataset.root = "/data"',
        "  execution.workers = 4",
    ]
    print_dry_run(MAIN, "derive", config, {}, as_json=True)
    planned = json.loads(capsys.readouterr().out)
    assert planned["config"] == {"seed": 0, "dataset": {"name": "shapes"}}
    assert planned["outside_identity"] == {
        "dataset": {"root": "/data"},
        "execution": {"workers": 4, "tensorboard": None},
    }


def test_print_dry_run__unknown_setting__left_out_and_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_dry_run(MAIN, "derive", _Executed(), {}, unknown=("seed",))
    assert "seed" not in capsys.readouterr().out
    print_dry_run(MAIN, "derive", _Executed(), {}, unknown=("seed",), as_json=True)
    assert json.loads(capsys.readouterr().out)["config"]["seed"] is None


def test_import__common__loads_no_torch_and_a_cpu_runtime_neither() -> None:
    script = (
        "import sys\n"
        "from ecocli.commands.common import make_runtime\n"
        "with make_runtime('cpu', 1): pass\n"
        "print(sorted({'torch', 'numpy', 'rich', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
