#!/usr/bin/env bash
# Submits the three steps of a recipe, each after the one before. Give account and partition as SBATCH_ACCOUNT and
# SBATCH_PARTITION, the store and the data as ECO_STORE and ECO_DATASETS.
# Usage: pipelines/slurm/submit.sh pipelines/coco-r50 [WEIGHTS]
set -euo pipefail
folder=$1
recipe=$(basename "$folder")
shared=$(dirname "$folder")/${recipe%%-*} # the files of the recipe's data set
init=(${2:+--init "$2"})
jobs=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

parent=$(sbatch --parsable "$jobs/train-parent.sbatch" \
  --config "$folder/train-parent.toml" --name "$recipe-parent" "${init[@]}")
derived=$(sbatch --parsable --dependency="afterok:${parent%%;*}" "$jobs/derive.sbatch" \
  --config "$shared/derive.toml" --parent "$recipe-parent" --name "$recipe-derived")
gate=$(sbatch --parsable --dependency="afterok:${derived%%;*}" "$jobs/fit-gate.sbatch" \
  --config "$shared/fit-gate.toml" --derived "$recipe-derived" --name "$recipe-gate")
echo "train-parent $parent, derive $derived, fit-gate $gate"
