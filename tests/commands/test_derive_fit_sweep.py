"""``eco derive``, ``eco fit-gate`` and ``eco sweep`` as typed, through ``main``: output, files and exit codes."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers_evaluation import Bench, make_bench
from helpers_gate import derived_records, put_derived
from helpers_store import gate_manifest

from ecocli.__main__ import main
from ecocli.artifacts.provenance import Provenance
from ecocli.artifacts.store import Store
from ecocli.commands.derive import _read_shard
from ecocli.errors import UsageError
from ecocli.stages.derive import Shard


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("gates")
    store = Store(folder / "store")
    put_derived(store, folder, {"train": derived_records(0, 200), "val": derived_records(1, 150)})
    return store


def fit(store: Store, *arguments: str, command: str = "fit-gate") -> int:
    quick = ["--set", "bootstrap_replicates=20", "--set", "folds=3", "--set", "recipe=paper", "--threads", "1"]
    return main([command, "--store", str(store.root), *quick, *arguments])


# fit-gate


def test_fit_gate__beta_and_k_as_in_scripts__prints_the_digest_alone(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(store, "--beta", "0.0005", "--K", "3") == 0
    first = capsys.readouterr()
    assert first.out == f"{store.names()['gate']}\n"
    assert "fixed mixture of equal GFLOPs" in first.err
    assert "oracle of quality" in first.err
    assert fit(store, "--beta", "0.0005", "--K", "3", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["digest"] == first.out.strip()
    assert result["manifest"]["exit_depths"] == [2, 3]
    assert {"blend", "random", "majority", "best_fixed", "oracle", "lead_interval"} <= set(
        result["manifest"]["metrics"]
    )


def test_fit_gate__budget__shows_the_trade_off_it_chose_from(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(store, "--target-gflops", "16", "--head", "quality", "--compare-heads") == 0
    shown = capsys.readouterr().err
    assert "Trade-offs the search saw" in shown
    assert "Heads at this beta" in shown
    assert "mlp" in shown


def test_fit_gate__price_beyond_all_gain__warns(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(store, "--beta", "5") == 0
    assert "no better than a fixed mixture of equal GFLOPs" in capsys.readouterr().err


def test_fit_gate__milliseconds__from_the_list_or_a_report(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(store, "--target-ms", "24", "--exit-ms", "20,23,27") == 0
    listed = capsys.readouterr().out
    manifest = gate_manifest()
    timings = Provenance(ms_per_image={"exit 2": 20.0, "exit 3": 23.0, "exit 4": 27.0, "gate": 24.0})
    store.put(manifest, {}, provenance=timings, names=["timed"])
    assert fit(store, "--target-ms", "24", "--profile", "timed") == 0
    assert capsys.readouterr().out == listed


def test_fit_gate__dry_run__computes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.digests()
    assert fit(store, "--beta", "0.123", "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["reused"], planned["config"]["beta"]) == (None, 0.123)
    assert store.digests() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--beta", "0.1", "--K", "9"], 2, "--K is 9, but the parent's deepest exit is 4"),
        (["--beta", "-1"], 2, "beta: input should be greater than or equal to 0, found -1.0"),
        (["--beta", "nan"], 2, "beta: input should be a finite number"),
        (["--beta", "0.1", "--loss", "mse"], 2, "loss: input should be 'hard-ce', 'u-ce', 'soft-ce' or 'soft-mse'"),
        (["--beta", "0.1", "--head", "tree"], 2, "head: input should be 'class' or 'quality'"),
        ([], 2, "give exactly one of beta, target_gflops, target_ms, max_pq_drop; found none of them"),
        (["--beta", "1", "--target-ms", "1"], 2, "found beta and target_ms"),
        (["--target-ms", "24"], 2, "Measure them with `eco profile`"),
        (["--target-gflops", "1"], 2, "Feasible are 14 to 18"),
        (["--beta", "1", "--exit-ms", "3,x"], 2, "--exit-ms is '3,x', expected numbers such as"),
        (["--beta", "1", "--exit-ms", "3", "--profile", "p"], 2, "--profile and --exit-ms exclude each other"),
        (["--beta", "1", "--profile", "empty"], 2, "has no milliseconds of every exit (2, 3, 4)"),
        (["--beta", "1", "--parent", "empty"], 4, "artifact of kind 'gate', expected 'parent'"),
    ],
)
def test_fit_gate__impossible_request__one_paragraph_and_its_code(
    store: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    empty = gate_manifest()
    store.put(empty, {}, names=["empty"])
    assert fit(store, *arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "Traceback" not in shown.err


# sweep


def test_sweep__two_betas_two_depths__table_parquet_and_plot(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--beta", "0,0.005", "--K", "3", "--K", "4", "--head", "class quality", "--out", str(tmp_path)]
    assert fit(store, *arguments, command="sweep") == 0
    shown = capsys.readouterr().out
    assert shown.count("class, K = 3") == 2
    assert shown.count("quality, K = 4") == 2
    table = pq.read_table(tmp_path / "sweep.parquet")
    rows = table.to_pylist()
    assert [(row["head"], row["deepest_exit"], row["beta"]) for row in rows] == [
        (head, deepest, beta) for head in ("class", "quality") for deepest in (3, 4) for beta in (0.0, 0.005)
    ]
    assert table.schema.field("gflops").metadata[b"unit"] == b"GFLOPs"
    plot = (tmp_path / "sweep.svg").read_text()
    assert "quality gate, exits to 4" in plot
    assert fit(store, *arguments, "--json", command="sweep") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows
    # A gate of the sweep is the gate of fit-gate at the same price.
    assert fit(store, "--beta", "0.005", "--head", "quality", "--json") == 0
    alone = json.loads(capsys.readouterr().out)["manifest"]["metrics"]
    assert [rows[-1][name] for name in ("pq", "gflops", "cost")] == [
        alone["gate"][name] for name in ("pq", "gflops", "cost")
    ]
    assert [rows[-1]["lead_low"], rows[-1]["lead_high"]] == alone["lead_interval"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beta", "a"], "--beta is 'a', expected numbers such as 0,0.0005,0.02"),
        (["--K", "2,9"], "--K is 9, but the parent's deepest exit is 4"),
        (["--beta", "0.1,0.1"], "betas must differ; found 0.1, 0.1"),
        (["--beta", ","], "betas and heads must name at least one each"),
        (["--beta", "-0.1"], "betas[0]: input should be greater than or equal to 0"),
        (["--cost", "ms"], "Milliseconds are known for 0 of the 3 exits"),
        (["--set", "train_split=x"], "has the splits train, val, expected 'x'"),
    ],
)
def test_sweep__impossible_request__one_paragraph_and_code_2(
    store: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert fit(store, *arguments, command="sweep") == 2
    assert message in capsys.readouterr().err


def test_sweep__dry_run__lists_the_prices(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(store, "--beta", "0.01", "--dry-run", command="sweep") == 0
    assert "betas = [0.01]" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_sweep__out_is_a_file__refused_before_the_work(
    store: Store, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    before = store.names()
    assert fit(store, "--beta", "0.0071", "--out", str(tmp_path / "file"), *options, command="sweep") == 2
    assert "file: File exists. Something else is in its place: move it away, or name another" in capsys.readouterr().err
    assert store.names() == before


# derive


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("derive-command"))


def test_derive__as_typed__then_gate_and_the_parent_check(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECO_STORE", str(bench.store.root))
    monkeypatch.setenv("ECO_DATASETS", str(bench.dataset.root))
    derive = ["derive", "--device", "cpu", "--threads", "1", "--batch-size", "2", "--part-images", "2"]
    # A task of an array that is not the last one says nothing on stdout.
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    for key, value in (("COUNT", "2"), ("MIN", "10"), ("STEP", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", value)
    assert main(derive) == 0
    first = capsys.readouterr()
    assert first.out == ""
    assert "Shard 1 of 2 is finished" in first.err
    assert main([*derive, "--shard", "0/2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["manifest"]["rows"] == {"train": 4, "val": 6}
    assert main([*derive, "--shard", "0/1"]) == 0
    assert capsys.readouterr().out == f"{result['digest']}\n"
    assert main([*derive, "--shard", "0/1", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == result["digest"]
    quick = ["--set", "bootstrap_replicates=20", "--threads", "1"]
    assert main(["fit-gate", "--beta", "0", "--parent", bench.inputs["parent"], *quick]) == 0
    assert capsys.readouterr().out.startswith("sha256:")
    assert main(["eval", "--no-predictions", "--metrics", "pq", "--set", "execution.timed_images=0"]) == 0


@pytest.mark.parametrize("text", ["2", "1/1", "a/b", "3/2", "1/0", "-1/2"])
def test_derive__shard_that_makes_no_sense__exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert main(["derive", "--store", str(tmp_path), f"--shard={text}"]) == 2
    assert f"--shard is {text!r}, expected I/N with I from 0 to N - 1, such as 0/4." in capsys.readouterr().err


def test_read_shard__job_arrays__counts_tasks_from_zero() -> None:
    def task(**values: str) -> Shard:
        return _read_shard(None, {f"SLURM_ARRAY_TASK_{key}": value for key, value in values.items()})

    assert task() == Shard(0, 1)
    assert task(ID="3") == Shard(0, 1)
    assert task(ID="3", COUNT="8", MIN="0") == Shard(3, 8)
    assert task(ID="14", COUNT="3", MIN="10", STEP="2") == Shard(2, 3)
    for strange in (
        {"ID": "9", "COUNT": "4"},
        {"ID": "11", "COUNT": "3", "MIN": "10", "STEP": "2"},
        {"ID": "x", "COUNT": "2"},
    ):
        with pytest.raises(UsageError, match="do not describe an array of evenly spaced tasks"):
            task(**strange)
