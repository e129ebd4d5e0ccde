"""Drawn scenes cut to several sizes, since real data sets have more than one; some share a padded size, some do not."""

from pathlib import Path

from helpers_data import Scene, write_split

from ecocli.config.dataset import DatasetConfig
from ecocli.data.datasets import open_dataset

SIZES = ((64, 64), (50, 64), (30, 64))
"""Height and width of image n: the n-th, taken in turn. Padded to multiples of 32 the first two are alike."""


def cut_to_sizes(source: DatasetConfig, folder: Path) -> DatasetConfig:
    """Write the splits of a data set of 64 x 64 pixels anew, every image cut to one of ``SIZES``.

    Args:
        source: Gives images and ground truth.
        folder: For images, annotations and the TOML file.
    """
    toml = ['name = "cut"']
    for split in ("train", "val"):
        dataset = open_dataset(source, split)
        scenes = []
        for position, record in enumerate(dataset.records):
            height, width = SIZES[position % len(SIZES)]
            id_map = dataset.load_panoptic(record)[:height, :width]
            categories = {s.id: s.category_id for s in record.segments if (id_map == s.id).any()}
            image = dataset.load_image(record)[:height, :width]
            scenes.append(Scene(int(record.image_id), id_map, categories, image=image))
        write_split(scenes, dataset.categories, folder / split, folder / f"{split}-ids", folder / f"{split}.json")
        toml.append(f'[splits.{split}]\nimages = "{split}"\nannotations = "{split}.json"\npanoptic = "{split}-ids"')
    (folder / "cut.toml").write_text("\n".join(toml))
    return DatasetConfig.model_validate(
        {"name": str(folder / "cut.toml"), "test_resize": source.test_resize.model_dump()}
    )
