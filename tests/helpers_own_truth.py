"""A data set whose ground truth is a random model's own word, so that its exits differ in quality and none is zero."""

import json
from pathlib import Path

import torch
from helpers_inference import EXIT_DEPTHS, RULE, tiny_model

from ecocli.config.dataset import DatasetConfig
from ecocli.data.categories import SHAPES
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import encode_id_map
from ecocli.inference.coco_output import category_entries, segment_entries
from ecocli.inference.predictor import predict_exits
from ecocli.scoring.batches import load_batch


def make_own_truth(source: DatasetConfig, folder: Path) -> DatasetConfig:
    """Write the splits of a drawn data set anew, image n annotated with what exit n mod E of the tiny model predicts.

    Args:
        source: Gives the images.
        folder: For annotations and the TOML file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model()
    toml = ['name = "own-truth"']
    for split in ("train", "val"):
        dataset = open_dataset(source, split)
        content: dict[str, list[object]] = {
            "categories": list(category_entries(SHAPES)),
            "images": [],
            "annotations": [],
        }
        (folder / split).mkdir()
        for position, record in enumerate(dataset.records):
            batch = load_batch(dataset, [position], source.test_resize, model, "cpu").images
            with torch.no_grad():
                exits = list(predict_exits(model, model.extract(batch.images), batch, EXIT_DEPTHS))
            panoptic_map, segments = exits[position % len(exits)][0].panoptic(RULE)
            name = f"{record.image_id}.png"
            encode_id_map(panoptic_map).save(folder / split / name)
            number = int(record.image_id)
            size = {"height": record.height, "width": record.width}
            content["images"].append({"id": number, "file_name": record.file_name, **size})
            infos = segment_entries(panoptic_map, segments)
            content["annotations"].append({"image_id": number, "file_name": name, "segments_info": infos})
        (folder / f"{split}.json").write_text(json.dumps(content))
        toml.append(
            f'[splits.{split}]\nimages = "{dataset.image_root}"\nannotations = "{split}.json"\npanoptic = "{split}"'
        )
    (folder / "own.toml").write_text("\n".join(toml))
    resize = source.test_resize.model_dump()
    return DatasetConfig.model_validate({"name": str(folder / "own.toml"), "test_resize": resize})
