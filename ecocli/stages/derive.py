"""Derivation of the gate's training data: every image at every exit, once.

Input: ``parent``. Files: ``<split>.parquet``, the derived table of each split (``ecocli.artifacts.derived_table``), and
where mirror images are measured ``<split>-mirror.parquet``, the same of these.

The images of a split are cut into parts that follow from the data set, the batch size and the part size alone; each
finished part is a sealed folder in the run folder (``ecocli.runtime.parts``). Processes of one run share them; runs
started apart (``--shard``, such as tasks of a job array) take every N-th part, and whichever finds all parts finished
joins them. The table is sorted by the data set's order, so its bytes depend on none of that.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import WEIGHTS_FILE, unseen_share
from ecocli.artifacts.manifest import DerivedManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.derive import DeriveConfig
from ecocli.data.categories import check_trained_categories
from ecocli.data.datasets import require_drawn
from ecocli.data.hold_out import is_held_out
from ecocli.data.images import ImageDataset
from ecocli.errors import DataError
from ecocli.runtime.context import Runtime
from ecocli.runtime.parts import Part, compute_parts, read_parts
from ecocli.tasks.registry import task_of

if TYPE_CHECKING:
    from ecocli.artifacts.derived_table import DerivedRecord
    from ecocli.model.contracts import ExitModel
    from ecocli.scoring.score_exits import DerivedRow

STAGE = "derive"
SCHEMA_VERSION = 4
ROWS_FILE = "rows.parquet"


@dataclass(frozen=True)
class Shard:
    """One of several runs that share the parts of a derivation.

    Attributes:
        index: From 0.
        count: How many runs share.
    """

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Derivation:
    """What is measured on what.

    Attributes:
        unseen_shares: Share of each split that the parent was not trained on, by a hash of the images' ids; None where
            it is not known.
    """

    parent: Artifact[ParentManifest]
    datasets: tuple[ImageDataset, ...]
    unseen_shares: Mapping[str, float | None]

    @property
    def architecture(self) -> AnyArchitecture:
        """The parent's."""
        return self.parent.manifest.architecture

    def has_seen(self, split: str, image_id: str) -> bool | None:
        """Whether the parent was trained on an image; None where it is not known."""
        share = self.unseen_shares[split]
        return None if share is None else not is_held_out(image_id, share)


@dataclass(frozen=True)
class DerivePlan(Plan[DerivedManifest]):
    """A derivation whose parts may also be computed by runs started apart."""

    config: DeriveConfig = field(kw_only=True)
    subject: Derivation = field(kw_only=True)


def plan(
    config: DeriveConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime, *, draw: bool = True
) -> DerivePlan:
    """Open what is needed, check that it fits together, and say exactly what is asked.

    Args:
        draw: Whether the ``shapes`` are drawn where they are not there yet; otherwise that is a `NotDrawnError`.

    Raises:
        ArtifactError: The parent is damaged.
        DataError: The data set is missing, faulty, or of other categories than the parent.
        UsageError: There is no such data set or split.
        InterruptedRunError: From the work: a signal stopped the derivation; finished parts are kept.
    """
    parent = store.get(inputs["parent"], ParentManifest)
    task = task_of(parent.manifest.architecture)
    if not draw:
        require_drawn(config.dataset)
    datasets = tuple(task.open(config.dataset, split) for split in config.splits)
    check_trained_categories(parent.digest, parent.manifest.categories, datasets[0].name, datasets[0].categories)
    for dataset in datasets[1:]:
        if [(c.id, c.name) for c in dataset.categories] != [(c.id, c.name) for c in datasets[0].categories]:
            raise DataError(
                f"The splits {datasets[0].split} and {dataset.split} of {dataset.name} have different categories or "
                f"category ids, in {datasets[0].annotation_file} and {dataset.annotation_file}. Prepare both in one "
                "way, or measure one of them alone (--splits)."
            )
    fingerprints = [dataset.fingerprint if runtime.world.is_main else "" for dataset in datasets]
    fingerprints = runtime.world.broadcast_object(fingerprints)
    action = Action(STAGE, SCHEMA_VERSION, config, inputs, dict(zip(config.splits, fingerprints, strict=True)))
    source = config.dataset.source
    shares = {
        split: unseen_share(parent.manifest, source, split, fingerprint)
        for split, fingerprint in action.fingerprints.items()
    }
    subject = Derivation(parent, datasets, shares)

    def work(folder: Path) -> Made[DerivedManifest] | None:
        parts = plan_parts(config, subject, folder)
        _compute(config, subject, parts, runtime)
        runtime.world.barrier()
        if not runtime.world.is_main:
            return None
        for dataset in subject.datasets:
            _say_seen(subject, dataset, runtime)
        sides = (False, True) if config.mirror else (False,)
        paths = [_join(dataset, mirrored, parts, folder) for dataset in subject.datasets for mirrored in sides]
        files = {path.name: path for path in paths}
        return Made(_manifest(action, config, subject, files), files)

    return DerivePlan(action, DerivedManifest, work, config=config, subject=subject)


