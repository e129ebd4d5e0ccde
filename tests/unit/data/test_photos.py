"""Reading a user's pictures of every mode, and finding them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ecocli.data.photos import find_photos, read_photo
from ecocli.errors import DataError

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 100, 50], [0, 0, 0]]], np.uint8)
GREY = np.array([[0, 128, 255], [7, 8, 9]], np.uint8)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def mode_of(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.mode


def stacked(grey: np.ndarray) -> list[Any]:
    stack: list[Any] = np.repeat(grey[..., None], 3, axis=2).tolist()
    return stack


def test_read_photo__rgb__as_it_is(tmp_path: Path) -> None:
    assert read_photo(save(tmp_path / "a.png", Image.fromarray(RGB))).tolist() == RGB.tolist()


def test_read_photo__transparency__colours_kept(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).convert("RGBA")
    picture.putalpha(100)
    assert read_photo(save(tmp_path / "a.png", picture)).tolist() == RGB.tolist()


def test_read_photo__palette_with_transparency__colours_kept(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).quantize(8)
    path = save(tmp_path / "a.png", picture, transparency=bytes([0, 255, 30, 255, 255, 255, 255, 255]))
    assert mode_of(path) == "P"
    assert read_photo(path).tolist() == np.asarray(picture.convert("RGB")).tolist()


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_read_photo__grey__three_equal_channels(mode: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(GREY).convert(mode))
    assert read_photo(path).tolist() == stacked(GREY)


def test_read_photo__grey_of_16_bits__scaled_to_8(tmp_path: Path) -> None:
    # 257 times an 8-bit value is the same brightness in 16 bits.
    path = save(tmp_path / "a.png", Image.fromarray(GREY.astype(np.uint16) * 257))
    assert mode_of(path).startswith("I")
    assert read_photo(path).tolist() == stacked(GREY)


def test_read_photo__black_and_white__0_and_255(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, True]])
    assert read_photo(save(tmp_path / "a.png", Image.fromarray(bits)))[..., 0].tolist() == [[255, 0], [0, 255]]


def test_read_photo__cmyk_jpeg__rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (200, 20, 20)).convert("CMYK")
    mean = read_photo(save(tmp_path / "a.jpg", red)).mean(axis=(0, 1))
    assert mean[0] > 150 > mean[1]


def test_read_photo__turned_by_exif__upright(tmp_path: Path) -> None:
    # EXIF orientation 6: the camera was turned; the picture is upright after a quarter turn clockwise.
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)
    assert read_photo(path).tolist() == np.rot90(RGB, -1).tolist()


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 20])
def test_read_photo__no_picture__cannot_be_decoded(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded"):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_read_photo__truncated__cannot_be_decoded(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_photo(path)


def test_read_photo__absurdly_large__cannot_be_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(DataError, match=r"too large to be read .*decompression bomb"):
        read_photo(path)


def test_read_photo__missing__says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is missing"):
        read_photo(tmp_path / "a.png")


def test_find_photos__folder_pattern_and_file__each_once_in_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.tif", "sub/d.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folder = [tmp_path / "a.PNG", tmp_path / "b.jpg", tmp_path / "sub" / "c.tif"]
    assert find_photos([str(tmp_path)]) == folder
    assert find_photos([str(tmp_path / "*.jpg"), str(tmp_path)]) == [folder[1], folder[0], folder[2]]
    assert find_photos([str(tmp_path / "**" / "*.tif")]) == [folder[2]]
    # A file that is named is taken whatever it is called, and whether it is there or not.
    assert find_photos([str(tmp_path / "notes.txt"), "absent.jpg"]) == [tmp_path / "notes.txt", Path("absent.jpg")]


def test_find_photos__name_with_brackets__taken_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jpg").touch()
    assert find_photos([str(tmp_path / "a[1].jpg")]) == [tmp_path / "a[1].jpg"]


def test_find_photos__empty_folder__refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        find_photos([str(tmp_path)])


def test_find_photos__pattern_without_match__refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No file fits the pattern"):
        find_photos([str(tmp_path / "*.jpg")])
