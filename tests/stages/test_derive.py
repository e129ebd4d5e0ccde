"""Derivation of the tables with a tiny random model on a few drawn scenes.

Expected values: the model run by hand, image by image and exit by exit, through the evaluator's own functions.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_columns import column_docs
from helpers_derive import config, inputs
from helpers_evaluation import Bench
from helpers_inference import EXIT_DEPTHS, RULE, TINY, tiny_model
from helpers_sizes import SIZES
from helpers_stages import run_stage
from PIL import Image

from ecocli.artifacts.derived_table import read_derived, read_split
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.tables import write_table
from ecocli.config.dataset import DatasetConfig
from ecocli.data.categories import SHAPES
from ecocli.data.datasets import open_dataset
from ecocli.errors import ArtifactError, DataError
from ecocli.metrics.panoptic_quality import panoptic_quality, sum_counts
from ecocli.profiling.gflops import count_gflops
from ecocli.runtime.context import Runtime
from ecocli.scoring.batches import load_batch
from ecocli.scoring.score_exits import DerivedRow, score_exits
from ecocli.stages import derive
from ecocli.stages.derive import plan


def test_run__two_splits__manifest_and_columns(bench: Bench, derived: SimpleNamespace) -> None:
    manifest = derived.artifact.manifest
    assert (manifest.splits, manifest.exit_depths, manifest.rows) == (
        ("train", "val"),
        EXIT_DEPTHS,
        {"train": 4, "val": 6},
    )
    assert manifest.feature_sizes == {"res5": 128, "projected": 32, "tokens": 192}
    assert set(manifest.dataset_fingerprints) == {"train", "val"}
    assert bench.store.names()["derived"] == derived.artifact.digest
    table = derived.tables["val"]
    assert table["image_id"].to_pylist() == list(open_dataset(bench.dataset, "val").records.image_ids)
    docs = column_docs(table.schema)
    assert set(docs) == set(table.column_names)
    assert (docs["gflops"].unit, docs["height"].unit, docs["pq"].unit) == ("GFLOPs", "px", "ratio 0..1")


def rows_by_hand(bench: Bench) -> list[DerivedRow]:
    """Run the network on the validation images, two of one padded size at a time; in the data set's order."""
    model, dataset = tiny_model(), open_dataset(bench.dataset, "val")
    rows: dict[int, DerivedRow] = {}
    for positions in ((0, 1), (2, 5), (3, 4)):
        batch = load_batch(dataset, positions, bench.dataset.test_resize, model, "cpu")
        found = score_exits(model, batch.images, batch.truths, EXIT_DEPTHS, RULE)
        rows.update(zip(positions, found, strict=True))
    return [rows[position] for position in range(6)]


def test_run__val_rows__equal_the_network_run_by_hand(bench: Bench, derived: SimpleNamespace) -> None:
    records = open_dataset(bench.dataset, "val").records
    rows = derived.tables["val"].to_pylist()
    for position, expected in enumerate(rows_by_hand(bench)):
        row, size = rows[position], SIZES[position % 3]
        assert row["image_id"] == expected.image_id == records[position].image_id
        assert row["file_name"] == records[position].file_name
        assert (row["height"], row["width"]) == expected.original_size == size
        assert row["pq"] == list(expected.pq)
        assert row["pq"][position % 3] == 1.0  # the exit whose word is the truth
        for name, values in expected.features.items():
            np.testing.assert_array_equal(np.array(row[f"feature_{name}"], np.float16), values)
        # Multiples of 32: two of the three sizes are alike inside the network.
        costs = count_gflops(TINY, (32 if size[0] == 30 else 64, 64), size, EXIT_DEPTHS)
        assert row["gflops"] == [costs.total(depth) for depth in EXIT_DEPTHS]
        assert row["encoder_gflops"] == [costs.pixel_decoder(depth) for depth in EXIT_DEPTHS]