def take_shard(plan: DerivePlan, store: Store, runtime: Runtime, shard: Shard, *, force: bool = False) -> bool:
    """Derive the parts of one shard, unless the store has the whole.

    Args:
        shard: Which parts this run takes: every ``count``-th, from ``index``.

    Returns:
        Whether the whole can be had now: ``execute`` joins the parts. If not, other shards have parts to finish.

    Raises:
        InterruptedRunError: A signal stopped the derivation; finished parts are kept.
    """

    def is_there() -> bool:
        return runtime.world.broadcast_object(not force and store.find_action(plan.action.digest) is not None)

    if is_there():
        return True
    parts = plan_parts(plan.config, plan.subject, store.run_dir(plan.action.digest))
    _compute(plan.config, plan.subject, parts[shard.index :: shard.count], runtime)
    missing = runtime.world.broadcast_object(sum(not part.is_finished for part in parts))
    # Another shard may have joined the parts in the meantime; its result is then the one.
    if not missing or is_there():
        return True
    runtime.log.info(
        "Shard %d of %d is finished; %d of %d parts are left to other shards.",
        *(shard.index, shard.count, missing, len(parts)),
    )
    return False


@dataclass(frozen=True)
class DerivePart(Part):
    """Some batches of one split.

    Attributes:
        batches: Positions in the data set, batch by batch.
        mirrored: Whether the mirror images are measured.
    """

    dataset: ImageDataset
    batches: tuple[tuple[int, ...], ...]
    mirrored: bool


