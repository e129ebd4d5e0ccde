"""Prediction of a user's own images, end to end with a small random model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers_predict import put_gate, put_parent
from PIL import Image

from ecocli.artifacts.lineage import parent_of_gate
from ecocli.artifacts.store import Store
from ecocli.config.dataset import ResizeConfig
from ecocli.config.predict import PredictConfig
from ecocli.errors import ArtifactError, DataError, InterruptedRunError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.distributed import World
from ecocli.stages.predict import PredictReport, run, unique_names


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def photo(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(path)
    return path


def predict(store: Store, inputs: dict[str, str], images: list[Path], out: Path, **settings: Any) -> PredictReport:
    config = PredictConfig(images=tuple(map(str, images)), out=str(out), **settings)
    return run(config, inputs, store, Runtime.quiet())


def read_map(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
    return rgb @ np.array([1, 256, 65536])


def test_run__two_sizes__json_describes_the_pngs(tmp_path: Path, store: Store) -> None:
    parent = put_parent(store)
    images = [photo(tmp_path / "a.png"), photo(tmp_path / "b.jpg", 33, 70, seed=1)]
    report = predict(store, {"parent": parent}, images, tmp_path / "out", semantic=True, instances=True)
    report.check()
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [(i["id"], i["height"], i["width"]) for i in content["images"]] == [(1, 40, 56), (2, 33, 70)]
    assert [c["isthing"] for c in content["categories"]] == [1, 1, 0, 0]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        found = read_map(tmp_path / "out" / "panoptic" / annotation["file_name"])
        assert found.shape == (image["height"], image["width"])
        # Areas and boxes counted anew from the PNG.
        assert annotation["segments_info"]
        assert set(np.unique(found)) - {0} == {s["id"] for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(found == segment["id"])
            assert segment["area"] == len(rows)
            width, height = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
            assert segment["bbox"] == [columns.min(), rows.min(), width, height]
            assert segment["category_id"] in (2, 5, 9, 12)
        assert annotation["exit_depth"] == 3
        with Image.open(tmp_path / "out" / "semantic" / annotation["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert set(np.unique(np.asarray(picture))) <= {2, 5, 9, 12}
    instances = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert {row["image_id"] for row in instances} == {1, 2}
    assert {row["category_id"] for row in instances} <= {2, 5}
    assert all(0.0 <= row["score"] <= 1.0 for row in instances)
    assert {path.name for path in (tmp_path / "out").rglob("*.tmp")} == set()
    assert all(result.files["overlay"].is_file() for result in report.photos)


def test_run__bad_file_among_good_ones__left_out_and_reported(tmp_path: Path, store: Store) -> None:
    parent = put_parent(store)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = [photo(tmp_path / "a.png"), tmp_path / "bad.png", tmp_path / "absent.png", photo(tmp_path / "c.png")]
    report = predict(store, {"parent": parent}, images, tmp_path / "out", overlays=False)
    assert [result.image_id for result in report.photos] == [1, 4]
    with pytest.raises(DataError, match=r"2 of 4 images could not be read.*bad\.png cannot.*absent\.png is missing"):
        report.check()
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [annotation["image_id"] for annotation in content["annotations"]] == [1, 4]
    assert not (tmp_path / "out" / "overlays").exists()


def test_run__only_bad_files__nothing_written(tmp_path: Path, store: Store) -> None:
    report = predict(store, {"parent": put_parent(store)}, [tmp_path / "absent.png"], tmp_path / "out")
    with pytest.raises(DataError, match="1 of 1 images"):
        report.check()
    assert not (tmp_path / "out").exists()


def test_run__turned_by_exif__same_as_turned_by_hand(tmp_path: Path, store: Store) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo(tmp_path / "plain.png")) as plain:
        plain.save(tmp_path / "turned.png", exif=exif)
        plain.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    images = [tmp_path / "turned.png", tmp_path / "upright.png"]
    predict(store, {"parent": put_parent(store)}, images, tmp_path / "out")
    turned, upright = (read_map(tmp_path / "out" / "panoptic" / image.name) for image in images)
    assert turned.shape == (56, 40)
    assert (turned == upright).all()


def test_run__gate__its_exit_and_the_same_map_as_that_exit(tmp_path: Path, store: Store) -> None:
    parent = put_parent(store)
    gate = put_gate(store, parent, [0.0, 1.0, 0.0])
    image = photo(tmp_path / "a.png")
    gated = predict(store, {"parent": parent, "gate": gate}, [image], tmp_path / "gated")
    fixed = predict(store, {"parent": parent}, [image], tmp_path / "fixed", exit_depth=2)
    deepest = predict(store, {"parent": parent}, [image], tmp_path / "deepest")
    assert [report.photos[0].exit_depth for report in (gated, fixed, deepest)] == [2, 2, 3]
    maps = [read_map(report.photos[0].files["panoptic"]) for report in (gated, fixed, deepest)]
    assert (maps[0] == maps[1]).all()
    assert (maps[1] != maps[2]).any()


def test_run__gate_of_another_parent__refused(tmp_path: Path, store: Store) -> None:
    gate = put_gate(store, put_parent(store, seed=4), [0.0, 0.0, 0.0])
    other = put_parent(store)
    with pytest.raises(ArtifactError, match="was fitted for the parent"):
        predict(store, {"parent": other, "gate": gate}, [photo(tmp_path / "a.png")], tmp_path / "out")


def test_parent_of_gate__table_without_parent__refused(store: Store) -> None:
    gate = put_gate(store, None, [0.0, 0.0, 0.0])
    with pytest.raises(ArtifactError, match="does not say which parent"):
        parent_of_gate(store, gate)


def test_run__exit_that_is_none__refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="no exit at depth 4; it has 1, 2, 3"):
        predict(store, {"parent": put_parent(store)}, [photo(tmp_path / "a.png")], tmp_path / "out", exit_depth=4)


def test_run__size_rule_of_the_parent__changes_the_input_not_the_result_size(tmp_path: Path, store: Store) -> None:
    image, rule = photo(tmp_path / "a.png"), ResizeConfig(short_edge_px=64, long_edge_px=100)
    recorded = predict(store, {"parent": put_parent(store, rule)}, [image], tmp_path / "1").photos[0]
    said = predict(store, {"parent": put_parent(store)}, [image], tmp_path / "2", test_resize=rule).photos[0]
    plain = predict(store, {"parent": put_parent(store)}, [image], tmp_path / "3").photos[0]
    assert read_map(recorded.files["panoptic"]).shape == (40, 56)
    assert (read_map(recorded.files["panoptic"]) == read_map(said.files["panoptic"])).all()
    assert (read_map(recorded.files["panoptic"]) != read_map(plain.files["panoptic"])).any()


@pytest.mark.parametrize("height,width", [(1, 1), (1, 200), (90, 3)])
def test_run__tiny_and_thin__still_a_map(height: int, width: int, tmp_path: Path, store: Store) -> None:
    Image.new("RGB", (width, height), (90, 120, 30)).save(tmp_path / "a.png")
    parent = put_parent(store, ResizeConfig(short_edge_px=64, long_edge_px=128))
    result = predict(store, {"parent": parent}, [tmp_path / "a.png"], tmp_path / "out").photos[0]
    assert read_map(result.files["panoptic"]).shape == (height, width)


def test_run__large_image__overlay_is_smaller_than_the_map(tmp_path: Path, store: Store) -> None:
    Image.new("RGB", (2400, 30), (90, 120, 30)).save(tmp_path / "a.png")
    parent = put_parent(store, ResizeConfig(short_edge_px=32, long_edge_px=64))
    result = predict(store, {"parent": parent}, [tmp_path / "a.png"], tmp_path / "out").photos[0]
    with Image.open(result.files["overlay"]) as overlay:
        assert overlay.size == (1600, 20)
    assert read_map(result.files["panoptic"]).shape == (30, 2400)


def test_run__stop_requested__what_is_done_is_kept(tmp_path: Path, store: Store) -> None:
    images = [photo(tmp_path / "a.png"), photo(tmp_path / "b.png")]
    runtime = Runtime.quiet()
    runtime.stop.requested = True
    config = PredictConfig(images=tuple(map(str, images)), out=str(tmp_path / "out"))
    report = run(config, {"parent": put_parent(store)}, store, runtime)
    with pytest.raises(InterruptedRunError, match="Stopped after 0 of 2 images"):
        report.check()


def test_run__folder_that_cannot_be_written__names_it(tmp_path: Path, store: Store) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match=r"Cannot write .*out: .*name another folder with --out"):
        predict(store, {"parent": put_parent(store)}, [photo(tmp_path / "a.png")], tmp_path / "out")


def test_unique_names__equal_stems__numbered() -> None:
    paths = [Path("x/a.png"), Path("y/a.jpg"), Path("a-2.png"), Path("b.png")]
    assert unique_names(paths) == ["a", "a-2", "a-2-2", "b"]


class _Rank(World):
    """One of two processes, run one after the other: hands over what it gathered."""

    handed_over: ClassVar[list[Any]] = []

    def gather_objects(self, obj: Any) -> list[Any]:
        self.handed_over.append(obj)
        return list(self.handed_over)


def test_run__two_processes__same_files_as_one(tmp_path: Path, store: Store) -> None:
    parent = put_parent(store)
    images = [photo(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("abc")]
    alone = predict(store, {"parent": parent}, images, tmp_path / "alone")
    config = PredictConfig(images=tuple(map(str, images)), out=str(tmp_path / "shared"))
    for rank in (1, 0):
        report = run(config, {"parent": parent}, store, replace(Runtime.quiet(), world=_Rank(rank, 2)))
        assert (tmp_path / "shared" / "panoptic.json").exists() == (rank == 0)
    assert [result.image_id for result in report.photos] == [1, 2, 3]
    for path in sorted((tmp_path / "alone").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "shared" / path.relative_to(tmp_path / "alone")).read_bytes()
    assert len(alone.photos) == 3
