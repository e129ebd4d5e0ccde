"""The bridge to detectron2, where that is installed: what its model, evaluator and visualiser see is eco's result."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_export import pictures, put_tiny
from helpers_inference import tiny_dataset_config
from PIL import Image

import ecocli
from ecocli.artifacts.store import Store
from ecocli.config.architecture import ARCHITECTURES
from ecocli.data.categories import SHAPES
from ecocli.data.photos import read_photo
from ecocli.errors import UsageError

pytest.importorskip("detectron2", reason="detectron2 is not installed (it is on no package index)")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bridge")
    put_tiny(Store(folder / "store"), pictures(folder / "pictures"))
    return folder


def built(place: Path, **settings: object) -> torch.nn.Module:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from ecocli.bridges.detectron2 import add_eco_config

    cfg = get_cfg()
    add_eco_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ECO.merge_from_list([str(x) for pair in ({"STORE": place / "store"} | settings).items() for x in pair])
    return build_model(cfg).eval()


def entry(path: Path, **further: object) -> dict[str, object]:
    image = read_photo(path)
    size = {"height": image.shape[0], "width": image.shape[1]}
    return {"image": torch.from_numpy(image.transpose(2, 0, 1).astype("float32")), **size, **further}


def test_forward__gate_chooses_in_a_mixed_batch__results_are_ecos(place: Path) -> None:
    model = built(place, GATE="gate")
    assert sum(p.numel() for p in model.parameters()) > 0
    paths = sorted((place / "pictures").iterdir())
    eco = ecocli.load(gate="gate", store=place / "store", device="cpu")
    taken = set()
    for found, path in zip(model([entry(path) for path in paths]), paths, strict=True):
        expected = eco(path)
        ids, segments = found["panoptic_seg"]
        assert found["exit_depth"] == expected.exit_depth
        assert np.array_equal(ids.numpy(), expected.panoptic)
        ranks = [SHAPES[segment["category_id"]].id for segment in segments]
        assert ranks == [segment.category_id for segment in expected.segments]
        best = found["sem_seg"].max(dim=0).indices.numpy()
        assert (np.array([c.id for c in SHAPES])[best] != expected.semantic).mean() < 0.001
        assert found["instances"].scores.tolist() == [one.score for one in expected.instances]
        for mask, one in zip(found["instances"].pred_masks.bool().numpy(), expected.instances, strict=True):
            assert np.array_equal(mask, one.mask)
        taken.add(found["exit_depth"])
    assert len(taken) > 1


def test_forward__in_training__refused(place: Path) -> None:
    with pytest.raises(UsageError, match="predicts only"):
        built(place, PARENT="parent").train()([])


def test_register_dataset__evaluator_and_visualiser__read_its_metadata(place: Path, tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOPanopticEvaluator
    from detectron2.utils.visualizer import Visualizer

    from ecocli.bridges.detectron2 import register_dataset

    name = register_dataset(tiny_dataset_config(tmp_path / "data"), "val")
    rows, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    truth = json.loads(Path(metadata.panoptic_json).read_text())
    assert len(rows) == len(truth["images"])
    named = {category["id"]: category["name"] for category in truth["categories"]}
    for row, annotation in zip(rows, truth["annotations"], strict=True):
        truth_names = [named[segment["category_id"]] for segment in annotation["segments_info"]]
        assert [metadata.stuff_classes[segment["category_id"]] for segment in row["segments_info"]] == truth_names
    model = built(place, PARENT="parent", EXIT=2)
    inputs = [entry(Path(row["file_name"]), file_name=row["file_name"], image_id=row["image_id"]) for row in rows]
    outputs = model(inputs)
    # Before the evaluator, which writes into them.
    expected = [[SHAPES[s["category_id"]].id for s in output["panoptic_seg"][1]] for output in outputs]
    drawn = Visualizer(np.asarray(Image.open(rows[0]["file_name"])), metadata)
    assert drawn.draw_panoptic_seg(*outputs[0]["panoptic_seg"]).get_image().any()
    evaluator = COCOPanopticEvaluator(name, str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process(inputs, outputs)
    assert len(evaluator._predictions) == len(rows)
    assert [[s["category_id"] for s in found["segments_info"]] for found in evaluator._predictions] == expected
    assert any(expected)


# Of Mask2Former's configs/coco/panoptic-segmentation, cut to what says how large the model is.
R50 = """
MODEL:
  BACKBONE: {FREEZE_AT: 0, NAME: build_resnet_backbone}
  WEIGHTS: "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {DEPTH: 50, STEM_TYPE: basic, STEM_OUT_CHANNELS: 64, STRIDE_IN_1X1: False}
  META_ARCHITECTURE: MaskFormer
  SEM_SEG_HEAD:
    NUM_CLASSES: 133
    CONVS_DIM: 256
    MASK_DIM: 256
    PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    NHEADS: 8
    DIM_FEEDFORWARD: 2048
    DEC_LAYERS: 10
    NUM_OBJECT_QUERIES: 100
    TEST: {OVERLAP_THRESHOLD: 0.8, OBJECT_MASK_THRESHOLD: 0.8}
"""
SWIN_L = """
_BASE_: r50.yaml
MODEL:
  BACKBONE: {NAME: D2SwinTransformer}
  SWIN: {EMBED_DIM: 192, DEPTHS: [2, 2, 18, 2], NUM_HEADS: [6, 12, 24, 48], WINDOW_SIZE: 12}
  MASK_FORMER: {NUM_OBJECT_QUERIES: 200}
"""


def test_read_architecture__mask2formers_yaml__the_presets(tmp_path: Path) -> None:
    from ecocli.bridges.detectron2 import read_architecture

    (tmp_path / "r50.yaml").write_text(R50)
    (tmp_path / "swin_l.yaml").write_text(SWIN_L)
    for file, preset in (("r50", "m2f-r50"), ("swin_l", "m2f-swin-l-384")):
        found = read_architecture(tmp_path / f"{file}.yaml")
        assert found.model_copy(update={"name": preset}) == ARCHITECTURES[preset]


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("MSDeformAttnPixelDecoder", "BasePixelDecoder", "pixel decoder BasePixelDecoder"),
        ("DEPTH: 50", "DEPTH: 34", "depth 34"),
    ],
)
def test_read_architecture__another_model__refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    from ecocli.bridges.detectron2 import read_architecture

    (tmp_path / "other.yaml").write_text(R50.replace(old, new))
    with pytest.raises(UsageError, match=message):
        read_architecture(tmp_path / "other.yaml")
