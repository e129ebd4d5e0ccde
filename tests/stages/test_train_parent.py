"""Step A through its stage and its command, on a few generated images and the tiny model."""

import hashlib
import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import helpers_inference
import pytest
import torch
from helpers_children import ChildResult, ChildRun, run_children
from helpers_data import two_halves, write_split
from helpers_inference import tiny_dataset_config
from helpers_own_truth import make_own_truth
from helpers_stages import run_stage
from helpers_training import tiny_config, tiny_model

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.categories import SHAPES as CATEGORIES
from ecocli.data.categories import Category
from ecocli.data.datasets import open_dataset
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages import evaluate, train_parent
from ecocli.stages.train_parent import TrainPlan
from ecocli.weights.export import to_pickle

SHAPES = {"train": 12, "val": 4, "scenes": {"size": 64}}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets; the first run draws the shapes."""
    return tmp_path_factory.mktemp("data")


def settings(data_root: Path, **changes: Any) -> TrainParentConfig:
    dataset = {"root": str(data_root), "shapes": SHAPES}
    return tiny_config(**{"dataset": dataset, "batch_size": 2, "steps": 2, **changes})


def parent_of(config: TrainParentConfig, store: Store, **inputs: str) -> Artifact[ParentManifest]:
    return run_stage(train_parent, config, inputs, store, Runtime.quiet())


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact[ParentManifest]]:
    """A parent after two steps, and its store."""
    store = Store(tmp_path_factory.mktemp("store"))
    return store, parent_of(settings(data_root), store)


def test_run__shapes__artifact_says_what_it_is(trained: tuple[Store, Artifact[ParentManifest]]) -> None:
    store, parent = trained
    manifest = parent.manifest
    assert manifest.exit_depths == (1, 2, 3)
    assert manifest.steps == 2
    # The number of classes is the data's, whatever the settings said.
    assert manifest.architecture.num_classes == len(manifest.categories)
    assert [category.id for category in manifest.categories] == sorted({c.id for c in manifest.categories})
    assert list(manifest.dataset_fingerprints) == ["train"]
    assert [entry.name for entry in manifest.files] == ["loss.png", "metrics.jsonl", "model.safetensors"]
    weights = load_tensors(parent.path_of("model.safetensors"))
    head = weights["sem_seg_head.predictor.class_embed.weight"]
    assert head.shape == (len(manifest.categories) + 1, 32)
    lines = [json.loads(line) for line in parent.path_of("metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert store.names()["parent"] == parent.digest
    assert not any((store.root / "eco" / "runs").iterdir())


def test_run__evaluated_in_between__metrics_and_identity_change_and_weights_do_not(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path, tmp_path: Path
) -> None:
    config = settings(data_root, evaluation={"every": 1, "images": 3, "batch_size": 2})
    store = Store(tmp_path)
    parent, plain = parent_of(config, store), trained[1]
    assert parent.digest != plain.digest
    one, other = parent.path_of("model.safetensors"), plain.path_of("model.safetensors")
    assert one.read_bytes() == other.read_bytes()
    # Two steps and two evaluations; without the latter the metrics are the same.
    lines = parent.path_of("metrics.jsonl").read_text().splitlines()
    expected = plain.path_of("metrics.jsonl").read_text().splitlines()
    assert [line for line in lines if "evaluation" not in line] == expected
    told = [json.loads(line)["evaluation"] for line in lines if "evaluation" in line]
    assert [(one["images"], one["split"], list(one["exits"])) for one in told] == 2 * [(3, "val", ["1", "2", "3"])]
    fingerprints = parent.manifest.dataset_fingerprints
    assert fingerprints == {split: open_dataset(config.dataset, split).fingerprint for split in ("train", "val")}
    assert store.read_provenance(parent.digest)["evaluation_seconds"] > 0


def test_run__evaluated_at_the_end__what_eco_eval_finds(tmp_path: Path) -> None:
    # The truth is what the first weights say, so that every exit scores something also after a step away from them.
    data = make_own_truth(tiny_dataset_config(tmp_path, val=5), tmp_path / "own")
    path = tmp_path / "first.safetensors"
    path.write_bytes(save_tensors(helpers_inference.tiny_model().state_dict()))
    config = tiny_config(
        dataset=data.model_dump(),
        architecture=helpers_inference.TINY.model_dump(mode="json"),
        steps=1,
        init_file=str(path),
        optimizer={"lr": 1e-4},
        evaluation={"every": 1, "images": 5, "batch_size": 2},
    )
    store = Store(tmp_path / "store")
    parent = parent_of(config, store)
    lines = [json.loads(line) for line in parent.path_of("metrics.jsonl").read_text().splitlines()]
    asked = EvaluateConfig(
        dataset=data,
        batch_size=2,
        metrics=(),
        predictions=False,
        bootstrap_replicates=10,
        execution=EvaluateExecutionConfig(timed_images=0),
    )
    report = run_stage(evaluate, asked, {"parent": parent.digest}, store, Runtime.quiet())
    rows = {row.name: row.model_dump() for row in report.manifest.summary.rows}
    told = lines[-1]["evaluation"]["exits"]
    for depth in ("1", "2", "3"):
        assert told[depth] == {name: rows[f"exit {depth}"][name] for name in told["1"]}
    assert len({exit_["pq"] for exit_ in told.values()} - {0.0}) == 3
    assert set(told["1"]) == {"pq", "sq", "rq", "pq_things"}  # there is no stuff in what the first weights say


def plan(config: TrainParentConfig) -> TrainPlan:
    """Plan a training that starts from no parent."""
    return train_parent.plan(config, {}, Store("nowhere"), Runtime.quiet())


def test_plan__nothing_to_evaluate__split_not_asked_for(data_root: Path) -> None:
    for changes in ({"evaluation": {"every": 0, "split": "none"}}, {"evaluation": {"every": 1}, "steps": 0}):
        planned = plan(settings(data_root, **changes))
        assert list(planned.action.fingerprints) == ["train"]
        assert planned.data.evaluation is None


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"),
    [
        (2, 4, 6),
        (1, 5, 3),  # 12 images are 2.4 batches of 5
        (0.01, 4, 1),
        (2.2, 1, 27),  # 26.4
        (0.7, 1, 9),  # 8.4
        (1.1, 12, 2),
    ],
)
def test_plan__epochs__steps_that_take_them(data_root: Path, epochs: float, batch_size: int, steps: int) -> None:
    # Origin: worked by hand for the 12 training images.
    config = settings(data_root, epochs=epochs, batch_size=batch_size, evaluation={"every": 1}, steps=0)
    planned = plan(config)
    assert planned.config.steps == steps
    assert planned.data.evaluation is not None  # the schedule of evaluations follows the steps found
    # The same as if the steps had been said: epochs are a way to say it, no part of what is asked.
    said = settings(data_root, batch_size=batch_size, evaluation={"every": 1}, steps=steps)
    assert planned.action.digest == plan(said).action.digest
    assert planned.action.stage_config["steps"] == steps
    assert "epochs" not in planned.action.stage_config


def test_plan__epochs_that_binary_numbers_miss__not_rounded_up(tmp_path: Path) -> None:
    # 1.1 x 50 is 55.00000000000001 in binary floating point; 55 steps of one image are 1.1 epochs.
    data = {"root": str(tmp_path), "shapes": {**SHAPES, "train": 50}}
    config = tiny_config(dataset=data, epochs=1.1, batch_size=1)
    assert plan(config).config.steps == 55


def test_plan__single_exit_weighed_by_depth__asks_for_plain_mask2former(data_root: Path) -> None:
    single = {"exit_depths": [3], "exits_per_step": "all"}
    digests = {
        str(alpha): plan(settings(data_root, alpha=alpha, **single)).action.digest
        for alpha in ("depth", "uniform", [3.0])
    }
    assert digests["depth"] == digests["uniform"] != digests["[3.0]"]
    several = plan(settings(data_root, alpha="depth")).config
    assert several.alpha == "depth"


def test_run__single_exit__loss_of_weight_one(data_root: Path, tmp_path: Path) -> None:
    def first_loss(alpha: object) -> tuple[float, float]:
        config = settings(data_root, exit_depths=[3], alpha=alpha, steps=1)
        parent = parent_of(config, Store(tmp_path / str(alpha)))
        line = json.loads(parent.path_of("metrics.jsonl").read_text().splitlines()[0])
        return line["loss"], line["exits"]["3"]["loss"]

    loss, exit_loss = first_loss("depth")
    assert loss == pytest.approx(exit_loss, rel=1e-5)
    assert first_loss([3.0])[0] == pytest.approx(3 * loss, rel=1e-5)


def test_plan__evaluated_on_the_training_split__opened_once(data_root: Path) -> None:
    config = settings(data_root, evaluation={"every": 1, "split": "train"})
    planned = plan(config)
    assert list(planned.action.fingerprints) == ["train"]
    assert planned.data.evaluation is planned.data.training


def own_data(folder: Path, splits: tuple[str, ...], categories: tuple[Category, ...] = CATEGORIES) -> dict[str, Any]:
    """Settings of a data set of one's own; all splits but ``train`` have the categories given."""
    tables = []
    for split in splits:
        known = CATEGORIES if split == "train" else categories
        scenes = [two_halves(1, (1, known[0].id), (2, known[1].id))]
        write_split(scenes, known, folder / split, folder / f"{split}-ids", folder / f"{split}.json")
        tables.append(f'[splits.{split}]\nimages = "{split}"\nannotations = "{split}.json"\npanoptic = "{split}-ids"\n')
    (folder / "mine.toml").write_text('name = "mine"\n' + "".join(tables))
    return {"name": str(folder / "mine.toml")}


