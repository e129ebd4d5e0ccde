"""Every recipe under ``pipelines/``: its settings are read by the command they are for, its scripts use what exists."""

import importlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from helpers_store import parent_manifest

from ecocli.app import COMMANDS, CommandEntry, build_app
from ecocli.artifacts.store import Store
from ecocli.commands.common import print_dry_run
from ecocli.config.base import Config
from ecocli.config.loading import resolve_config
from ecocli.config.recipes import train_parent_preset
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.categories import CITYSCAPES, COCO, SHAPES
from ecocli.errors import UsageError
from ecocli.runtime.distributed import World

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
SETTINGS = sorted(PIPELINES.rglob("*.toml"))
SCRIPTS = sorted(path for path in PIPELINES.rglob("*") if path.suffix in (".sh", ".sbatch"))
BACKBONES = ("r50", "swin-t", "swin-s", "swin-b-384", "swin-l-384")
LITE = tuple(f"lite-m2f-{backbone}" for backbone in ("r50", "swin-t", "swin-s", "swin-b"))
MODELS = (*BACKBONES, *LITE, "rt-m2f-r50", "rt-m2f-swin-t")
PUBLISHED = tuple(f"{dataset}-{model}" for dataset in ("coco", "cityscapes") for model in MODELS)
CATEGORIES = {"coco": COCO, "cityscapes": CITYSCAPES, "shapes": SHAPES}


def named(path: Path) -> str:
    return str(path.relative_to(PIPELINES))


def command_of(path: Path) -> CommandEntry:
    """The command a TOML file is for: its name, perhaps with an addition as in ``fit-gate-small.toml``."""
    fitting = [entry for entry in COMMANDS if path.stem == entry.name or path.stem.startswith(f"{entry.name}-")]
    assert fitting, f"{named(path)} is named after no command"
    return fitting[0]


class SettingsReachedError(Exception):
    """Carries the settings out of a command, before it goes to work."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config


def settings_of(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the command makes of the file, by its own code; it is stopped as soon as the settings are there."""
    entry = command_of(path)
    if importlib.util.find_spec(f"ecocli.commands.{entry.module}") is None:
        pytest.skip(f"there is no command {entry.name}")
    module = importlib.import_module(f"ecocli.commands.{entry.module}")
    resolve = module.resolve

    def resolve_and_stop(*arguments: Any, **options: Any) -> Config:
        raise SettingsReachedError(resolve(*arguments, **options))

    # Only the data set's settings look into an input, the parent; the others just need to be there.
    digest = "sha256:" + 64 * "0"
    if hasattr(module, "parent_dataset_preset"):
        digest = put_parent(recipe_of(path), tmp_path, monkeypatch)
    if hasattr(module, "resolve_input"):
        monkeypatch.setattr(module, "resolve_input", lambda *_: digest)
    monkeypatch.setattr(module, "resolve", resolve_and_stop)
    arguments = [entry.name, "--config", str(path), "--store", str(tmp_path / "store")]
    if entry.name == "fit-gate" and "beta" not in tomllib.loads(path.read_text()):
        arguments += ["--beta", "0"]  # a script that goes through several prices gives them itself
    with pytest.raises(SettingsReachedError) as stopped:
        typer.main.get_command(build_app(arguments)).main(arguments, standalone_mode=False)
    monkeypatch.setattr(module, "resolve", resolve)
    return stopped.value.config


def recipe_of(path: Path) -> Path:
    """Settings of Step A that go with a file: beside it, or one of those that share a data set's files."""
    beside, sharing = path.parent / "train-parent.toml", path.parents[1] / f"{path.parent.name}-r50/train-parent.toml"
    return sharing if sharing.exists() else beside


