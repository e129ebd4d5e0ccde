"""Run a folder that `eco export --format onnx | openvino` wrote: python run_exported.py FOLDER IMAGE OUT.png

Needs numpy, Pillow, and onnxruntime or openvino. Writes the panoptic map (pixel value: id of the segment).
"""
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

folder, plan = Path(sys.argv[1]), json.loads((Path(sys.argv[1]) / "plan.json").read_text())
def load(entry):
    path = str(folder / next(iter(entry["files"])))
    if plan["format"] == "onnx":
        import onnxruntime
        return lambda x, s=onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]): s.run(None, x)
    import openvino
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if plan["precision"] == "bfloat16" else "f32"}
    return lambda x, m=openvino.compile_model(path, "CPU", hint): [m(x)[name] for name in entry["outputs"]]
graphs = {name: load(entry) for name, entry in plan["graphs"].items()}
def run(name, values): return graphs[name]({key: values[key] for key in plan["graphs"][name]["inputs"]})
def resize(maps, *size):  # bilinear, as torch does it
    for axis, n in (1, size[0]), (2, size[1]):
        at = np.maximum((np.arange(n) + 0.5) * maps.shape[axis] / n - 0.5, 0)
        low, part = at.astype(int), (at % 1).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
        high = np.minimum(low + 1, maps.shape[axis] - 1)
        maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
    return maps
picture, arch, rule = Image.open(sys.argv[2]).convert("RGB"), plan["architecture"], plan["resize"]
W, H = picture.size
scale = 1 if rule["short_edge_px"] is None else rule["short_edge_px"] / min(H, W)
scale = min(scale, (rule["long_edge_px"] or 1e9) / max(H, W)) if rule["short_edge_px"] else scale
h, w = int(H * scale + 0.5), int(W * scale + 0.5)
pixels = (np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR)) - np.float32(arch["pixel_mean"])) / np.float32(arch["pixel_std"])
padded = np.zeros((1, 3, -(-h // 32) * 32, -(-w // 32) * 32), np.float32)
padded[0, :, :h, :w] = pixels.transpose(2, 0, 1)
values = {"image": padded, "image_size": np.array([h, w], np.int64)}
values |= zip(plan["graphs"]["extract"]["outputs"], run("extract", values))
depth = max(map(int, plan["exits"]))
if plan["gate"]: depth = plan["gate"]["exit_depths"][int(run("gate", values)[0].argmax())]
for layer in plan["exits"][str(depth)]: values["tokens"] = run(layer, values)[0]
logits, masks = (x[0] for x in run("decode", values))
odds = np.exp(logits - logits.max(1, keepdims=True)); odds /= odds.sum(1, keepdims=True)
label, score = odds.argmax(1), odds.max(1)
kept = (label < odds.shape[1] - 1) & (score > arch["object_mask_threshold"])
found, stuff = np.zeros((H, W), np.int32), {}
if kept.any():
    chance = 1 / (1 + np.exp(-resize(resize(masks[kept], *padded.shape[2:])[:, :h, :w], H, W)))
    owner = (chance * score[kept, None, None]).argmax(0)
    for query, index in enumerate(label[kept]):
        won, whole = (owner == query) & (chance[query] >= 0.5), (chance[query] >= 0.5).sum()
        if won.any() and (owner == query).sum() / whole >= arch["overlap_threshold"]:
            found[won] = stuff.get(index) or found.max() + 1
            if not plan["categories"][index]["is_thing"]: stuff[index] = found[won][0]
Image.fromarray(found.astype(np.uint16)).save(sys.argv[3])
print(json.dumps({"exit_depth": depth, "segments": int(found.max())}))
