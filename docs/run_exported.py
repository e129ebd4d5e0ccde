"""Run a folder that `eco export --format onnx | openvino` wrote: python run_exported.py FOLDER IMAGE OUT.png

Needs numpy, Pillow, and onnxruntime or openvino. Writes the panoptic map (pixel value: id of the segment).
"""
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image, ImageOps
plan = json.loads((Path(sys.argv[1]) / "plan.json").read_text())
arch, rule, gate = plan["architecture"], plan["resize"], plan["gate"]
def run(name):
    graph = plan["graphs"][name + "-%dx%d" % image.shape[2:] if len(plan["sizes"]) > 1 else name]
    path, given = str(Path(sys.argv[1]) / next(iter(graph["files"]))), {key: values[key] for key in graph["inputs"]}
    if plan["format"] == "onnx":
        import onnxruntime
        made = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(graph["outputs"], given)
    else:
        import openvino
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if plan["precision"] == "bfloat16" else "f32"}
        made = map(openvino.compile_model(path, "CPU", hint)(given).__getitem__, graph["outputs"])
    values.update(zip(graph["outputs"], made))
def resize(map_, h, w):  # bilinear without smoothing, as torch does it
    grid = (map_.shape[1] / w, 0, 0, 0, map_.shape[0] / h, 0)
    return np.array(Image.fromarray(map_).transform((w, h), Image.Transform.AFFINE, grid, Image.Resampling.BILINEAR))
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
(W, H), short, long = picture.size, rule["short_edge_px"], rule["long_edge_px"]
scale = min(short / min(H, W), (long or 1e9) / max(H, W)) if short else 1
h, w = int(H * scale + 0.5), int(W * scale + 0.5)
pixels = np.float32(picture.resize((w, h), Image.Resampling.BILINEAR)) - np.float32(arch["pixel_mean"])
image = np.zeros((1, 3, -(-h // 32) * 32, -(-w // 32) * 32), np.float32)
image[0, :, :h, :w] = (pixels / np.float32(arch["pixel_std"])).transpose(2, 0, 1)
values = {"image": image, "image_size": np.array([h, w])}
run("extract")
if gate: run("gate")
depth = gate["exit_depths"][int(values["scores"].argmax())] if gate else max(map(int, plan["exits"]))
for layer in plan["exits"][str(depth)]:
    run(layer)
    values["tokens"] = values["encoded"]
run("decode")
odds = np.exp(values["class_logits"][0]) / np.exp(values["class_logits"][0]).sum(1, keepdims=True)
label, score, found, stuff = odds.argmax(1), odds.max(1), np.zeros((H, W), np.uint16), {}
kept = np.flatnonzero((label < odds.shape[1] - 1) & (score > arch["object_mask_threshold"]))
masks = [resize(resize(mask, *image.shape[2:])[:h, :w], H, W) for mask in values["mask_logits"][0][kept]]
chance = 1 / (1 + np.exp(-np.array(masks)))
owner = (chance * score[kept, None, None]).argmax(0) if len(kept) else found
for query, index in enumerate(label[kept]):
    inside = chance[query] >= 0.5
    won = (owner == query) & inside
    if won.any() and (owner == query).sum() / inside.sum() >= arch["overlap_threshold"]:
        found[won] = stuff.get(index) or found.max() + 1
        if not plan["categories"][index]["is_thing"]: stuff[index] = found[won][0]
Image.fromarray(found).save(sys.argv[3])
print(json.dumps({"exit_depth": depth, "segments": int(found.max())}))