def test_run__counts__give_the_data_sets_pq_at_every_exit(bench: Bench, derived: SimpleNamespace) -> None:
    rows = rows_by_hand(bench)
    table = read_derived(
        derived.artifact.path_of("val.parquet"), split="val", feature="res5", exit_depths=EXIT_DEPTHS, rows=6
    )
    for e in range(3):
        assert sum(int(row.counts[e].tp.sum()) for row in rows) > 0
        expected = panoptic_quality(sum_counts([row.counts[e] for row in rows], len(SHAPES))).pq
        assert table.counts.assignment_quality(np.full(6, e)) == pytest.approx(expected, abs=1e-9)
    mixed = np.array([0, 2, 1, 1, 0, 2])
    expected = panoptic_quality(sum_counts([row.counts[e] for row, e in zip(rows, mixed, strict=True)], len(SHAPES))).pq
    assert table.counts.assignment_quality(mixed) == pytest.approx(expected, abs=1e-9)


def test_run__mirror__rows_are_those_of_mirrored_files(bench: Bench, tmp_path: Path) -> None:
    mirrored = run_stage(derive, config(bench, splits=("val",), mirror=True), inputs(bench), bench.store)
    dataset = open_dataset(bench.dataset, "val")
    content = json.loads(dataset.annotation_file.read_text())
    for record in dataset.records:
        (tmp_path / record.file_name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.load_image(record)[:, ::-1]).save(tmp_path / record.file_name)
    for entry in content["annotations"]:
        with Image.open(dataset.panoptic_root / entry["file_name"]) as ids:
            (tmp_path / "ids" / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            ids.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "ids" / entry["file_name"])
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "flipped.toml").write_text(
        'name = "flipped"\n[splits.val]\nimages = "."\nannotations = "val.json"\npanoptic = "ids"\n'
    )
    flipped = bench.dataset.model_copy(update={"name": str(tmp_path / "flipped.toml")})
    asked = config(bench, splits=("val",)).model_copy(update={"dataset": flipped})
    expected = run_stage(derive, asked, inputs(bench), bench.store)
    found, plain = (pq.read_table(mirrored.path_of(f"val{side}.parquet")) for side in ("-mirror", ""))
    assert found.equals(pq.read_table(expected.path_of("val.parquet")))
    assert plain["pq"].to_pylist() != found["pq"].to_pylist()
    assert plain["image_id"].equals(found["image_id"])
    # Without --mirror the table is the same.
    assert plain.equals(
        pq.read_table(run_stage(derive, config(bench), inputs(bench), bench.store).path_of("val.parquet"))
    )
    # Rows of other images are no mirror images of these.
    damaged = tmp_path / "t.parquet"
    write_table(damaged, found.take(list(range(5, -1, -1))))
    files = {"val.parquet": mirrored.path_of("val.parquet"), "val-mirror.parquet": damaged}
    other = bench.store.put(mirrored.manifest.model_copy(update={"files": ()}), files)
    with pytest.raises(
        ArtifactError, match=r"'val-mirror' is damaged: its rows are not the images of val in their order"
    ):
        read_split(other, "val", "res5")


def test_run__other_batch_size__same_rows(bench: Bench, derived: SimpleNamespace) -> None:
    other = run_stage(derive, config(bench, batch_size=3, part_images=3), inputs(bench), bench.store, Runtime.quiet())
    for split, table in derived.tables.items():
        found = pq.read_table(other.path_of(f"{split}.parquet"))
        for name in table.column_names:
            if name.startswith("feature_"):
                pairs = zip(table[name].to_pylist(), found[name].to_pylist(), strict=True)
                assert all(np.allclose(a, b, rtol=2e-3, atol=1e-3) for a, b in pairs)
            else:
                assert table[name].to_pylist() == found[name].to_pylist(), name


def test_run__parent_of_other_categories__is_refused(bench: Bench) -> None:
    parent = bench.store.get(bench.inputs["parent"], ParentManifest)
    *kept, last = parent.manifest.categories
    categories = (*kept, last.model_copy(update={"name": "other"}))
    files = {"model.safetensors": parent.path_of("model.safetensors")}
    strange = bench.store.put(parent.manifest.model_copy(update={"categories": categories}), files)
    with pytest.raises(
        DataError, match=r"knows \d+ categories, the data set own-truth has \d+, and they are not the same"
    ):
        plan(config(bench), {"parent": strange.digest}, bench.store, Runtime.quiet())


