"""A parent and its gate inside detectron2: its predictor, evaluators and visualiser run the gated model.

``EcoMask2Former`` takes detectron2's ``batched_inputs`` and gives what Mask2Former's own class gives, and the exit
taken. Every image runs by itself, at its own exit. Class indices are eco's, over things and stuff together, as in
Mask2Former; the metadata that ``register_dataset`` writes translates them. Importing this module registers the class.

    cfg = get_cfg()
    add_eco_config(cfg)
    cfg.MODEL.ECO.PARENT, cfg.MODEL.ECO.GATE = "parent", "gate"
    predictor = DefaultPredictor(cfg)

Axes: K classes, H W pixels. Interfaces: detectron2 (Apache-2.0) at commit 02b5c4e and Mask2Former's configurations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, BoxMode, Instances
from torch import Tensor, nn

from ecocli.api import load
from ecocli.config.architecture import (
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from ecocli.config.dataset import DatasetConfig
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import UsageError
from ecocli.inference.postprocess import instance_inference, semantic_inference
from ecocli.inference.predictor import ImagePrediction

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_NORMS: Mapping[str, Any] = {"FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "sync_bn", "GN": "gn"}


def add_eco_config(cfg: CfgNode) -> None:
    """Add eco's settings to a configuration of detectron2, and name its model.

    ``MODEL.ECO``: ``STORE`` (folder, "" for the default), ``PARENT`` (name or digest, "" for the gate's), ``GATE``,
    ``EXIT`` (0 for the deepest), ``BETA`` (negative for the gate's own), ``PRECISION``.
    """
    cfg.MODEL.META_ARCHITECTURE = "EcoMask2Former"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.ECO = CfgNode({"STORE": "", "PARENT": "", "GATE": "", "EXIT": 0, "BETA": -1.0, "PRECISION": "float32"})


@META_ARCH_REGISTRY.register()
class EcoMask2Former(nn.Module):
    """A model of eco's behind detectron2's interface.

    Args:
        cfg: A configuration that ``add_eco_config`` extended.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        eco = cfg.MODEL.ECO
        predictor = load(
            eco.PARENT or None,
            gate=eco.GATE or None,
            exit=eco.EXIT or None,
            beta=None if eco.BETA < 0 else eco.BETA,
            device=cfg.MODEL.DEVICE,
            precision=eco.PRECISION,
            store=eco.STORE or None,
        )._predictor
        self._flip = cfg.INPUT.FORMAT == "BGR"
        # As modules, so that detectron2 counts, saves and finds their parameters.
        self.network = predictor.model
        self.gate = None if predictor.gate is None else predictor.gate.gate
        self._predictor = predictor

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self._predictor.device)

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict.

        Args:
            batched_inputs: Of every image ``image`` [3, H, W] in grey levels, resized for the network, and ``height``
                and ``width`` of the results, by default its own.

        Returns:
            Of every image ``panoptic_seg`` (map of segment ids, their descriptions), ``sem_seg`` [K, H, W],
            ``instances`` and ``exit_depth``.

        Raises:
            UsageError: The model is in training mode: parents are trained by ``eco train-parent``.
        """
        if self.training:
            raise UsageError("EcoMask2Former predicts only. Train parents with `eco train-parent`.")
        return [self._predict(entry) for entry in batched_inputs]

    def _predict(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        image = entry["image"].flip(0) if self._flip else entry["image"]
        pixels = image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        size = int(entry.get("height", pixels.shape[0])), int(entry.get("width", pixels.shape[1]))
        predictor = self._predictor
        found = predictor.run(pixels, size)
        ids, segments = found.panoptic(predictor.rule)
        described = [
            {
                "id": segment.id,
                "isthing": segment.is_thing,
                "category_id": segment.class_index,
                "score": segment.score,
                "area": segment.area,
            }
            for segment in segments
        ]
        return {
            "panoptic_seg": (torch.from_numpy(ids).to(self.device), described),
            "sem_seg": semantic_inference(found.pred_logits, found.pred_masks, found.geometry),
            "instances": _instances(found, predictor.rule.is_thing),
            "exit_depth": found.exit_depth,
        }


def _instances(prediction: ImagePrediction, is_thing: Sequence[bool]) -> Instances:
    found = instance_inference(prediction.pred_logits, prediction.pred_masks, prediction.geometry, is_thing)
    masks: Tensor = found.masks[found.mask_index]
    result = Instances(prediction.geometry.original_size)
    result.pred_masks = masks.float()
    result.pred_boxes = BitMasks(masks).get_bounding_boxes()
    result.scores = found.score
    result.pred_classes = found.class_index
    return result


def register_dataset(dataset: DatasetConfig, split: str) -> str:
    """Register a split of a data set in detectron2's catalogs.

    Returns:
        Its name there, ``eco_<name>_<split>``.

    Raises:
        DataError: It is missing or faulty.
    """
    opened = open_dataset(dataset, split)
    name = f"eco_{Path(dataset.name).stem}_{split}"
    index = opened.class_index
    names = [category.name for category in opened.categories]
    DatasetCatalog.register(name, lambda: _dictionaries(opened))
    MetadataCatalog.get(name).set(
        evaluator_type="coco_panoptic_seg",
        panoptic_json=str(opened.annotation_file),
        panoptic_root=str(opened.panoptic_root),
        image_root=str(opened.image_root),
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id={c.id: index[c.id] for c in opened.categories if c.is_thing},
        stuff_dataset_id_to_contiguous_id={c.id: index[c.id] for c in opened.categories if not c.is_thing},
        ignore_label=255,
        label_divisor=1000,
    )
    return name


def _dictionaries(dataset: PanopticDataset) -> list[dict[str, Any]]:
    things = {category.id: category.is_thing for category in dataset.categories}
    return [
        {
            "file_name": str(dataset.image_path(record)),
            "image_id": dataset.json_image_id(record),
            "height": record.height,
            "width": record.width,
            "pan_seg_file_name": str(dataset.panoptic_path(record)),
            "segments_info": [
                {
                    "id": segment.id,
                    "category_id": dataset.class_index[segment.category_id],
                    "isthing": things[segment.category_id],
                    "iscrowd": int(segment.is_crowd),
                    "bbox": list(segment.bbox),
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "area": segment.area,
                }
                for segment in record.segments
            ],
        }
        for record in dataset.records
    ]


def read_architecture(path: str | Path) -> ArchitectureConfig:
    """Read the architecture that one of Mask2Former's YAML files describes, its ``_BASE_`` files included.

    Raises:
        UsageError: It describes another architecture than eco builds.
    """
    cfg = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    model = cfg.get("MODEL", {})
    head, former = model.get("SEM_SEG_HEAD", {}), model.get("MASK_FORMER", {})
    if head.get("PIXEL_DECODER_NAME") != "MSDeformAttnPixelDecoder":
        raise UsageError(
            f"{path} has the pixel decoder {head.get('PIXEL_DECODER_NAME')}, expected MSDeformAttnPixelDecoder."
        )
    test = former.get("TEST", {})
    means, stds = model.get("PIXEL_MEAN"), model.get("PIXEL_STD")
    statistics: dict[str, Any] = {} if means is None else {"pixel_mean": tuple(map(float, means))}
    statistics |= {} if stds is None else {"pixel_std": tuple(map(float, stds))}
    hidden = int(head.get("CONVS_DIM", 256))
    return ArchitectureConfig(
        name=Path(path).stem,
        backbone=_backbone(model, path),
        pixel_decoder=PixelDecoderConfig(
            hidden_dim=hidden,
            mask_dim=int(head.get("MASK_DIM", 256)),
            encoder=DeformableEncoderConfig(layers=int(head.get("TRANSFORMER_ENC_LAYERS", 0))),
        ),
        transformer_decoder=TransformerDecoderConfig(
            # Mask2Former counts the prediction from the raw queries as a layer.
            layers=int(former.get("DEC_LAYERS", 10)) - 1,
            heads=int(former.get("NHEADS", 8)),
            feedforward_dim=int(former.get("DIM_FEEDFORWARD", 2048)),
            num_queries=int(former.get("NUM_OBJECT_QUERIES", 100)),
        ),
        num_classes=int(head.get("NUM_CLASSES", 133)),
        object_mask_threshold=float(test.get("OBJECT_MASK_THRESHOLD", 0.8)),
        overlap_threshold=float(test.get("OVERLAP_THRESHOLD", 0.8)),
        **statistics,
    )


def _backbone(model: Mapping[str, Any], path: str | Path) -> ResNetConfig | SwinConfig:
    name = model.get("BACKBONE", {}).get("NAME")
    if name == "D2SwinTransformer":
        swin = model.get("SWIN", {})
        return SwinConfig(
            embed_dim=int(swin.get("EMBED_DIM", 96)),
            depths=tuple(swin.get("DEPTHS", (2, 2, 6, 2))),
            num_heads=tuple(swin.get("NUM_HEADS", (3, 6, 12, 24))),
            window_size=int(swin.get("WINDOW_SIZE", 7)),
            drop_path_rate=float(swin.get("DROP_PATH_RATE", 0.3)),
        )
    resnet = model.get("RESNETS", {})
    depth, norm = resnet.get("DEPTH", 50), resnet.get("NORM", "FrozenBN")
    if name != "build_resnet_backbone" or depth not in _BLOCKS or norm not in _NORMS:
        raise UsageError(
            f"{path} has the backbone {name} (depth {depth}, norm {norm}), expected D2SwinTransformer, or "
            f"build_resnet_backbone of depth {', '.join(map(str, _BLOCKS))}."
        )
    return ResNetConfig(
        blocks=_BLOCKS[depth],
        stem_channels=int(resnet.get("STEM_OUT_CHANNELS", 64)),
        res2_channels=int(resnet.get("RES2_OUT_CHANNELS", 256)),
        bottleneck_channels=int(resnet.get("NUM_GROUPS", 1)) * int(resnet.get("WIDTH_PER_GROUP", 64)),
        norm=_NORMS[norm],
        stride_in_1x1=bool(resnet.get("STRIDE_IN_1X1", True)),
    )
