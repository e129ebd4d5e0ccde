#!/usr/bin/env bash
# Usage: [GPUS=8] pipelines/coco-maskformer-r50/run.sh [WEIGHTS]; see ../recipe.sh.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh" coco-maskformer-r50 "$@"
