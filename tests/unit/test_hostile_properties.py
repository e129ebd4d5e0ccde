"""Laws of the readers: any change to a sound file gives what the file says, or an error of the project."""

import json
import struct
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_gate import derived_records, put_derived
from helpers_store import put_gate
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.artifacts.derived_table import build_table, read_derived, read_split
from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tables import read_table, write_table
from ecocli.artifacts.tensors import load_tensors
from ecocli.artifacts.transfer import pull, push
from ecocli.config.loading import load_toml
from ecocli.data.annotations import read_annotations
from ecocli.data.boxes import read_instances
from ecocli.errors import ArtifactError, EcoError

EXITS = (2, 3, 4)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of all examples; each writes its own anew."""
    return tmp_path_factory.mktemp("properties")


def changed(data: bytes, draw: st.DrawFn) -> bytes:
    """Draw a cut, a flipped byte or other bytes in the middle."""
    position = draw(st.integers(0, len(data) - 1))
    part = draw(st.binary(min_size=1, max_size=4))
    return draw(st.sampled_from([data[:position], data[:position] + part + data[position + len(part) :]]))


def replaced(value: Any, draw: st.DrawFn) -> Any:
    """Put any value in one place of nested data."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        keys: Sequence[Any] = sorted(value) if isinstance(value, dict) else range(len(value))
        key = draw(st.sampled_from(keys))
        copy = value.copy()
        copy[key] = replaced(value[key], draw)
        return copy
    return draw(json_values)


TOML = b"""
split = "val"
batch_size = 2
[dataset]
name = "shapes"
test_resize = { short_edge_px = 64, long_edge_px = [1, 2.5, 1979-05-27] }
[[more]]
text = 'a "b"'
"""


@given(data=st.data())
@settings(max_examples=60)
def test_load_toml__any_change__what_the_standard_reader_finds_or_an_error(data: st.DataObject, place: Path) -> None:
    text = data.draw(st.binary(max_size=60) | st.composite(lambda draw: changed(TOML, draw))())
    (place / "settings.toml").write_bytes(text)
    try:
        found = load_toml(place / "settings.toml")
    except EcoError:
        return
    assert repr(found) == repr(tomllib.loads(text.decode("utf-8-sig")))


ANNOTATIONS = {
    "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [{"id": 7, "category_id": 1, "iscrowd": 0, "area": 3, "bbox": [0, 0, 3, 1]}],
        }
    ],
    "categories": [{"id": 1, "name": "car", "supercategory": "car", "isthing": 1, "color": [1, 2, 3]}],
}
INSTANCES = {
    **ANNOTATIONS,
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 3.0, "bbox": [0, 0, 3.5, 1]}],
}


@pytest.mark.parametrize("kind", ["panoptic", "instances"])
@given(data=st.data())
@settings(max_examples=150)
def test_annotations__any_value_anywhere__read_or_an_error(data: st.DataObject, kind: str, place: Path) -> None:
    whole, read = (ANNOTATIONS, read_annotations) if kind == "panoptic" else (INSTANCES, read_instances)
    content = data.draw(st.composite(lambda draw: replaced(whole, draw))())
    (place / "annotations.json").write_text(json.dumps(content))
    try:
        found: Any = read(place / "annotations.json")
    except EcoError:
        return
    for record in found.records:
        assert record.height > 0
        assert record.width > 0


@pytest.fixture(scope="module")
def derived(place: Path) -> bytes:
    write_table(place / "sound.parquet", build_table(derived_records(0, 4)))
    return (place / "sound.parquet").read_bytes()


def read(path: Path) -> Any:
    return read_derived(path, split="val", feature="res5", exit_depths=EXITS, rows=4)


@given(data=st.data())
@settings(max_examples=60)
def test_read_derived__any_change_of_bytes__finite_numbers_or_an_error(
    data: st.DataObject, derived: bytes, place: Path
) -> None:
    (place / "table.parquet").write_bytes(data.draw(st.composite(lambda draw: changed(derived, draw))()))
    try:
        table = read(place / "table.parquet")
    except ArtifactError:
        return
    assert np.isfinite(table.features).all()
    assert np.isfinite(table.gflops).all()


@given(data=st.data())
@settings(max_examples=60)
def test_read_derived__any_column_of_other_content__finite_numbers_or_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(build_table(derived_records(0, 4)).column_names))
    cells = st.lists(data.draw(st.sampled_from([st.floats(), st.integers(-5, 5), st.text(max_size=2)])), max_size=4)
    column = data.draw(
        st.one_of(
            st.lists(st.floats(), min_size=4, max_size=4),
            st.lists(st.integers(-(2**62), 2**62), min_size=4, max_size=4),
            st.lists(st.text(max_size=3), min_size=4, max_size=4),
            st.lists(st.none() | st.booleans(), min_size=4, max_size=4),
            st.lists(st.none() | cells, min_size=4, max_size=4),
        )
    )
    folder = tmp_path_factory.mktemp("derived")
    store = Store(folder / "store")
    digest = put_derived(
        store,
        folder,
        {"val": derived_records(0, 4)},
        change=lambda table: table.set_column(table.column_names.index(name), name, pa.array(column)),
    )
    try:
        table = read_split(store.get(digest, DerivedManifest), "val", "res5")
    except ArtifactError:
        return
    assert np.isfinite(table.features).all()
    assert np.isfinite(table.gflops).all()
    assert np.isfinite(table.encoder_gflops).all()
    for values in (table.counts.tp, table.counts.fp, table.counts.fn, table.counts.iou_sum):
        assert (values >= 0).all()


def test_read_table__small_file_of_a_hundred_million_values__refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.nulls(100_000_000, pa.int8())}), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    with pytest.raises(ArtifactError, match="claims 100,000,000 rows"):
        read_table(tmp_path / "bomb.parquet")


@given(data=st.data())
@settings(max_examples=100)
def test_load_tensors__any_header__tensors_within_the_file_or_an_error(data: st.DataObject, place: Path) -> None:
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    header = data.draw(
        st.composite(lambda draw: replaced({"weight": entry, "__metadata__": {"a": "b"}}, draw))() | json_values
    )
    text = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(text), len(text) + 1, 0, 2**40, 2**64 - 1]))
    (place / "any.safetensors").write_bytes(struct.pack("<Q", length) + text + bytes(16))
    try:
        found = load_tensors(place / "any.safetensors")
    except ArtifactError:
        return
    assert sum(tensor.numel() * tensor.element_size() for tensor in found.values()) <= 16


@given(data=st.data())
@settings(max_examples=15)
def test_push__layout_with_any_index__taken_up_beside_it_or_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    store = Store(folder / "store")
    put_gate(store, 0.1, names=("first",))
    second = put_gate(store, 0.2, names=("second",)).digest
    push(store, "first", folder / "layout")
    index = folder / "layout" / "index.json"
    content = data.draw(st.composite(lambda draw: replaced(json.loads(index.read_bytes()), draw))())
    index.chmod(0o644)
    index.write_text(json.dumps(content))
    try:
        push(store, "second", folder / "layout")
    except EcoError:
        assert index.read_text() == json.dumps(content)
        return
    target = Store(folder / "target")
    assert pull(target, folder / "layout", "second") == second
    # What the index listed before, it lists still.
    listed = json.loads(index.read_bytes())["manifests"]
    assert [entry for entry in content["manifests"] if entry not in listed] == []
