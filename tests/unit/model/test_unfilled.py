"""A model built for weights that are yet to be loaded."""

import subprocess
import sys

import pytest
import torch

from ecocli.config.any_architecture import ALL_ARCHITECTURES
from ecocli.model.builders import build_model, build_unfilled
from ecocli.model.contracts import ExitNetwork

_ARCHITECTURES = ["m2f-shapes", "rt-m2f-shapes", "detr-shapes", "maskformer-shapes", "m2f-swin-t"]


@pytest.mark.parametrize("name", _ARCHITECTURES)
def test_build_unfilled__any_architecture__has_every_tensor_and_draws_nothing(name: str) -> None:
    before = torch.random.get_rng_state()
    unfilled = build_unfilled(ALL_ARCHITECTURES[name])
    assert torch.equal(torch.random.get_rng_state(), before)
    filled = build_model(ALL_ARCHITECTURES[name])
    assert _kinds(unfilled) == _kinds(filled)
    # What no weights file holds must be there: position indices and the like.
    for found, expected in zip(unfilled.buffers(), filled.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _kinds(model: ExitNetwork) -> dict[str, tuple[torch.Size, torch.dtype, torch.device]]:
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in model.state_dict().items()}


def test_build_unfilled__new_process__leaves_the_compiler_out() -> None:
    """It takes as long to import as torch itself."""
    script = (
        "import sys; from ecocli.config.any_architecture import ALL_ARCHITECTURES as A; "
        "from ecocli.model.builders import build_unfilled; build_unfilled(A['m2f-swin-t']); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
