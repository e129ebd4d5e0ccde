#!/bin/sh
# Does an image work? Run inside it: docker run --rm --entrypoint sh IMAGE /usr/local/bin/eco-smoke
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ECO_STORE="$work/store"

eco --version
eco --help >"$work/help.txt"
grep -q fit-gate "$work/help.txt"
eco store ls

# A wrong command must be refused as wrong usage.
status=0
eco no-such-command 2>"$work/error.txt" || status=$?
test "$status" -eq 2

python - <<'PYTHON'
import torch

import ecocli

print("torch", torch.__version__, "GPU" if torch.cuda.is_available() else "no GPU")
PYTHON

# A parent of drawn scenes after one step: it finds little, but every part of a prediction runs.
cd "$work"
small="--data-root $work/data --set dataset.shapes.train=4 --set dataset.shapes.val=2"
eco train-parent --dataset shapes $small --steps 1 --batch-size 2 --device cpu --threads 1
eco predict "$work/data/shapes/val" --exit 2 --out "$work/predicted" --device cpu
grep -q '"annotations"' "$work/predicted/panoptic.json"

# The same as graphs, where the image has an engine.
if python -c "import importlib.util as u, sys; sys.exit(u.find_spec('onnxruntime') is None)"; then
  eco export "$work/graphs" --format onnx --exit 2
  eco predict "$work/data/shapes/val" --exported "$work/graphs" --out "$work/by-engine"
  grep -q '"annotations"' "$work/by-engine/panoptic.json"
fi

# The originals, where the image has them.
if python -c "import importlib.util as u, sys; sys.exit(u.find_spec('detectron2') is None)"; then
  python -c "import detectron2, panopticapi; print('detectron2', detectron2.__version__)"
fi
echo "smoke test passed"
