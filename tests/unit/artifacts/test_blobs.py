"""Blobs: content addressing, verification, and repair by putting again."""

import os
from pathlib import Path

import pytest
from helpers_store import flip_bit, overwrite

from ecocli.artifacts import blobs as module
from ecocli.artifacts.blobs import Blobs
from ecocli.artifacts.digest import sha256_bytes
from ecocli.artifacts.oci import Descriptor
from ecocli.errors import ArtifactError, DataError


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "tmp").mkdir()
    return Blobs(tmp_path / "blobs", tmp_path / "tmp")


def test_put_bytes__content__stands_read_only_under_its_digest(blobs: Blobs) -> None:
    blob = blobs.put_bytes(b"abc")
    assert blob == Descriptor(sha256_bytes(b"abc"), 3)
    path = blobs.path(blob.digest)
    assert path.name == sha256_bytes(b"abc")[7:]
    assert path.stat().st_mode & 0o222 == 0


def test_put_file__same_content__gives_same_blob(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc" * 1_000_000)
    assert blobs.put_file(tmp_path / "source") == blobs.put_bytes(b"abc" * 1_000_000)
    assert blobs.path(blobs.put_file(tmp_path / "source").digest).read_bytes() == b"abc" * 1_000_000
    assert list((tmp_path / "tmp").iterdir()) == []


def test_put_file__missing_source__is_refused(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*/missing to store it: No such file"):
        blobs.put_file(tmp_path / "missing")


def test_put_file__source_changes_meanwhile__is_refused_and_leaves_nothing(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"one")
    keep = Blobs._keep

    def change_then_keep(self: Blobs, descriptor: Descriptor) -> bool:
        source.write_bytes(b"two")
        return keep(self, descriptor)

    monkeypatch.setattr(module.Blobs, "_keep", change_then_keep)
    with pytest.raises(DataError, match=r"source changed while it was taken into the store"):
        blobs.put_file(source)
    assert list(blobs.directory.iterdir()) == []


@pytest.mark.parametrize("damaged", [b"abX", b"ab", b""])
def test_put_bytes__over_damaged_blob__repairs_it(blobs: Blobs, damaged: bytes) -> None:
    blob = blobs.put_bytes(b"abc")
    overwrite(blobs.path(blob.digest), damaged)
    blobs.put_bytes(b"abc")
    assert blobs.read(blob, "test") == b"abc"


def test_put_bytes__present_blob__is_refreshed_not_rewritten(blobs: Blobs) -> None:
    path = blobs.path(blobs.put_bytes(b"abc").digest)
    os.utime(path, (1, 1))
    inode = path.stat().st_ino
    blobs.put_bytes(b"abc")
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1_000_000_000


def test_check__flipped_bit__names_file_expected_and_found(blobs: Blobs) -> None:
    blob = blobs.put_bytes(b"abc")
    flip_bit(blobs.path(blob.digest))
    # The middle byte of "abc" is "b" (0x62); its lowest bit flipped gives "c" (0x63).
    found = sha256_bytes(b"acc")
    message = rf"Damaged file gate\.bin of gate X: found the digest {found} at .*, expected the digest {blob.digest}\."
    with pytest.raises(ArtifactError, match=message):
        blobs.check(Descriptor(blob.digest, 3, "gate.bin"), "gate X")


def test_check__truncated__names_both_sizes_and_the_remedy(blobs: Blobs) -> None:
    blob = blobs.put_bytes(b"abc")
    overwrite(blobs.path(blob.digest), b"ab")
    message = r"Wrong size of blob of gate X: found 2 bytes at .*, expected 3 bytes\. Run .* --force"
    with pytest.raises(ArtifactError, match=message):
        blobs.check(blob, "gate X")


def test_check__missing__says_so(blobs: Blobs) -> None:
    blob = Descriptor(sha256_bytes(b"abc"), 3)
    with pytest.raises(ArtifactError, match=r"Missing blob of gate X: found no file at .*, expected sha256:ba78"):
        blobs.check(blob, "gate X")


def test_fault__folder_in_place_of_blob__is_unreadable(blobs: Blobs) -> None:
    blob = Descriptor(sha256_bytes(b"abc"), 3)
    blobs.path(blob.digest).mkdir()
    fault = blobs.fault(Descriptor(blob.digest, blobs.path(blob.digest).stat().st_size), "x")
    assert fault is not None
    assert (fault.problem, fault.found) == ("Unreadable blob", "the error 'It is a folder, not a regular file'")


def test_fault__not_full__trusts_the_content(blobs: Blobs) -> None:
    blob = blobs.put_bytes(b"abc")
    flip_bit(blobs.path(blob.digest))
    assert blobs.fault(blob, "", full=False) is None
    assert blobs.fault(blob, "") is not None


def test_descriptor__missing__is_none(blobs: Blobs) -> None:
    assert blobs.descriptor(sha256_bytes(b"abc")) is None
    assert blobs.descriptor(blobs.put_bytes(b"abc").digest) == Descriptor(sha256_bytes(b"abc"), 3)