def test_plan__own_data_without_the_split__says_how_to_go_on(tmp_path: Path) -> None:
    config = tiny_config(dataset=own_data(tmp_path, ("train", "test")), evaluation={"every": 1})
    with pytest.raises(
        UsageError,
        match=r"has no split 'val'; it has train, test\. .*named by --set evaluation\.split=NAME\. Or train without "
        r"evaluating the exits in between: --eval-every 0\.$",
    ):
        plan(config)
    other = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"split": "test"})})
    assert list(plan(other).action.fingerprints) == ["train", "test"]
    (tmp_path / "test.json").unlink()
    with pytest.raises(DataError, match=r"annotation file was not found; tried .*test\.json\. .*--eval-every 0\.$"):
        plan(other)


def test_plan__splits_of_other_categories__refused(tmp_path: Path) -> None:
    config = tiny_config(dataset=own_data(tmp_path, ("train", "val"), CATEGORIES[:5]), evaluation={"every": 1})
    with pytest.raises(DataError, match=r"The split val has 5 categories, the split train .* has 13, .*--eval-every 0"):
        plan(config)


def test_run__same_settings_executed_otherwise__reused(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = trained
    config = settings(data_root, execution={"accumulation": 2, "checkpoint_every": 1})
    assert parent_of(config, store).digest == parent.digest


def test_run__same_settings_elsewhere__same_digest(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path, tmp_path: Path
) -> None:
    assert parent_of(settings(data_root), Store(tmp_path)).digest == trained[1].digest


def test_run__other_seed__other_parent(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path, tmp_path: Path
) -> None:
    other = parent_of(settings(data_root, seed=1, steps=0), Store(tmp_path))
    first = load_tensors(trained[1].path_of("model.safetensors"))
    second = load_tensors(other.path_of("model.safetensors"))
    name = "sem_seg_head.predictor.query_feat.weight"
    assert not torch.allclose(first[name], second[name], atol=0.1)


def test_run__init__starts_from_its_weights(trained: tuple[Store, Artifact[ParentManifest]], data_root: Path) -> None:
    store, parent = trained
    started = parent_of(settings(data_root, steps=0), store, init=parent.digest)
    assert started.manifest.inputs == {"init": parent.digest}
    first = load_tensors(parent.path_of("model.safetensors"))
    second = load_tensors(started.path_of("model.safetensors"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_run__init_of_other_architecture__refused(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = trained
    config = settings(data_root, steps=0, architecture={"transformer_decoder": {"num_queries": 7}})
    with pytest.raises(ArtifactError, match=r"query_embed\.weight has shape \[6, 32\], expected \[7, 32\]"):
        parent_of(config, store, init=parent.digest)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A Mask2Former of the tiny architecture under the original's names, with random weights."""
    path = tmp_path / "model_final.pkl"
    path.write_bytes(to_pickle(dict(tiny_model(5).state_dict())))
    return path


def test_run__init_file__starts_from_it_wherever_it_lies(published: Path, data_root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    started = parent_of(settings(data_root, steps=0, init_file=str(published)), store)
    digest = f"sha256:{hashlib.sha256(published.read_bytes()).hexdigest()}"
    assert started.manifest.stage_config["init_digest"] == digest
    assert "init_file" not in started.manifest.stage_config
    weights, expected = load_tensors(started.path_of("model.safetensors")), tiny_model(5).state_dict()
    # The head of 3 classes does not fit the 13 of the shapes; everything else is the file's.
    other = {name for name in expected if not torch.equal(weights[name], expected[name])}
    assert other == {f"sem_seg_head.predictor.class_embed.{part}" for part in ("weight", "bias")}
    moved = published.rename(tmp_path / "moved.pkl")
    assert parent_of(settings(data_root, steps=0, init_file=str(moved)), store).digest == started.digest
    moved.write_bytes(to_pickle(dict(tiny_model(6).state_dict())))
    assert parent_of(settings(data_root, steps=0, init_file=str(moved)), store).digest != started.digest


def test_run__init_file_of_a_backbone__fills_the_backbone(data_root: Path, tmp_path: Path) -> None:
    backbone = tiny_model(5).backbone.state_dict()
    path = tmp_path / "backbone.pth"
    torch.save({"state_dict": backbone}, path)
    started = parent_of(settings(data_root, steps=0, init_file=str(path)), Store(tmp_path / "store"))
    weights = load_tensors(started.path_of("model.safetensors"))
    assert all(torch.equal(weights[f"backbone.{name}"], tensor) for name, tensor in backbone.items())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", r"model_final\.pkl does not exist"),
        ("truncated", r"model_final\.pkl is no complete pickle"),
        (
            "other model",
            r"is of another model: .*res2\.0\.conv1\.weight \[8, 8, 1, 1\], expected \[16, 8, 1, 1\]",
        ),
        ("unknown", r"model_final\.pkl is no checkpoint that is known here"),
    ],
)
def test_run__bad_init_file__nothing_stored(
    kind: str, message: str, published: Path, data_root: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {}
    if kind == "absent":
        published.unlink()
    elif kind == "truncated":
        published.write_bytes(published.read_bytes()[:-1000])
    elif kind == "other model":
        changes = {"architecture": {"backbone": {"bottleneck_channels": 16}}}
    else:
        published.write_bytes(to_pickle({"layer.weight": torch.ones(2)}))
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match=message):
        parent_of(settings(data_root, steps=0, init_file=str(published), **changes), store)
    assert store.digests() == []
    assert store.names() == {}


def test_run__two_starts__refused(published: Path, data_root: Path, tmp_path: Path) -> None:
    config = settings(data_root, steps=0, init_file=str(published))
    with pytest.raises(UsageError, match=r"both from the file .*model_final\.pkl and from the parent sha256:00"):
        parent_of(config, Store(tmp_path / "store"), init="sha256:00")


# The runs below are told by files of settings, as a user's would be.


def command(folder: Path, store: str, *more: str) -> list[str]:
    return [
        "train-parent",
        "--config",
        str(folder / "tiny.toml"),
        "--store",
        str(folder / store),
        "--device",
        "cpu",
        *more,
    ]


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, list[ChildResult]]:
    """One undisturbed run, one killed five times, one stopped twice by SIGTERM; a command per process.

    The deepest exit is trained alone for three steps, then all. The exits are evaluated after steps 3 and 6, each time
    in two batches.
    """
    folder = tmp_path_factory.mktemp("runs")
    evaluation = {"every": 3, "images": 3, "batch_size": 2}
    exits = {"deepest_first": 0.5, "loss": {"matching": "deepest"}}
    config = settings(data_root, steps=6, evaluation=evaluation, **exits).model_dump(mode="json")
    lines = []
    write_toml(lines, "", {**config, "execution": {"checkpoint_every": 2}})
    (folder / "tiny.toml").write_text("\n".join(lines).replace("num_classes = 3", "num_classes = 13"))
    root = ("--data-root", str(data_root))
    # Two moments at random, new in every test run: the property holds at all of them.
    chance = random.SystemRandom()
    kills = [f"step {chance.randrange(0, 3)}", "save 1", f"step {chance.randrange(0, 2)}", "save 3"]
    kills.append(f"evaluate {chance.randrange(0, 2)}")
    runs = [
        ChildRun(command(folder, "calm", *root)),
        *(ChildRun(command(folder, "killed", *root), signal.SIGKILL, at) for at in kills),
        ChildRun(command(folder, "killed", *root)),
        ChildRun(command(folder, "stopped", *root, "--workers", "1"), signal.SIGTERM, "step 1"),
        ChildRun(command(folder, "stopped", *root, "--workers", "1"), signal.SIGTERM, "evaluate 1"),
        ChildRun(command(folder, "stopped", *root)),
        ChildRun(command(folder, "stopped", *root)),
    ]
    return folder, run_children(folder, runs)


def write_toml(lines: list[str], prefix: str, section: dict[str, Any]) -> None:
    """Write settings as dotted TOML keys."""
    for key, value in section.items():
        if isinstance(value, dict):
            write_toml(lines, f"{prefix}{key}.", value)
        elif value is not None:
            lines.append(f"{prefix}{key} = {json.dumps(value)}")


def test_run__killed_five_times__same_digest_as_undisturbed(disturbed: tuple[Path, list[ChildResult]]) -> None:
    folder, results = disturbed
    assert [result.statuses for result in results[:7]] == [[0], *5 * [[-9]], [0]], results
    assert results[6].out == results[0].out
    calm, killed = Store(folder / "calm"), Store(folder / "killed")
    digest = results[0].out.strip()
    weights = [load_tensors(store.get(digest, ParentManifest).path_of("model.safetensors")) for store in (calm, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any((folder / "killed" / "eco" / "runs").iterdir())


def test_run__sigterm__exits_5_and_same_command_completes(disturbed: tuple[Path, list[ChildResult]]) -> None:
    folder, results = disturbed
    stopped, evaluating, resumed, again = results[7:]
    assert stopped.statuses == [5]
    assert stopped.out == ""
    assert "error: SIGTERM stopped the training after step 2 of 6. The state is saved in" in stopped.err
    assert "the same command resumes there." in stopped.err
    # A signal stops the evaluation after step 3 between its batches; the next run makes up for it.
    assert evaluating.statuses == [5]
    assert "error: SIGTERM stopped the evaluation after step 3 of 6. The state is saved in" in evaluating.err
    assert "PQ on" not in evaluating.err
    assert resumed.statuses == [0]
    assert re.findall(r"step (\d): PQ on 3 images at exits 1 2 3: ", resumed.err) == ["3", "6"]
    # One line of stdout: the digest, the same as without the interruption.
    assert resumed.out == results[0].out
    assert "training 6/6 step" in resumed.err
    provenance = folder / "stopped" / "eco" / "provenance" / f"{resumed.out.strip().removeprefix('sha256:')}.json"
    assert json.loads(provenance.read_text())["resumed_at_step"] == 3
    assert again.statuses == [0]
    assert again.out == resumed.out
    assert "training" not in again.err
