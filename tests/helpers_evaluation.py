"""A store with a tiny parent, its derived table and a gate, for tests of evaluation and reports."""

from dataclasses import dataclass
from pathlib import Path

from helpers_inference import EXIT_DEPTHS, TINY, splitting_gate, tiny_dataset_config, tiny_model
from helpers_own_truth import make_own_truth
from helpers_sizes import cut_to_sizes
from helpers_stages import run_stage
from helpers_store import gate_metrics, parent_manifest

from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.data.datasets import open_dataset
from ecocli.scoring.batches import load_batch
from ecocli.stages import derive

IMAGES = 6


@dataclass(frozen=True)
class Bench:
    """What an evaluation starts from.

    Attributes:
        store: The store.
        inputs: Digests of ``parent`` and ``gate``.
        dataset: The data.
        gate_depths: What the gate chooses for each image.
    """

    store: Store
    inputs: dict[str, str]
    dataset: DatasetConfig
    gate_depths: tuple[int, ...]

    def config(self, **settings: object) -> EvaluateConfig:
        """Make settings; parts are small, so that there are several, and nothing is timed."""
        execution = EvaluateExecutionConfig(timed_images=0, part_images=2)
        given = {"dataset": self.dataset, "batch_size": 2, "bootstrap_replicates": 50, "execution": execution}
        return EvaluateConfig(**{**given, **settings})


def make_bench(folder: Path) -> Bench:
    """Put parent, derived table and gate into a store below a folder, and draw the scenes, of several sizes."""
    drawn = cut_to_sizes(tiny_dataset_config(folder / "data", val=IMAGES), folder / "cut")
    # The ground truth is what the exits themselves say, so that no quality is zero and the exits differ.
    dataset_config = make_own_truth(drawn, folder / "truth")
    dataset = open_dataset(dataset_config, "val")
    model = tiny_model()
    batches = [
        load_batch(dataset, [position], dataset_config.test_resize, model, "cpu").images for position in range(IMAGES)
    ]
    gate, depths = splitting_gate(model, batches, EXIT_DEPTHS)
    store = Store(folder / "store")
    parent = store.put(
        parent_manifest(TINY, EXIT_DEPTHS, dataset=dataset_config),
        {"model.safetensors": save_tensors(model.state_dict())},
        names=["parent"],
    )
    config = DeriveConfig(dataset=dataset_config, splits=("val",), batch_size=2)
    derived = run_stage(derive, config, {"parent": parent.digest}, store)
    fitted = store.put(
        GateManifest(
            schema_version=1,
            stage_config={},
            inputs={"derived": derived.digest},
            dataset_fingerprints={},
            exit_depths=EXIT_DEPTHS,
            beta=0.001,
            feature="res5",
            metrics=gate_metrics((0.5, 0.25, 0.25)),
        ),
        {"gate.safetensors": save_tensors(gate.gate.state_dict())},
        names=["gate"],
    )
    return Bench(store, {"parent": parent.digest, "gate": fitted.digest}, dataset_config, tuple(depths))


def imported_gate(bench: Bench) -> str:
    """Put the bench's gate into its store once more, as one that came with its parent and without a table."""
    gate = bench.store.get(bench.inputs["gate"], GateManifest)
    update = {"inputs": {"parent": bench.inputs["parent"]}, "metrics": None, "files": ()}
    files = {"gate.safetensors": gate.path_of("gate.safetensors").read_bytes()}
    return bench.store.put(gate.manifest.model_copy(update=update), files).digest
