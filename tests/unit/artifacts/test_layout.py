"""Making a store: in an empty place, never over something else."""

from pathlib import Path

import pytest
from helpers_store import put_gate

from ecocli.artifacts.layout import Layout
from ecocli.artifacts.oci import build_index, index_entry
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, UsageError


def test_create__missing_folder__makes_an_oci_layout(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b").create()
    root = tmp_path / "a" / "b"
    assert (root / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    assert (root / "index.json").is_file()
    assert (root / "blobs" / "sha256").is_dir()
    Layout(root).check_marker()


def test_create__twice__changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put_gate(store, names=("mine",))
    index = store.layout.index.read_bytes()
    store.create()
    assert store.layout.index.read_bytes() == index


def test_create__folder_with_other_files__is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"is no store: found thesis\.tex, expected an empty folder or an OCI layout"):
        Store(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_create__layout_of_another_tool__is_refused(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "index.json").write_bytes(build_index([index_entry("x", "sha256:" + "a" * 64, 1)]))
    with pytest.raises(UsageError, match="is an OCI layout made by another tool, and using it as a store would drop"):
        Store(tmp_path).create()


def test_create__another_process_is_making_it__joins_in(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "eco").mkdir()
    Store(tmp_path).create()
    Layout(tmp_path).check_marker()


def test_create__file_in_its_place__is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    with pytest.raises(UsageError, match=r"Cannot write .*/store/eco/tmp: Not a directory"):
        Store(tmp_path / "store").create()


@pytest.mark.parametrize("data, found", [(None, "no file"), (b'{"imageLayoutVersion":"2.0.0"}', "2.0.0"), (b"", "''")])
def test_check_marker__other_version__is_refused(tmp_path: Path, data: bytes | None, found: str) -> None:
    if data is not None:
        (tmp_path / "oci-layout").write_bytes(data)
    with pytest.raises(ArtifactError, match=f"is no OCI image layout: .*oci-layout has .*{found}"):
        Layout(tmp_path).check_marker()
