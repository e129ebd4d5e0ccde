#!/usr/bin/env bash
# The whole recipe on the drawn scenes: train, derive, fit gates, evaluate, report. Two cores, no GPU, eleven minutes.
# Usage: pipelines/shapes/run.sh [FOLDER]; the report goes to FOLDER (default quickstart).
# Data: datasets, store: .eco, unless ECO_DATASETS and ECO_STORE say otherwise. The same line again resumes after a
# kill and reuses what is done.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-quickstart}

parent=$(eco train-parent --config "$here/train-parent.toml")
# For images this small one thread each in two processes beats two threads in one. What the silent half leaves undone
# (both can be killed at any moment) the last call does; it joins the parts.
derive=(eco derive --config "$here/derive.toml" --parent "$parent" --threads 1)
"${derive[@]}" --shard 1/2 >/dev/null 2>&1 &
"${derive[@]}" --shard 0/2 >/dev/null
wait || true
derived=$("${derive[@]}" --shard 0/1)
# Several prices of compute for the trade-off plot; the last gate is the one evaluated.
for beta in 0.002 0.01 0.015 0.03 0.005; do
  gate=$(eco fit-gate --config "$here/fit-gate.toml" --derived "$derived" --beta "$beta")
done
eco profile --parent "$parent" --dataset shapes
eco eval --config "$here/eval.toml" --parent "$parent" --gate "$gate"
printf 'parent  %s\nderived %s\ngate    %s\n' "$parent" "$derived" "$gate"
printf 'report  %s\n' "$(eco report --out "$out")"
