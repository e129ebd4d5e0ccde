"""Early-exit Mask2Former. In Python: ``from ecocli import load``; on the command line: ``eco``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecocli.api import Model, Result, Segment, load

__all__ = ["Model", "Result", "Segment", "load"]


def __getattr__(name: str) -> object:
    # torch is loaded by whoever asks for a name, not by `import ecocli`.
    if name in __all__:
        from ecocli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
