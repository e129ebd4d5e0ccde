#!/usr/bin/env bash
# The whole recipe of detection on drawn boxes: train, derive, fit gates, sweep, evaluate, report. One core, no GPU, a quarter of an hour.
# Usage: pipelines/shapes-detr/run.sh PARENT [FOLDER]
#   PARENT  the parent of ../shapes, whose backbone training starts from
#   FOLDER  for the report and the sweep (default shapes-detr)
# The scenes are others than those of ../shapes: they are drawn in the folder shapes-detr below ECO_DATASETS (datasets).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
start=$1
out=${2:-shapes-detr}
export ECO_DATASETS="${ECO_DATASETS:-datasets}/shapes-detr"

parent=$(eco train-parent --config "$here/train-parent.toml" --init "$start" --name shapes-detr-parent)
derived=$(eco derive --config "$here/derive.toml" --parent "$parent" --name shapes-detr-derived)
gate=$(eco fit-gate --config "$here/fit-gate.toml" --derived "$derived" --beta 0 --name shapes-detr-gate)
eco sweep --derived "$derived" --beta 0,0.001,0.002,0.005,0.01 --out "$out"
eco eval --config "$here/eval.toml" --parent "$parent" --gate "$gate" --name shapes-detr-evaluation
printf 'parent  %s\nderived %s\ngate    %s\n' "$parent" "$derived" "$gate"
printf 'report  %s\n' "$(eco report --evaluation shapes-detr-evaluation --out "$out")"
