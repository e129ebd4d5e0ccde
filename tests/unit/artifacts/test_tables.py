"""Tables: the encoding promised, the documentation kept, damage refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_columns import column_docs

from ecocli.artifacts.tables import (
    ROW_GROUP_ROWS,
    ColumnDoc,
    document_columns,
    read_table,
    write_table,
)
from ecocli.errors import ArtifactError, UsageError

DOCS = {
    "image_id": ColumnDoc("Identity of the image in its data set"),
    "height": ColumnDoc("Height of the image as stored", "px"),
    "pq": ColumnDoc("Panoptic quality at each exit, null where undefined", "ratio 0..1"),
    "feature_res5": ColumnDoc("Pooled res5 features"),
}


def _table(rows: int = 5) -> pa.Table:
    generator = np.random.default_rng(0)
    features = generator.normal(size=rows * 4).astype(np.float16)
    return pa.table(
        {
            "image_id": pa.array([f"{row:06d}" for row in range(rows)]),
            "height": pa.array(range(rows), pa.int32()),
            "pq": pa.array([[0.5, None] for _ in range(rows)], pa.list_(pa.float64())),
            "feature_res5": pa.FixedSizeListArray.from_arrays(pa.array(features), 4),
        }
    )


def test_read_table__written__reads_back_equal(tmp_path: Path) -> None:
    write_table(tmp_path / "t", _table())
    assert read_table(tmp_path / "t").equals(_table())
    assert read_table(tmp_path / "t", ["height", "image_id"]).column_names == ["height", "image_id"]


def test_write_table__twice_and_chunked__gives_the_same_bytes(tmp_path: Path) -> None:
    table = _table()
    write_table(tmp_path / "a", table)
    write_table(tmp_path / "b", pa.concat_tables([table.slice(0, 2), table.slice(2)]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_write_table__encodings__are_the_measured_ones(tmp_path: Path) -> None:
    wide = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * (2 * _table().num_rows), pa.float32()), 2)
    write_table(tmp_path / "t", _table().append_column("wide", wide))
    group = pq.read_metadata(tmp_path / "t").row_group(0)
    encodings = {group.column(i).path_in_schema: set(group.column(i).encodings) for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in encodings["wide.list.element"]
    # DuckDB 2.0.0 refuses that encoding for float16.
    assert "BYTE_STREAM_SPLIT" not in encodings["feature_res5.list.element"]
    assert "RLE_DICTIONARY" in encodings["image_id"]
    assert "BYTE_STREAM_SPLIT" not in encodings["pq.list.element"]
    assert not any("DICTIONARY" in name for name in encodings["height"] | encodings["pq.list.element"])
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_write_table__many_rows__makes_row_groups(tmp_path: Path) -> None:
    write_table(tmp_path / "t", pa.table({"x": pa.array(range(ROW_GROUP_ROWS + 1))}))
    metadata = pq.read_metadata(tmp_path / "t")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [ROW_GROUP_ROWS, 1]


def test_write_table__no_rows__reads_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t", _table(0))
    assert read_table(tmp_path / "t").equals(_table(0))


def test_column_docs__documented_and_written__are_kept(tmp_path: Path) -> None:
    write_table(tmp_path / "t", document_columns(_table(), DOCS))
    table = read_table(tmp_path / "t")
    assert column_docs(table.schema) == DOCS
    assert table.equals(_table())


def test_column_docs__undocumented__is_empty() -> None:
    assert column_docs(_table().schema) == {}


def test_document_columns__missing_and_unknown__are_both_named() -> None:
    docs = {key: doc for key, doc in DOCS.items() if key != "pq"} | {"width": ColumnDoc("Width", "px")}
    with pytest.raises(ValueError, match=r"without documentation: \['pq'\]; documentation without column: \['width'\]"):
        document_columns(_table(), docs)


@pytest.mark.parametrize("data", [None, b"", b"PAR1 and nothing else PAR1"])
def test_read_table__damaged_or_missing__is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "t").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"Cannot read a table from .*/t: [\s\S]* Expected a Parquet file"):
        read_table(tmp_path / "t")


def test_read_table__missing_column__names_it_and_those_there(tmp_path: Path) -> None:
    write_table(tmp_path / "t", _table())
    with pytest.raises(ArtifactError, match=r"lacks the columns gflops; it has image_id, height, pq, feature_res5"):
        read_table(tmp_path / "t", ["gflops", "pq"])


def test_write_table__no_folder__is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot write .*/none/t: No such file"):
        write_table(tmp_path / "none" / "t", _table())
