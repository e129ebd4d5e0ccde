"""Prediction from Python: what goes in, what comes out, and what `import ecocli` loads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_export import pictures, put_tiny
from PIL import Image

import ecocli
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.inference.postprocess import semantic_map


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    put_tiny(Store(folder / "store"), pictures(folder / "pictures"))
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> ecocli.Model:
    return ecocli.load("parent", gate="gate", store=place / "store", device="cpu")


def test_import__package_alone__loads_no_torch() -> None:
    script = "import sys, ecocli; assert 'torch' not in sys.modules; assert callable(ecocli.load)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120).returncode == 0


def test_load__public_names__import_no_command() -> None:
    script = (
        "import sys; from ecocli import load; assert not [n for n in sys.modules if n.startswith('ecocli.commands')]"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120).returncode == 0


def test_model__path_picture_array_and_list__same_result(place: Path, model: ecocli.Model) -> None:
    path = place / "pictures" / "1.png"
    picture = Image.open(path)
    expected = model(path)
    for found in (model(str(path)), model(picture), model(np.asarray(picture)), *model([path, picture])):
        assert found.exit_depth == expected.exit_depth
        np.testing.assert_array_equal(found.panoptic, expected.panoptic)


def test_model__grey_array__is_the_picture_of_three_equal_channels(model: ecocli.Model) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    np.testing.assert_array_equal(model(grey).mask_logits, model(np.stack([grey] * 3, axis=2)).mask_logits)


def test_result__its_parts__describe_one_prediction(place: Path, model: ecocli.Model) -> None:
    result = model(place / "pictures" / "1.png")
    assert result.panoptic.shape == result.semantic.shape == (90, 120)
    assert result.segments
    assert {segment.id for segment in result.segments} == set(np.unique(result.panoptic).tolist()) - {0}
    names = {category.id: category.name for category in model.categories}
    for segment in result.segments:
        assert segment.area_px == (result.panoptic == segment.id).sum()
        assert segment.name == names[segment.category_id]
        # The tiny model's threshold.
        assert 0.3 < segment.score <= 1
        # Some query has this probability for this class.
        shifted = np.exp(result.class_logits - result.class_logits.max(axis=1, keepdims=True))
        odds = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
        assert np.abs(odds - segment.score).min() < 1e-5
    assert set(np.unique(result.semantic)) <= set(names)
    prediction = result._prediction
    index = semantic_map(prediction.pred_logits, prediction.pred_masks, prediction.geometry).numpy()
    assert names[int(result.semantic[40, 60])] == model.categories[int(index[40, 60])].name
    assert [instance.score for instance in result.instances] == sorted(
        (i.score for i in result.instances), reverse=True
    )
    assert all(instance.mask.shape == (90, 120) for instance in result.instances)
    # Drawn at three times the size, so that names are readable.
    assert result.overlay().size == (360, 270)


def test_load__gate_alone__takes_its_parent_and_price(place: Path) -> None:
    dear = ecocli.load(gate="gate", beta=1e3, store=place / "store", device="cpu")
    assert {result.exit_depth for result in dear(sorted((place / "pictures").iterdir()))} == {1}


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"exit": 9}, UsageError, "no exit at depth 9"),
        ({"gate": "gate", "exit": 2}, UsageError, "Give one of them"),
        ({"parent": "other"}, ArtifactError, "'other' is unknown"),
        ({"engine": "onnxruntime"}, UsageError, "runs exported graphs"),
        ({"device": "tpu"}, UsageError, "expected one of auto, cpu, cuda"),
    ],
)
def test_load__what_is_not_there__refused(
    options: dict[str, object], error: type[Exception], message: str, place: Path
) -> None:
    with pytest.raises(error, match=message):
        ecocli.load(**{"store": place / "store", "device": "cpu", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 4, 4, 3)])
def test_model__array_that_is_no_image__refused(shape: tuple[int, ...], model: ecocli.Model) -> None:
    with pytest.raises(DataError, match=r"is no image\. Expected bytes"):
        model(np.zeros(shape, np.uint8))
