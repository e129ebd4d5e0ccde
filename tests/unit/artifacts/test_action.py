"""Actions: the digest of a request, and computing the same only once."""

import hashlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import pytest
from helpers_store import flip_bit, gate_manifest, overwrite, put_gate

from ecocli.artifacts.action import Action, Made, Plan, execute
from ecocli.artifacts.listing import list_artifacts
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.provenance import Provenance
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.distributed import World

T = TypeVar("T")
PARENT = "sha256:" + "f" * 64


class _FitConfig(Config):
    beta: float = 0.1
    exits: tuple[int, ...] = (2, 3)


class _BetaConfig(Config):
    beta: float = 0.1


ACTION = Action("fit-gate", 1, _BetaConfig())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


NOTES = Provenance.model_validate({"seconds": 2.5})


class _Work:
    """Counts how often it runs."""

    def __init__(self, content: bytes = b"weights") -> None:
        self.runs = 0
        self.content = content

    def __call__(self, run_dir: Path) -> Made[GateManifest]:
        self.runs += 1
        (run_dir / "gate.safetensors").write_bytes(self.content)
        return Made(gate_manifest(), {"gate.safetensors": run_dir / "gate.safetensors"}, NOTES)


def _never(run_dir: Path) -> Made[GateManifest]:
    raise AssertionError("the action was computed again")


def test_digest__literal_request__is_pinned() -> None:
    action = Action("fit-gate", 2, _FitConfig(beta=0.5), {"derived": PARENT}, {"validation": "abc"})
    # The JSON is written by hand after DESIGN: stage, schema version, resolved configuration, inputs, fingerprints.
    request = (
        '{"config":{"beta":0.5,"exits":[2,3]},"dataset_fingerprints":{"validation":"abc"},'
        f'"inputs":{{"derived":"{PARENT}"}},"schema_version":2,"stage":"fit-gate"}}'
    )
    assert action.digest == "sha256:" + hashlib.sha256(request.encode()).hexdigest()
    assert action.digest == "sha256:b0117a41c285f394c2dbf25122a0edc954c2904f31242fc041e5d36663383fd6"


def test_digest__equal_requests__have_one_digest() -> None:
    # An int is a float for the configuration, so 1 and 1.0 ask for the same.
    assert Action("s", 1, _FitConfig(beta=1)).digest == Action("s", 1, _FitConfig(beta=1.0)).digest


@pytest.mark.parametrize(
    "other",
    [
        Action("derive", 1, _FitConfig()),
        Action("fit-gate", 2, _FitConfig()),
        Action("fit-gate", 1, _FitConfig(beta=0.2)),
        Action("fit-gate", 1, _FitConfig(), {"derived": PARENT}),
        Action("fit-gate", 1, _FitConfig(), {}, {"train": "abc"}),
    ],
)
def test_digest__any_part_differs__is_another(other: Action) -> None:
    assert other.digest != Action("fit-gate", 1, _FitConfig()).digest


