"""Every reader of files from outside gets what hangs, floods or fools: the project's error comes, and soon."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecocli.artifacts.blobs import Blobs
from ecocli.artifacts.digest import sha256_bytes
from ecocli.artifacts.names import Names
from ecocli.artifacts.oci import Descriptor, parse_manifest, read_index
from ecocli.artifacts.tables import read_table
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.loading import load_toml, parse_assignments
from ecocli.data.annotations import read_annotations
from ecocli.data.photos import read_photo
from ecocli.data.pictures import read_picture
from ecocli.errors import EcoError
from ecocli.runtime.formats import parse_json, plain_text
from ecocli.weights.files import load_state, source_digest

READERS: dict[str, Callable[[Path], object]] = {
    "settings.toml": load_toml,
    "annotations.json": read_annotations,
    "index.json": read_index,
    "photo.png": read_photo,
    "panoptic.png": lambda path: read_picture(path, "panoptic PNG"),
    "table.parquet": read_table,
    "model.safetensors": load_state,
    "model.pth": load_state,
    "model.pkl": load_state,
    "weights.pkl": source_digest,
    "name.json": lambda path: Names(path.parent, path.parent / "index", path.parent).read("name"),
}
IRREGULAR: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}
CONTENTS = {
    "empty": b"",
    "zeros": bytes(4096),
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "nested toml": b"a = " + b"[" * 100_000,
    "long number": b"1" * 100_000,
    "long number in toml": b"a = " + b"1" * 100_000,
    "lone surrogate": b'{"digest": "\\ud800", "images": [], "annotations": [], "categories": []}',
    "no text": b"\xff\xfe\x00",
    "pickle": b"\x80\x04" + b"(" * 50_000,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", IRREGULAR)
def test_readers__no_regular_file__the_projects_error(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    IRREGULAR[kind](path)
    with pytest.raises(EcoError):
        READERS[name](path)


@pytest.mark.parametrize("name", [name for name in READERS if name != "weights.pkl"])
@pytest.mark.parametrize("content", CONTENTS)
def test_readers__hostile_content__the_projects_error_or_plain_data(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[content])
    if name == "settings.toml" and content == "empty":
        assert READERS[name](path) == {}
        return
    with pytest.raises(EcoError):
        READERS[name](path)


@pytest.mark.parametrize("size", [(20_000, 20_000), (1_000_000, 1_000_000), (2**31 - 1, 1)])
@pytest.mark.parametrize("name", ["photo.png", "panoptic.png"])
def test_read_picture__header_of_a_bomb__refused_before_it_is_decoded(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / name).write_bytes(data + chunk(b"IEND", b""))
    with pytest.raises(EcoError, match=r"too large|at most"):
        READERS[name](tmp_path / name)


def test_read_picture__other_size_than_annotated__refused_with_both(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    with pytest.raises(EcoError, match=r"is 8 x 4 pixels .* say 4 x 8"):
        read_picture(tmp_path / "a.png", "image", (4, 8))


@pytest.mark.parametrize("values, word", [(np.float32, "floating-point"), (np.int32, "grey values up to 100000")])
def test_read_picture__pixels_that_8_bits_cannot_show__refused_by_name(
    values: type[np.generic], word: str, tmp_path: Path
) -> None:
    Image.fromarray(np.full((4, 4), 100_000, values)).save(tmp_path / "a.tif")
    with pytest.raises(EcoError, match=word):
        read_picture(tmp_path / "a.tif", "image")


def test_blobs__manifest_of_two_gigabytes__refused_unread(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, tmp_path)
    digest = "sha256:" + "0" * 64
    with blobs.path(digest).open("wb") as file:
        file.truncate(2 << 30)
    descriptor = blobs.descriptor(digest)
    assert descriptor == Descriptor(digest, 2 << 30)
    with pytest.raises(EcoError, match=r"Manifest too large .*found 2,147,483,648 bytes.*at most 4,194,304"):
        blobs.read(descriptor, "artifact")


def test_blobs__link_in_place_of_a_blob__is_no_blob(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"content")
    descriptor = Descriptor(sha256_bytes(b"content"), 7)
    blobs.path(descriptor.digest).symlink_to(tmp_path / "elsewhere")
    fault = blobs.fault(descriptor, "artifact")
    assert fault is not None
    assert fault.problem == "Unreadable blob"


def test_plain_text__control_characters__replaced() -> None:
    assert plain_text("a\x1b[2Jb\nc\ud800") == "a\ufffd[2Jb\nc\ufffd"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_parse_json__what_json_wrote__comes_back(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_parse_manifest__any_bytes__an_error_of_the_project(data: bytes) -> None:
    with pytest.raises(EcoError):
        parse_manifest(data, "sha256:" + "0" * 64)


@given(st.text())
def test_parse_assignments__any_text__settings_or_an_error_of_the_project(text: str) -> None:
    try:
        found = parse_assignments([text])
    except EcoError:
        return
    assert isinstance(found, dict)


@given(data=st.binary(max_size=200), kind=st.sampled_from(["parquet", "safetensors", "png"]))
def test_readers__any_bytes__an_error_of_the_project(
    data: bytes, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    path.write_bytes(data)
    read = {"parquet": read_table, "safetensors": load_tensors, "png": read_photo}[kind]
    with pytest.raises(EcoError):
        read(path)
