"""Tables in Parquet files: compact, quick to read, and documented column by column.

zstd level 1; dictionary only for text columns; BYTE_STREAM_SPLIT for vectors (fixed-size lists) of float32 and float64,
but not of float16, where it would save another 8 % and DuckDB 2.0 could not read the file; row groups of 8192. Measured
on half-empty float16 features: 1.3 times smaller and 4 times quicker to read than pyarrow's defaults. Same table and
same pyarrow give the same bytes; the file names the pyarrow version that wrote it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecocli.errors import ArtifactError
from ecocli.runtime.files import open_regular, replacing

ROW_GROUP_ROWS = 8192
# What a table may unfold to, with 8 bytes for every value. Counts of eco's own tables are 30 times smaller on disk.
_BYTES_A_VALUE = 8
_LEAST_LIMIT_BYTES = 512 << 20
_LARGEST_FACTOR = 200


@dataclass(frozen=True)
class ColumnDoc:
    """What a column holds.

    Attributes:
        unit: Such as ``px``, ``ms``, ``ratio 0..1``; empty where there is none.
    """

    meaning: str
    unit: str = ""


def document_columns(table: pa.Table, docs: Mapping[str, ColumnDoc]) -> pa.Table:
    """Return the table with the meaning and unit of every column in its schema, which Parquet keeps.

    Raises:
        ValueError: A column has no documentation, or a documented column does not exist.
    """
    missing = sorted(set(table.column_names) - set(docs))
    unknown = sorted(set(docs) - set(table.column_names))
    if missing or unknown:
        raise ValueError(f"Columns without documentation: {missing}; documentation without column: {unknown}.")
    fields = [
        field.with_metadata({"meaning": docs[field.name].meaning, "unit": docs[field.name].unit})
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file that appears whole or not at all.

    Raises:
        UsageError: The file system refuses.
    """
    encoding: dict[str, Any] = {
        "use_dictionary": [field.name for field in table.schema if _is_text(field.type)],
        "column_encoding": dict.fromkeys(_vector_columns(table.schema), "BYTE_STREAM_SPLIT") or None,
    }
    with replacing(path, path.parent) as file:
        pq.write_table(
            table.combine_chunks(),
            file,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=1,
            **encoding,
        )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file.

    Args:
        path: The file; blobs of a store have no extension, which does not matter.
        columns: Read only these; None reads all.

    Raises:
        ArtifactError: The file is missing, no Parquet file, or lacks a column.
    """
    try:
        with open_regular(path) as file:
            parquet = pq.ParquetFile(file)
            _check_size(path, parquet.metadata)
            absent = sorted(set(columns or ()) - set(parquet.schema_arrow.names))
            if absent:
                raise ArtifactError(
                    f"The table {path} lacks the columns {', '.join(absent)}; it has "
                    f"{', '.join(parquet.schema_arrow.names)}. Make it again with this version of eco."
                )
            return parquet.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def column_names(path: Path) -> tuple[str, ...]:
    """Names of the columns of a Parquet file.

    Raises:
        ArtifactError: The file is missing, or no Parquet file.
    """
    try:
        with open_regular(path) as file:
            return tuple(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _check_size(path: Path, metadata: pq.FileMetaData) -> None:
    """Refuse a small file that says of itself that it unfolds to a huge table.

    Rows alone are counted: to ask a damaged file about its columns ends the process inside pyarrow.
    """
    size = path.stat().st_size
    limit = max(_LEAST_LIMIT_BYTES, _LARGEST_FACTOR * size)
    if metadata.num_rows * _BYTES_A_VALUE > limit:
        raise ArtifactError(
            f"The table {path} of {size:,} bytes claims {metadata.num_rows:,} rows, more than {limit:,} bytes of "
            "memory would hold. It is none that eco wrote."
        )


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"Cannot read a table from {path}: {error}. Expected a Parquet file; `eco store verify` checks the store."
    )


def _vector_columns(schema: pa.Schema) -> Iterator[str]:
    # Parquet names the values of a list column FIELD.list.element.
    for field in schema:
        if not pa.types.is_fixed_size_list(field.type):
            continue
        if pa.types.is_float32(field.type.value_type) or pa.types.is_float64(field.type.value_type):
            yield f"{field.name}.list.element"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
