#!/usr/bin/env bash
# All three steps of a recipe of this folder, its evaluation and a report; stdout is the evaluation's table.
# Step A is set by the recipe's own train-parent.toml, what follows by the files of its data set in coco or cityscapes.
# Usage: [GPUS=8] pipelines/recipe.sh FOLDER [WEIGHTS]
#   WEIGHTS  published Mask2Former or backbone weights, or a parent; without them everything starts from chance
# Data: ECO_DATASETS. The same line again resumes a run that was stopped or killed.
set -euo pipefail
recipe=$1
dataset=${recipe%%-*}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
init=(${2:+--init "$2"})
many=(eco)
if [ "${GPUS:-1}" -gt 1 ]; then
  many=(torchrun --standalone --nproc-per-node "$GPUS" -m ecocli)
  # What torchrun passes on to its processes, and the seconds it then gives them to save.
  export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 PET_SHUTDOWN_TIMEOUT=240
fi

eco data check "$dataset" --fast >&2
parent=$("${many[@]}" train-parent --config "$here/$recipe/train-parent.toml" --name "$recipe-parent" "${init[@]}")
derived=$("${many[@]}" derive --config "$here/$dataset/derive.toml" --parent "$parent" --name "$recipe-derived")
gate=$(eco fit-gate --config "$here/$dataset/fit-gate.toml" --derived "$derived" --name "$recipe-gate")
"${many[@]}" eval --config "$here/$dataset/eval.toml" --parent "$parent" --gate "$gate" --name "$recipe-report"
eco report --evaluation "$recipe-report" --out "$recipe-report" >&2
