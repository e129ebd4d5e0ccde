#!/usr/bin/env bash
# Weighted, unweighted and single-exit training at equal steps on the built-in data, the paper's table 5 in miniature; and
# the built-in recipe, in the wall-clock of those with all exits.
# Usage: [DEPTHS="2 6"] pipelines/shapes-ablation/run.sh [OUT]; writes OUT/NAME.txt and .json and prints the tables.
# The names parent and evaluation then stand for the last of these; ECO_STORE=some/folder keeps them apart.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-ablation}
mkdir -p "$out"

compare() { # NAME OPTION...: train and score
  local name=$1 parent
  parent=$(eco train-parent --config "$here/train-parent.toml" --name "ablation-$name" "${@:2}")
  eco eval --config "$here/eval.toml" --parent "$parent" --no-gate --json >"$out/$name.json"
  echo "== $name ($parent)"
  eco eval --config "$here/eval.toml" --parent "$parent" --no-gate | tee "$out/$name.txt"
}

compare recipe --deepest-first 0.25 --exits-per-step 1 --set keep_deepest=false --alpha uniform --steps 1750 \
  --set optimizer.kind=muon --set optimizer.lr=4e-3
compare steep --alpha 0.5,0.75,1.25,2,6 # weights that grow faster than the depth
compare weighted --alpha depth
compare unweighted --alpha uniform
for depth in ${DEPTHS:-2 3 4 5 6}; do # a model of its own for every depth
  compare "single-$depth" --layers "$depth" --exits "$depth" --alpha depth --exits-per-step all
done
