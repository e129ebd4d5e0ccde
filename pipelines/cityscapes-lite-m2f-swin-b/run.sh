#!/usr/bin/env bash
# Usage: [GPUS=8] pipelines/cityscapes-lite-m2f-swin-b/run.sh [WEIGHTS]; see ../recipe.sh.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh" cityscapes-lite-m2f-swin-b "$@"
