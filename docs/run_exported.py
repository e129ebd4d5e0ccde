"""Run a folder that `eco export --format onnx | openvino` wrote: python run_exported.py FOLDER IMAGE OUT.png

Needs numpy, Pillow, and onnxruntime or openvino. Writes the panoptic map (pixel value: id of the segment).
"""
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image

plan = json.loads((Path(sys.argv[1]) / "plan.json").read_text())
arch, rule, graphs = plan["architecture"], plan["resize"], plan["graphs"]
files = {name: str(Path(sys.argv[1]) / next(iter(graph["files"]))) for name, graph in graphs.items()}
if plan["format"] == "onnx":
    import onnxruntime
    opened = {name: onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for name, file in files.items()}
else:
    import openvino
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if plan["precision"] == "bfloat16" else "f32"}
    opened = {name: openvino.compile_model(file, "CPU", hint) for name, file in files.items()}
def run(name):
    given, outputs = {key: values[key] for key in graphs[name]["inputs"]}, graphs[name]["outputs"]
    made = opened[name].run(outputs, given) if plan["format"] == "onnx" else map(opened[name](given).__getitem__, outputs)
    values.update(zip(outputs, made))
def resize(maps, *size):  # bilinear, as torch does it
    for axis, n in (1, size[0]), (2, size[1]):
        at = np.maximum((np.arange(n) + 0.5) * maps.shape[axis] / n - 0.5, 0)
        low, part = at.astype(int), (at % 1).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
        maps = maps.take(low, axis) * (1 - part) + maps.take(np.minimum(low + 1, maps.shape[axis] - 1), axis) * part
    return maps
picture = Image.open(sys.argv[2]).convert("RGB")
(W, H), short, long = picture.size, rule["short_edge_px"], rule["long_edge_px"]
scale = min(short / min(H, W), (long or 1e9) / max(H, W)) if short else 1
h, w = int(H * scale + 0.5), int(W * scale + 0.5)
pixels = np.float32(picture.resize((w, h), Image.Resampling.BILINEAR)) - np.float32(arch["pixel_mean"])
values = {"image": np.zeros((1, 3, -(-h // 32) * 32, -(-w // 32) * 32), np.float32), "image_size": np.array([h, w])}
values["image"][0, :, :h, :w] = (pixels / np.float32(arch["pixel_std"])).transpose(2, 0, 1)
run("extract")
if plan["gate"]: run("gate")
depth = plan["gate"]["exit_depths"][int(values["scores"].argmax())] if plan["gate"] else max(map(int, plan["exits"]))
for layer in plan["exits"][str(depth)]:
    run(layer)
    values["tokens"] = values["encoded"]
run("decode")
odds = np.exp(values["class_logits"][0]) / np.exp(values["class_logits"][0]).sum(1, keepdims=True)
label, score, found, stuff = odds.argmax(1), odds.max(1), np.zeros((H, W), np.uint16), {}
kept = (label < odds.shape[1] - 1) & (score > arch["object_mask_threshold"])
masks = resize(resize(values["mask_logits"][0][kept], *values["image"].shape[2:])[:, :h, :w], H, W)
chance = 1 / (1 + np.exp(-masks))
owner = (chance * score[kept, None, None]).argmax(0) if kept.any() else found
for query, index in enumerate(label[kept]):
    won, whole = (owner == query) & (chance[query] >= 0.5), (chance[query] >= 0.5).sum()
    if won.any() and (owner == query).sum() / whole >= arch["overlap_threshold"]:
        found[won] = stuff.get(index) or found.max() + 1
        if not plan["categories"][index]["is_thing"]: stuff[index] = found[won][0]
Image.fromarray(found).save(sys.argv[3])
print(json.dumps({"exit_depth": depth, "segments": int(found.max())}))