def put_parent(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Store a parent without weights that was trained by the recipe, else by the built-in one."""
    if recipe.exists():
        config = settings_of(recipe, tmp_path, monkeypatch)
    else:
        config = resolve_config(TrainParentConfig, train_parent_preset({}))
    manifest = parent_manifest(
        config.architecture,
        config.exit_depths,
        tuple(category.recorded for category in CATEGORIES[config.dataset.name]),
        dataset=config.dataset,
    )
    return Store(tmp_path / "store").put(manifest, {"model.safetensors": b""}).digest


def test_pipelines__content__recipes_and_no_python() -> None:
    found = {named(path) for path in (*SETTINGS, *SCRIPTS)}
    assert {f"{recipe}/{name}" for recipe in PUBLISHED for name in ("train-parent.toml", "run.sh")} <= found
    assert {f"{d}/{s}.toml" for d in ("coco", "cityscapes") for s in ("derive", "fit-gate", "eval")} <= found
    assert not list(PIPELINES.rglob("*.py"))


def leaves_of(config: Config, prefix: str = "") -> dict[str, object]:
    """Every value of the settings by its dotted key, also of those that no digest covers."""
    found: dict[str, object] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        found |= leaves_of(value, f"{prefix}{name}.") if isinstance(value, Config) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("path", SETTINGS, ids=named)
def test_settings__every_file__accepted_by_its_command_and_shown_by_dry_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings_of(path, tmp_path, monkeypatch)
    print_dry_run(World(), "any", config, {})
    shown = {line.strip().partition(" = ")[0] for line in capsys.readouterr().out.splitlines() if " = " in line}
    assert shown == {key for key, value in leaves_of(config).items() if value is not None}


def test_settings__wrong_section__refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-parent.toml"
    path.write_text((PIPELINES / "coco-r50" / path.name).read_text() + "[optimiser]\nlr = 1e-4\n")
    with pytest.raises(UsageError, match=r"unknown key 'optimiser'; did you mean 'optimizer'\?"):
        settings_of(path, tmp_path, monkeypatch)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_settings__published_recipe__what_the_flags_alone_give(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `eco train-parent --dataset coco --arch m2f-swin-t` and the file ask for the same, so they share results.
    dataset, _, model = recipe.partition("-")
    arch = f"m2f-{model}" if model in BACKBONES else model
    said = {"dataset": {"name": dataset}, "architecture": {"name": arch}}
    typed = resolve_config(TrainParentConfig, train_parent_preset(said), said)
    found = settings_of(PIPELINES / recipe / "train-parent.toml", tmp_path, monkeypatch)
    assert found.model_dump(mode="json") == typed.model_dump(mode="json")
    # Origin: Mask2Former's COCO configurations have 50 epochs of 118,287 images, that of Swin-L 100, with 200 queries;
    # all its Cityscapes configurations have 90,000 iterations.
    large = model == "swin-l-384"
    assert found.architecture.transformer_decoder.num_queries == (200 if large else 100)
    assert found.steps == (90_000 if dataset == "cityscapes" else 737_500 if large else 368_750)


@pytest.mark.parametrize("dataset", ["coco", "cityscapes"])
def test_settings__shared_by_a_data_set__published_test_sizes(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = settings_of(PIPELINES / dataset / "derive.toml", tmp_path, monkeypatch)
    assert derived.dataset == settings_of(PIPELINES / dataset / "eval.toml", tmp_path, monkeypatch).dataset
    # Origin: Mask2Former's test sizes.
    edges = derived.dataset.test_resize
    assert (edges.short_edge_px, edges.long_edge_px) == {"coco": (800, 1333), "cityscapes": (1024, 2048)}[dataset]


@pytest.mark.parametrize(("dataset", "beta"), [("coco", 0.0005), ("cityscapes", 0.003)])
def test_settings__gates__the_papers_beta(
    dataset: str, beta: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = settings_of(PIPELINES / dataset / "fit-gate.toml", tmp_path, monkeypatch)
    # The deepest exit on offer is the parent's: 6, and 5 for Lite-M2F.
    assert (gate.beta, gate.deepest_exit, gate.cost, gate.loss) == (beta, None, "depth", "hard-ce")


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_script__every_one__is_sound_bash(path: Path) -> None:
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert os.access(path, os.X_OK)
    assert path.name != "run.sh" or len(path.read_text().splitlines()) <= 30
    checks = [["bash", "-n"]] + ([["shellcheck"]] if shutil.which("shellcheck") else [])
    for check in checks:
        done = subprocess.run([*check, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


_CALL = re.compile(
    r'(?:\beco|-m ecocli|"\$\{many\[@\]\}"|/(?=[a-z-]+\.sbatch")) ?([a-z-]+)(?:\.sbatch")?(?= )([^|;)]*)'
)


def calls_in(script: str) -> list[tuple[str, list[str]]]:
    """Every command a script calls, with the options it gives."""
    code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", "")
    found = (match.groups() for line in code.splitlines() for match in _CALL.finditer(line))
    return [(name, re.findall(r"(?<![\w-])--[A-Za-z-]+", rest)) for name, rest in found]


@cache
def options_of(name: str) -> set[str]:
    group: Any = typer.main.get_command(build_app([name]))
    return {option for parameter in group.commands[name].params for option in parameter.opts}


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*/run.sh")), ids=named)
def test_script__run_of_a_published_recipe__names_its_own_folder(path: Path) -> None:
    recipe, text = path.parent.name, path.read_text()
    if recipe in PUBLISHED:
        assert f"pipelines/{recipe}/run.sh" in text
        assert f'recipe.sh" {recipe} "$@"' in text


def test_script__shared_recipe_and_slurm__read_files_that_exist(tmp_path: Path) -> None:
    stand_in = '#!/usr/bin/env bash\necho "$*" >>"$LOG"\necho 7\n'
    for name in ("eco", "sbatch"):
        (tmp_path / name).write_text(stand_in)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "GPUS": "1"}
    for recipe in PUBLISHED:
        for script in ([PIPELINES / recipe / "run.sh"], [PIPELINES / "slurm/submit.sh", PIPELINES / recipe]):
            subprocess.run(["bash", *map(str, script)], env=environment, check=True, capture_output=True)
    used = re.findall(r"--config (\S+)", (tmp_path / "log").read_text())
    assert len(used) == (4 + 3) * len(PUBLISHED)
    assert [path for path in used if not Path(path).is_file()] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_script__every_call__command_and_options_exist(path: Path) -> None:
    entries = {entry.name: entry for entry in COMMANDS}
    for name, options in calls_in(path.read_text()):
        assert name in entries, f"{named(path)} calls eco {name}"
        present = importlib.util.find_spec(f"ecocli.commands.{entries[name].module}") is not None
        if present and entries[name].attribute != "app":
            assert set(options) <= options_of(name), f"{named(path)}: eco {name}"


def test_calls_in__the_shared_recipe__finds_every_step() -> None:
    found = calls_in((PIPELINES / "recipe.sh").read_text())
    assert [name for name, _ in found] == ["data", "train-parent", "derive", "fit-gate", "eval", "report"]
    assert found[1][1] == ["--config", "--name"]
    submitted = calls_in((PIPELINES / "slurm" / "submit.sh").read_text())
    assert [name for name, _ in submitted] == ["train-parent", "derive", "fit-gate"]


# Slurm itself is not needed: what the wrappers call is written to a log by stand-ins on the PATH.

_STAND_INS = {
    "srun": 'echo $$ >"$LOG.pid"; echo "srun $*" >>"$LOG"\n'
    'trap "kill \\$!; exit 1" TERM\nif [ -n "$RUNS_S" ]; then sleep "$RUNS_S" & wait $!; fi\nexit "$STATUS"',
    "scancel": 'echo "scancel $*" >>"$LOG"; kill -TERM "$(cat "$LOG.pid")"',
    "scontrol": 'if [ "$1" = show ]; then echo node-1; else echo "scontrol $*" >>"$LOG"; fi',
}


def start_job(script: str, tmp_path: Path, *, status: int = 0, runs_s: str = "") -> subprocess.Popen[bytes]:
    for name, body in _STAND_INS.items():
        stand_in = tmp_path / name
        stand_in.write_text(f"#!/usr/bin/env bash\n{body}\n")
        stand_in.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "STATUS": str(status),
        "RUNS_S": runs_s,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    return subprocess.Popen(["bash", str(PIPELINES / "slurm" / script), "--config", "a.toml"], env=environment)


@pytest.mark.parametrize(
    ("script", "status", "requeued"),
    [
        ("train-parent.sbatch", 0, False),
        ("train-parent.sbatch", 3, False),
        ("derive.sbatch", 0, False),
        ("derive.sbatch", 3, False),
        ("derive.sbatch", 5, True),
        ("fit-gate.sbatch", 4, False),
    ],
)
def test_slurm__step_ends__job_ends_alike(script: str, status: int, requeued: bool, tmp_path: Path) -> None:
    assert start_job(script, tmp_path, status=status).wait(timeout=60) == status
    log = (tmp_path / "log").read_text().splitlines()
    command = script.removesuffix(".sbatch")
    assert log[0].endswith(f"{command} --config a.toml")
    assert log[1:] == (["scontrol requeue 7"] if requeued else [])


def test_slurm__time_is_nearly_up__training_stops_and_is_requeued(tmp_path: Path) -> None:
    job = start_job("train-parent.sbatch", tmp_path, runs_s="60")
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "log").exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 1
    log = (tmp_path / "log").read_text().splitlines()
    assert "--rdzv-endpoint node-1:29400" in log[0]
    assert log[1:] == ["scancel --signal=TERM 7", "scontrol requeue 7"]