def plan_parts(config: DeriveConfig, subject: Derivation, folder: Path) -> list[DerivePart]:
    """Cut all splits into parts; the same on every process and after every restart."""
    from ecocli.scoring.batches import plan_dataset

    step = max(config.execution.part_images // config.batch_size, 1)
    parts = []
    sides = (False, True) if config.mirror else (False,)
    for dataset, mirrored in itertools.product(subject.datasets, sides):
        batches = plan_dataset(
            dataset, config.dataset.test_resize, config.batch_size, subject.architecture.size_divisor
        )
        ids = dataset.records.image_ids
        for first in range(0, len(batches), step):
            some = tuple(batches[first : first + step])
            table = _table_name(dataset, mirrored)
            name = f"{table}-part-{first:06d}-{first + len(some):06d}-of-{len(batches):06d}"
            images = tuple(ids[position] for batch in some for position in batch)
            parts.append(DerivePart(folder, name, images, dataset, some, mirrored))
    return parts


def _table_name(dataset: ImageDataset, mirrored: bool) -> str:
    return f"{dataset.split}-mirror" if mirrored else dataset.split


def _say_seen(subject: Derivation, dataset: ImageDataset, runtime: Runtime) -> None:
    known = [subject.has_seen(dataset.split, image_id) for image_id in dataset.records.image_ids]
    if None in known:
        runtime.log.info("%s: the parent does not say which images it was trained on.", dataset.split)
    else:
        runtime.log.info(
            "%s: the parent was trained on %d of %d images.", dataset.split, sum(map(bool, known)), len(known)
        )


def _compute(config: DeriveConfig, subject: Derivation, parts: Sequence[DerivePart], runtime: Runtime) -> None:
    def open_work() -> Callable[[DerivePart, Path], None]:
        model = _restore(config, subject, runtime)
        return lambda part, folder: _compute_part(config, subject, part, folder, model, runtime)

    compute_parts(parts, open_work, runtime, doing="deriving", of="derived table")


def _restore(config: DeriveConfig, subject: Derivation, runtime: Runtime) -> "ExitModel":
    # torch is loaded only where something is computed; a result that is there is returned without it.
    from ecocli.artifacts.tensors import load_tensors
    from ecocli.inference.loading import restore_model

    weights = subject.parent.read(WEIGHTS_FILE, load_tensors)
    return restore_model(
        subject.architecture,
        weights,
        runtime.device,
        subject.parent.digest,
        config.precision,
        runtime.log.warning if config.execution.compile else None,
    )


def _compute_part(
    config: DeriveConfig,
    subject: Derivation,
    part: DerivePart,
    folder: Path,
    model: "ExitModel",
    runtime: Runtime,
) -> None:
    from ecocli.artifacts.derived_table import build_table
    from ecocli.artifacts.tables import write_table
    from ecocli.scoring.batches import iterate_batches
    from ecocli.scoring.score_stream import stream_rows

    depths = subject.parent.manifest.exit_depths
    threads = config.execution.score_threads or runtime.threads
    task = task_of(subject.architecture)
    score, load_truth = task.scorer(subject.architecture, subject.datasets[0].categories, config.box_quality)
    batches = iterate_batches(
        part.dataset,
        part.batches,
        config.dataset.test_resize,
        model,
        runtime.device,
        load_truth,
        mirror=task.mirror if part.mirrored else None,
    )
    records = []
    with closing(stream_rows(model, batches, depths, score, threads)) as stream:
        for rows in stream:
            runtime.stop.check()
            records += [_record(subject, part.dataset, position, row) for position, row in rows]
    write_table(folder / ROWS_FILE, build_table(records, task.columns))


def _record(subject: Derivation, dataset: ImageDataset, position: int, row: "DerivedRow") -> "DerivedRecord":
    from ecocli.artifacts.derived_table import DerivedRecord
    from ecocli.profiling.gflops import count_gflops

    depths = subject.parent.manifest.exit_depths
    costs = count_gflops(subject.architecture, row.padded_size, row.original_size, depths)
    return DerivedRecord(
        image_id=row.image_id,
        file_name=dataset.records.file_names[position],
        seen=subject.has_seen(dataset.split, row.image_id),
        size=row.original_size,
        padded_size=row.padded_size,
        counts=row.counts,
        features={str(name): values for name, values in row.features.items()},
        gflops=tuple(costs.total(depth) for depth in depths),
        encoder_gflops=tuple(costs.pixel_decoder(depth) for depth in depths),
    )


def _join(dataset: ImageDataset, mirrored: bool, parts: Sequence[DerivePart], folder: Path) -> Path:
    """Join the parts of a split in the data set's order; every image must occur once."""
    import numpy as np
    import pyarrow as pa

    from ecocli.artifacts.tables import read_table, write_table

    def read(part: DerivePart) -> pa.Table:
        table = read_table(part.path / ROWS_FILE)
        if sorted(map(str, table["image_id"].to_pylist())) != sorted(part.images):
            raise ValueError(f"it holds {table.num_rows} rows, expected one for each of {len(part.images)} images")
        return table

    some = [part for part in parts if part.dataset is dataset and part.mirrored == mirrored]
    table = pa.concat_tables(read_parts(some, read))
    position_of = {image_id: position for position, image_id in enumerate(dataset.records.image_ids)}
    order = np.argsort([position_of[str(image_id)] for image_id in table["image_id"].to_pylist()], kind="stable")
    path = folder / f"{_table_name(dataset, mirrored)}.parquet"
    write_table(path, table.take(order))
    return path


def _manifest(action: Action, config: DeriveConfig, subject: Derivation, files: Mapping[str, Path]) -> DerivedManifest:
    import pyarrow.parquet as pq

    from ecocli.artifacts.derived_table import FEATURE_PREFIX

    task = task_of(subject.architecture)
    schema = pq.read_schema(next(iter(files.values())))
    sizes = {
        field.name.removeprefix(FEATURE_PREFIX): field.type.list_size
        for field in schema
        if field.name.startswith(FEATURE_PREFIX)
    }
    return DerivedManifest(
        **action.recorded,
        splits=config.splits,
        exit_depths=subject.parent.manifest.exit_depths,
        rows={dataset.split: len(dataset) for dataset in subject.datasets},
        feature_sizes=sizes,
        dataset=config.dataset,
        precision=config.precision,
        mirrored=config.mirror,
        task=task.name,
        quality=task.quality(config.box_quality),
    )
