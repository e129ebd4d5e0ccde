"""Writes ``cityscapes_values.json``: what cityscapesScripts finds on the drawn sets of ``helpers_cityscapes``.

The package is no part of the development tools: it requires ``typing``, an old copy of the standard library's module.
So its values are recorded. To record them again:

    pip install --no-deps cityscapesScripts==2.3.0 pyquaternion==0.9.9
    PYTHONPATH=tests python tests/parity/record_cityscapes.py
"""

import importlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from helpers_cityscapes import DrawnImage, draw_set
from PIL import Image

SEEDS = range(12)


def package_values(images: list[DrawnImage], folder: Path) -> dict[str, object]:
    """Write a drawn set as files and run both evaluators of the package on them."""
    # NumPy 2.4 has taken the name away that the package calls.
    np.in1d = np.isin
    package = "cityscapesscripts.evaluation"
    instance = importlib.import_module(f"{package}.evalInstanceLevelSemanticLabeling")
    pixel = importlib.import_module(f"{package}.evalPixelLevelSemanticLabeling")

    # It also writes what it matched, with NumPy's integers, which its writer takes for none.
    instance.writeDict2JSON = lambda *_: None
    truths, instance_files, label_files = [], [], []
    for number, image in enumerate(images):
        stem = folder / f"town_{number:06d}_000000"
        truth = Path(f"{stem}_gtFine_instanceIds.png")
        Image.fromarray(image.instance_ids.astype(np.uint16)).save(truth)
        labels = np.where(image.instance_ids < 1000, image.instance_ids, image.instance_ids // 1000)
        Image.fromarray(labels.astype(np.uint8)).save(str(truth).replace("instanceIds", "labelIds"))
        lines = []
        for index, (label, mask, confidence) in enumerate(image.predicted):
            Image.fromarray(mask.astype(np.uint8)).save(f"{stem}_{index}.png")
            lines.append(f"{stem.name}_{index}.png {label} {confidence}")
        Path(f"{stem}.txt").write_text("\n".join(lines))
        Image.fromarray(image.labels.astype(np.uint8)).save(f"{stem}_labels.png")
        truths.append(str(truth))
        instance_files.append(f"{stem}.txt")
        label_files.append(f"{stem}_labels.png")
    for one in (instance.args, pixel.args):
        one.quiet, one.JSONOutput = True, False
    instance.args.predictionPath = str(folder)
    instance.args.gtInstancesFile = str(folder / "gtInstances.json")
    found = instance.evaluateImgLists(instance_files, truths, instance.args)["averages"]
    pixels = pixel.evaluateImgLists(
        label_files, [truth.replace("instanceIds", "labelIds") for truth in truths], pixel.args
    )
    return {
        "ap": float(found["allAp"]),
        "ap50": float(found["allAp50%"]),
        "miou": float(pixels["averageScoreClasses"]),
        "iou": {name: iou for name, iou in pixels["classScores"].items() if not np.isnan(iou)},
    }


def main() -> None:
    """Record every set."""
    sets = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            sets.append({"seed": seed, **package_values(draw_set(seed), Path(folder).resolve())})
    origin = {"package": f"cityscapesScripts {version('cityscapesScripts')}", "numpy": version("numpy")}
    Path(__file__).with_name("cityscapes_values.json").write_text(json.dumps({**origin, "sets": sets}, indent=1) + "\n")


if __name__ == "__main__":
    main()
