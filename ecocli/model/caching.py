"""Tables of one size, made once and kept."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def cached_by_size(maxsize: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep what a function made of the last ``maxsize`` sizes.

    Inside ``torch.export`` sizes are symbols, which cannot be looked up, and the table becomes part of the graph: there
    the function runs anew.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        cached = lru_cache(maxsize=maxsize)(make)

        @wraps(make)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_exporting():
                return make(*args, **kwargs)
            return cached(*args, **kwargs)  # type: ignore[arg-type]  # sizes can be hashed

        return call

    return decorate
