#!/usr/bin/env bash
# Usage: [GPUS=8] pipelines/coco-lite-m2f-swin-t/run.sh [WEIGHTS]; see ../recipe.sh.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh" coco-lite-m2f-swin-t "$@"
