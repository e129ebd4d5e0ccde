"""Every stage once, small enough to be run a thousand times: what ``interrupted_runs.py`` kills and damages."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from helpers_evaluation import make_bench
from helpers_stages import run_stage
from helpers_training import tiny_config
from helpers_weights import RESNET, SWIN, random_model

from ecocli.artifacts.store import Store
from ecocli.artifacts.transfer import pull, push
from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.base import Config
from ecocli.config.compare import CompareConfig
from ecocli.config.derive import DeriveConfig, DeriveExecutionConfig
from ecocli.config.export_weights import ExportWeightsConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.config.predict import PredictConfig
from ecocli.config.profile_model import ProfileModelConfig
from ecocli.config.report import ReportConfig
from ecocli.config.sweep import SweepConfig
from ecocli.data.categories import SHAPES
from ecocli.runtime.context import Runtime
from ecocli.stages import (
    compare,
    derive,
    evaluate,
    export_weights,
    fit_gate,
    import_weights,
    predict,
    profile_model,
    report,
    sweep,
    train_parent,
)
from ecocli.weights.export import to_pickle, write_original

Run = Callable[[Store, Path, bool], str]
"""From a store, a folder for results and ``force`` to what identifies the result."""


@dataclass(frozen=True)
class Case:
    """One stage with settings.

    Attributes:
        name: Of the stage.
        run: Runs it.
        store: The store that every trial starts from a copy of.
        folder: The folder inside a store that keeps what an interrupted run leaves; None where nothing is kept.
    """

    name: str
    run: Run
    store: Path
    folder: Callable[[Store], Path] | None = None


def make_cases(work: Path) -> list[Case]:
    """Draw the data, make the inputs, and describe every stage."""
    bench = make_bench(work)
    source, parent, gate = bench.store, {"parent": bench.inputs["parent"]}, bench.inputs["gate"]
    derived = {"derived": source.names()["derived"]}
    evaluation = {"evaluation": run_stage(evaluate, bench.config(metrics=()), bench.inputs, source).digest}
    imported, other = (_checkpoint(work / f"{architecture.name}.pkl", architecture) for architecture in (RESNET, SWIN))
    exported = {"parent": run_stage(import_weights, other, {}, source).digest}
    # Every stage makes its artifact anew, from a store that has its inputs alone.
    shutil.rmtree(source.layout.actions)
    training = tiny_config(
        dataset={
            "name": bench.dataset.name,
            "augmentation": {"crop_height_px": 64, "crop_width_px": 64},
            "test_resize": bench.dataset.test_resize.model_dump(),
        },
        batch_size=2,
        steps=2,
        log_every=1,
        evaluation={"every": 2, "images": 1, "split": "val"},
        execution={"checkpoint_every": 1, "workers": 0},
    )
    fitting = {"train_split": "val", "score_split": "none", "recipe": "paper", "bootstrap_replicates": 10, "folds": 2}
    parts = DeriveExecutionConfig(part_images=2)
    pictures = sorted(str(path) for path in (work / "cut" / "val").glob("*"))[:2]

    def made(stage: ModuleType, config: Config, inputs: dict[str, str]) -> Case:
        def run(store: Store, _out: Path, force: bool) -> str:
            return str(run_stage(stage, config, inputs, store, Runtime.quiet(), force=force).digest)

        def folder(store: Store) -> Path:
            return store.run_dir(stage.plan(config, inputs, store, Runtime.quiet()).action.digest)

        return Case(stage.STAGE, run, source.root, folder)

    def written(name: str, write: Callable[[Store, Path], object]) -> Case:
        def run(store: Store, out: Path, _force: bool) -> str:
            write(store, out)
            return digest_of_folder(out)

        return Case(name, run, source.root)

    def predict_all(store: Store, out: Path) -> None:
        settings = PredictConfig(images=tuple(pictures), out=str(out / "predictions"), semantic=True, instances=True)
        predict.run(settings, {**parent, "gate": gate}, store, Runtime.quiet()).check()

    def make_report(store: Store, out: Path) -> None:
        settings = ReportConfig(out=str(out / "report"), examples=0, data_root=bench.dataset.root)
        report.run(settings, evaluation, store, Runtime.quiet())

    def make_comparison(store: Store, out: Path) -> None:
        contestant = compare.Contestant("one", parent["parent"], ())
        compare.run(CompareConfig(out=str(out / "compared")), [contestant], store)

    def export(store: Store, out: Path) -> None:
        settings = ExportWeightsConfig(out=str(out / "exported"), format="hf", replace=True)
        export_weights.run(settings, exported, store, Runtime.quiet())

    def move(store: Store, out: Path) -> None:
        push(store, gate, out / "layout", name="moved")
        pull(Store(out / "other"), out / "layout", "moved")

    return [
        made(derive, DeriveConfig(dataset=bench.dataset, splits=("val",), batch_size=1, execution=parts), parent),
        made(evaluate, bench.config(), bench.inputs),
        made(train_parent, training, {}),
        made(fit_gate, FitGateConfig(beta=0.01, **fitting), derived),
        made(sweep, SweepConfig(betas=(0.0, 0.1), **fitting), derived),
        made(profile_model, ProfileModelConfig(sizes=((64, 64),)), parent),
        made(import_weights, imported, {}),
        written("predict", predict_all),
        written("report", make_report),
        written("compare", make_comparison),
        written("export", export),
        written("push, pull", move),
    ]


def _checkpoint(path: Path, architecture: ArchitectureConfig) -> ImportWeightsConfig:
    """Write a model in the original's format, and give the settings that import it."""
    architecture = architecture.model_copy(update={"num_classes": len(SHAPES)})
    path.write_bytes(to_pickle(write_original(architecture, random_model(architecture).state_dict())))
    return ImportWeightsConfig(source=str(path), categories="shapes")


def digest_of_folder(folder: Path) -> str:
    """Identify names and contents of what a command wrote, but for the times and scratch files of a store."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not {"provenance", "tmp", "locks"} & set(path.relative_to(folder).parts):
            found.update(f"{path.relative_to(folder)}:{hashlib.sha256(path.read_bytes()).hexdigest()};".encode())
    return found.hexdigest()
