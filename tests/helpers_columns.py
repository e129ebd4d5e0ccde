"""What the columns of a written table say of themselves."""

import pyarrow as pa

from ecocli.artifacts.tables import ColumnDoc


def column_docs(schema: pa.Schema) -> dict[str, ColumnDoc]:
    """Return the documentation that a table's columns carry; columns without any are left out."""
    found = {}
    for field in schema:
        metadata = field.metadata or {}
        if b"meaning" in metadata:
            found[field.name] = ColumnDoc(metadata[b"meaning"].decode(), metadata.get(b"unit", b"").decode())
    return found