def test_run__cityscapes_ids_of_two_kinds__refused_for_two_splits_and_read_for_one(
    bench: Bench, tmp_path: Path
) -> None:
    # As with Cityscapes, whose train ids and ids are both in use: other numbers, the same classes in the same order.
    dataset = open_dataset(bench.dataset, "val")
    content = json.loads(dataset.annotation_file.read_text())
    for category in content["categories"]:
        category["id"] += 100
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] += 100
    (tmp_path / "shifted.json").write_text(json.dumps(content))
    lines = ['name = "two"']
    for split, annotations in (("train", tmp_path / "shifted.json"), ("val", dataset.annotation_file)):
        places = {"images": dataset.image_root, "annotations": annotations, "panoptic": dataset.panoptic_root}
        lines += [f"[splits.{split}]", *(f'{key} = "{place.resolve()}"' for key, place in places.items())]
    (tmp_path / "two.toml").write_text("\n".join(lines))
    two = {"dataset": DatasetConfig.model_validate({"name": str(tmp_path / "two.toml")})}
    with pytest.raises(DataError, match="The splits train and val of two have different categories or category ids"):
        plan(config(bench, splits=("train", "val")).model_copy(update=two), bench.inputs, bench.store, Runtime.quiet())
    planned = plan(config(bench, splits=("train",)).model_copy(update=two), bench.inputs, bench.store, Runtime.quiet())
    assert planned.subject.datasets[0].categories[0].id > 100


def test_derive_config__same_split_twice__is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="splits must differ; found val, val"):
        config(bench, splits=("val", "val"))


# Reading: every kind of damage that a well-formed Parquet file can carry.


def _damaged(table: pa.Table, name: str, change: object) -> pa.Table:
    values = table[name].to_pylist()
    values[1] = change(values[1])  # type: ignore[operator]
    return table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pq", lambda row: [float("nan"), *row[1:]], r"split 'val' is damaged: its column pq holds NaN"),
        ("pq", lambda row: row[:2], r"its column pq has rows of 2 exits, expected 3 \(depths 1, 2, 3\)"),
        ("gflops", lambda row: [None, *row[1:]], r"its column gflops has a value that is no finite number"),
        ("feature_res5", lambda row: [float("inf"), *row[1:]], r"feature 0 of row 1 is inf, expected a finite number"),
        ("count_tp", lambda row: row[:-1], r"its count columns have lists of different lengths"),
        ("count_exit", lambda row: [3 for _ in row], r"exit index of the count table spans \d\.\.3, but there are 3"),
        ("image_id", lambda row: "1", r"its 6 rows name only 5 images"),
    ],
)
def test_read_derived__damaged_column__is_refused(
    derived: SimpleNamespace, tmp_path: Path, name: str, change: object, message: str
) -> None:
    table = derived.tables["val"]
    if name == "image_id":
        table = _damaged(table, name, lambda _: table["image_id"][0].as_py())
    else:
        table = _damaged(table, name, change)
    write_table(tmp_path / "t.parquet", table)
    with pytest.raises(ArtifactError, match=message):
        read_derived(tmp_path / "t.parquet", split="val", feature="res5", exit_depths=EXIT_DEPTHS, rows=6)


def test_read_derived__row_missing__is_refused(derived: SimpleNamespace, tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", derived.tables["val"].slice(1))
    with pytest.raises(ArtifactError, match="it has 5 rows, expected 6"):
        read_derived(tmp_path / "t.parquet", split="val", feature="res5", exit_depths=EXIT_DEPTHS, rows=6)


def test_read_derived__unknown_feature__names_the_columns(derived: SimpleNamespace) -> None:
    path = derived.artifact.path_of("val.parquet")
    with pytest.raises(ArtifactError, match="lacks the columns feature_res9"):
        read_derived(path, split="val", feature="res9", exit_depths=EXIT_DEPTHS, rows=6)


def test_read_derived__undefined_quality__is_nan(derived: SimpleNamespace, tmp_path: Path) -> None:
    table = _damaged(derived.tables["val"], "pq", lambda row: [None, *row[1:]])
    write_table(tmp_path / "t.parquet", table)
    found = read_derived(tmp_path / "t.parquet", split="val", feature="res5", exit_depths=EXIT_DEPTHS, rows=6)
    assert np.isnan(found.quality[1, 0])
    assert np.isnan(found.quality).sum() == 1
