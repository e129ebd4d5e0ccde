"""Compilation of the backbone by torch, where a C++ compiler (on a CPU) or Triton (on a GPU) is there.

Only the backbone: it has one shape per image size. On a CPU a ResNet-50 gains some hundredths and Swin-T nothing, now
that norms are folded and blocks tiled; with bfloat16 a ResNet-50 gains a twentieth. The encoder's index arithmetic was
measured too and is slower compiled than as it stands; in training it breaks into more than ten graphs, whose
compilation takes minutes.
"""

from collections.abc import Callable

import torch

from ecocli.model.contracts import ExitNetwork


def compile_backbone(model: ExitNetwork, warn: Callable[[str], None]) -> bool:
    """Compile the backbone in place, or leave the model as it is and say why.

    Every new image size is compiled anew when it first comes, which takes from seconds to a minute.

    Args:
        model: On its device, in evaluation mode or to be trained; its state dict stays as it is.
        warn: Told once if this machine cannot compile.

    Returns:
        Whether it will be compiled.
    """
    device = next(model.parameters()).device
    try:
        # The only sure way to know: compilers are looked for when they are needed.
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warn(f"torch.compile does not work on this machine, so the network runs uncompiled: {reason}")
        return False
    model.backbone.compile(dynamic=False)
    return True
