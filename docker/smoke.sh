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

# The originals, where the image has them.
if python -c "import importlib.util as u, sys; sys.exit(u.find_spec('detectron2') is None)"; then
  python -c "import detectron2, panopticapi; print('detectron2', detectron2.__version__)"
fi
echo "smoke test passed"
