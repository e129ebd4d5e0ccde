"""What several modules of tests start from; each module has its own."""

from pathlib import Path
from types import SimpleNamespace

import helpers_derive
import pyarrow.parquet as pq
import pytest
from helpers_evaluation import Bench, make_bench
from helpers_gate import derived_records, put_derived
from helpers_stages import run_stage
from helpers_train_parent import parent_of, settings

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import DerivedRecord
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.runtime.context import Runtime
from ecocli.stages import derive


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets; the first run draws the shapes."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact[ParentManifest]]:
    """A parent after two steps, and its store."""
    store = Store(tmp_path_factory.mktemp("store"))
    return store, parent_of(settings(data_root), store)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A small model, its table and a gate."""
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def derived(bench: Bench) -> SimpleNamespace:
    """The bench's table anew, of both splits."""
    config, inputs = helpers_derive.config(bench), helpers_derive.inputs(bench)
    artifact = run_stage(derive, config, inputs, bench.store, Runtime.quiet())
    tables = {split: pq.read_table(artifact.path_of(f"{split}.parquet")) for split in ("train", "val")}
    return SimpleNamespace(artifact=artifact, tables=tables)


@pytest.fixture(scope="module")
def records() -> dict[str, list[DerivedRecord]]:
    """Rows of a generated table."""
    return {"train": derived_records(0, 400), "val": derived_records(1, 300)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, records: dict[str, list[DerivedRecord]]) -> tuple[Store, str]:
    """A store with the generated table, and its digest."""
    folder = tmp_path_factory.mktemp("fit")
    store = Store(folder / "store")
    return store, put_derived(store, folder, records)