def test_execute__twice__computes_once_and_names_both_times(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    work = _Work()
    first = execute(Plan(ACTION, GateManifest, work), store, Runtime.quiet(), names=["mine"])
    assert store.names() == {"gate": first.digest, "mine": first.digest}
    recorded = store.read_provenance(first.digest).known()
    assert [recorded[key] for key in ("device", "world_size", "threads", "seconds")] == ["cpu", 1, 1, 2.5]
    store.name_files.path("gate").unlink()
    with caplog.at_level(logging.INFO):
        again = execute(Plan(ACTION, GateManifest, _never), store, Runtime.quiet(), names=["other"])
    assert again == first
    assert work.runs == 1
    assert store.names() == dict.fromkeys(["gate", "mine", "other"], first.digest)
    assert f"Reusing the gate {first.digest}." in caplog.text


def test_execute__force__computes_again(store: Store) -> None:
    first = execute(Plan(ACTION, GateManifest, _Work(b"one")), store, Runtime.quiet())
    second = execute(Plan(ACTION, GateManifest, _Work(b"two")), store, Runtime.quiet(), force=True)
    assert first.digest != second.digest
    assert store.find_action(ACTION.digest) == store.names()["gate"] == second.digest


@pytest.mark.parametrize("damaged", [b"weightX", b"wei"])
def test_execute__damaged_artifact__is_refused_and_repaired_by_force(store: Store, damaged: bytes) -> None:
    first = execute(Plan(ACTION, GateManifest, _Work()), store, Runtime.quiet())
    overwrite(first.path_of("gate.safetensors"), damaged)
    with pytest.raises(ArtifactError, match=r"file gate\.safetensors .*--force"):
        execute(Plan(ACTION, GateManifest, _Work()), store, Runtime.quiet())
    assert execute(Plan(ACTION, GateManifest, _Work()), store, Runtime.quiet(), force=True) == first
    assert execute(Plan(ACTION, GateManifest, _never), store, Runtime.quiet()) == first


def test_execute__damaged_manifest__is_refused(store: Store) -> None:
    first = execute(Plan(ACTION, GateManifest, _Work()), store, Runtime.quiet())
    flip_bit(store.blobs.path(first.digest))
    with pytest.raises(ArtifactError, match=f"Damaged blob of artifact {first.digest}"):
        execute(Plan(ACTION, GateManifest, _never), store, Runtime.quiet())


def test_execute__missing_blob__computes_again(store: Store) -> None:
    first = execute(Plan(ACTION, GateManifest, _Work()), store, Runtime.quiet())
    first.path_of("gate.safetensors").unlink()
    work = _Work()
    assert execute(Plan(ACTION, GateManifest, work), store, Runtime.quiet()) == first
    assert work.runs == 1


def test_execute__killed_work__finds_its_checkpoint_again(store: Store) -> None:
    def dies(run_dir: Path) -> Made[GateManifest]:
        (run_dir / "checkpoint").write_bytes(b"step 5")
        raise KeyboardInterrupt

    def resumes(run_dir: Path) -> Made[GateManifest]:
        return Made(gate_manifest(), {"state": (run_dir / "checkpoint").read_bytes()})

    with pytest.raises(KeyboardInterrupt):
        execute(Plan(ACTION, GateManifest, dies), store, Runtime.quiet())
    assert store.names() == {}
    artifact = execute(Plan(ACTION, GateManifest, resumes), store, Runtime.quiet())
    assert artifact.path_of("state").read_bytes() == b"step 5"


def test_execute__impossible_name__is_refused_before_work(store: Store) -> None:
    with pytest.raises(UsageError, match="'x/y' cannot be a name"):
        execute(Plan(ACTION, GateManifest, _never), store, Runtime.quiet(), names=["x/y"])


@pytest.mark.parametrize(
    "action, field",
    [
        (Action("fit-gate", 2, _BetaConfig()), "schema_version"),
        (Action("fit-gate", 1, _BetaConfig(beta=0.2)), "stage_config"),
        (Action("fit-gate", 1, _BetaConfig(), {"derived": PARENT}), "inputs"),
        (Action("fit-gate", 1, _BetaConfig(), {}, {"train": "x"}), "dataset_fingerprints"),
    ],
)
def test_execute__manifest_of_another_request__is_a_bug(store: Store, action: Action, field: str) -> None:
    with pytest.raises(ValueError, match=f"The manifest's {field} is .*, the action's is"):
        execute(Plan(action, GateManifest, _Work()), store, Runtime.quiet())
    assert list_artifacts(store) == ()


def test_execute__other_process_finishes_first__uses_its_result(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def overtaken(run_dir: Path) -> Made[GateManifest]:
        # What a second process does where locks do not hold: it puts the artifact and clears the run folder.
        made = _Work()(run_dir)
        store.put(made.manifest, made.files, action=ACTION.digest)
        return made

    artifact = execute(Plan(ACTION, GateManifest, overtaken), store, Runtime.quiet())
    assert store.get(artifact.digest, GateManifest) == artifact
    assert "Another process finished the same action first; using its result." in caplog.text


def test_execute__work_fails_on_its_data__is_passed_on(store: Store) -> None:
    def fails(run_dir: Path) -> Made[GateManifest]:
        raise DataError("image 7 is truncated")

    with pytest.raises(DataError, match="image 7 is truncated"):
        execute(Plan(ACTION, GateManifest, fails), store, Runtime.quiet())


@dataclass(frozen=True)
class _Rank(World):
    """One of two processes; what the main one broadcasts is written down for the other."""

    broadcasts: list[object] = field(default_factory=list)

    def broadcast_object(self, obj: T) -> T:
        if self.is_main:
            self.broadcasts.append(obj)
            return obj
        return cast("T", self.broadcasts.pop(0))


def ranked(world: World) -> Runtime:
    return replace(Runtime.quiet(), world=world)


def test_execute__several_processes__all_work_and_the_main_one_writes(store: Store) -> None:
    broadcasts: list[object] = []
    main, other = _Work(), _Work(b"not written")
    artifact = execute(Plan(ACTION, GateManifest, main), store, ranked(_Rank(0, 2, 0, broadcasts)))
    assert broadcasts == [None, None, artifact.digest]
    assert execute(Plan(ACTION, GateManifest, other), store, ranked(_Rank(1, 2, 1, broadcasts))) == artifact
    assert (main.runs, other.runs) == (1, 1)
    assert broadcasts == []


def test_execute__several_processes__reuse_needs_no_work(store: Store) -> None:
    artifact = execute(Plan(ACTION, GateManifest, _Work()), store, Runtime.quiet())
    broadcasts: list[object] = []
    assert execute(Plan(ACTION, GateManifest, _never), store, ranked(_Rank(0, 2, 0, broadcasts))) == artifact
    assert execute(Plan(ACTION, GateManifest, _never), store, ranked(_Rank(1, 2, 1, broadcasts))) == artifact


def test_execute__main_process_sends_nothing__is_a_bug(store: Store) -> None:
    with pytest.raises(RuntimeError, match="The main process of the run sent no digest"):
        execute(Plan(ACTION, GateManifest, _Work()), store, ranked(_Rank(1, 2, 1, [None, None, None])))


def test_execute__entry_of_another_request__warns_and_computes_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    made = put_gate(store, 0.3)
    action = Action("fit-gate", 1, _BetaConfig(beta=0.1))
    store.actions.write(action.digest, made.digest)

    def work(folder: Path) -> Made[GateManifest]:
        return Made(gate_manifest(0.1))

    artifact = execute(Plan(action, GateManifest, work), store, Runtime.quiet())
    assert artifact.manifest.stage_config == {"beta": 0.1}
    assert "belongs to another request" in caplog.text
    assert store.find_action(action.digest) == artifact.digest
