"""Counting of operations on the ``meta`` device: what runs under a meter is counted, nothing is computed.

Source: the convention of the papers of this field, which is fvcore's count of the original Mask2Former at batch 1: one
multiply-add is one operation (so "GFLOPs" are giga-multiply-adds); layer and group norm cost 5 per element, batch norm
2, bilinear resizing 4 per output element; softmax, activations, sums and indexing nothing. Two pieces of real work cost
nothing there either, because that tool does not see them: the deformable sampling, and the query-key product of masked
cross-attention. The convention ``all`` counts them too.

Differences from the source: torch's formulas on the ``meta`` device (no weights, no memory, no images) instead of a
trace on a CPU, where fused attention would count nothing (RT-DETR's own attention among tokens does, and is left out
here too); no rounding of einsums to four digits.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ecocli.config.profile_model import ConventionName

_PER_GFLOP = 1e9
# torch's counter counts a multiply-add as two, so every formula here does as well.
_COUNTER_UNITS = 2


def _per_element(cost: int) -> Callable[..., int]:
    def formula(source: Tensor, *_args: object, **_kwargs: object) -> int:
        return _COUNTER_UNITS * cost * source.numel()

    return formula


def _bilinear(*_args: object, out_val: Tensor, **_kwargs: object) -> int:
    """Four corners per output element."""
    return _COUNTER_UNITS * 4 * out_val.numel()


def _copied(*_args: object, out_val: Tensor, **_kwargs: object) -> int:
    return _COUNTER_UNITS * out_val.numel()


def _gathered(rows: Tensor, index: Tensor, *_args: object, **_kwargs: object) -> int:
    return _COUNTER_UNITS * rows.shape[-1] * index.numel()


_aten = torch.ops.aten
_SAMPLING_OPERATORS = (_aten.grid_sampler_2d, _aten._embedding_bag, _aten._embedding_bag_forward_only)
# Torch's own formulas (convolutions, products, attention), and what they lack.
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _aten.native_layer_norm: _per_element(5),
    _aten.native_group_norm: _per_element(5),
    _aten.native_batch_norm: _per_element(2),
    _aten.upsample_bilinear2d: _bilinear,
    _aten.upsample_nearest2d: _copied,
    _aten.grid_sampler_2d: _bilinear,
    _aten._embedding_bag: _gathered,
    _aten._embedding_bag_forward_only: _gathered,
}


def _broadcast(*sources: Any, **_kwargs: object) -> Tensor:
    tensors = [source for source in sources if isinstance(source, Tensor)]
    dtype = tensors[0].dtype if len(tensors) == 1 else torch.result_type(*tensors[:2])
    return torch.empty(np.broadcast_shapes(*(source.shape for source in tensors)), dtype=dtype, device="meta")


def _product(_bias: Tensor, left: Tensor, right: Tensor, **_kwargs: object) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def _normalised(source: Tensor, *_args: object, **_kwargs: object) -> tuple[Tensor, Tensor, Tensor]:
    statistics = source.new_empty(source.shape[:-1])
    return source.new_empty(source.shape), statistics, statistics


def _resized(source: Tensor, size: Sequence[int], *_args: object, **_kwargs: object) -> Tensor:
    return source.new_empty(*source.shape[:2], *size)


def _sampled(source: Tensor, grid: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    return source.new_empty(*source.shape[:2], *grid.shape[1:3])


# Results known from shapes at once: torch's meta kernels for these are written in Python and took nine tenths of the
# time (0.7 s instead of 0.1 s for one size).
_RESULTS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((_aten.add, _aten.sub, _aten.mul, _aten.div, _aten.relu, _aten.relu_, _aten.gelu), _broadcast),
    _aten._safe_softmax: _broadcast,
    _aten.addmm: _product,
    _aten.native_layer_norm: _normalised,
    _aten.upsample_bilinear2d: _resized,
    _aten.grid_sampler_2d: _sampled,
}


@dataclass(frozen=True)
class Reading:
    """Multiply-adds counted so far: in the papers' convention, of it bilinear resizing, and what that leaves out."""

    paper: int
    resizing: int
    sampling: int
    masked_products: int

    @property
    def resizing_gflops(self) -> float:
        """Bilinear resizing in the unit of tables."""
        return self.resizing / _PER_GFLOP

    def __sub__(self, earlier: "Reading") -> "Reading":
        return Reading(
            self.paper - earlier.paper,
            self.resizing - earlier.resizing,
            self.sampling - earlier.sampling,
            self.masked_products - earlier.masked_products,
        )

    def gflops(self, convention: ConventionName) -> float:
        """In the unit of tables."""
        macs = self.paper + (self.sampling + self.masked_products if convention == "all" else 0)
        return macs / _PER_GFLOP


class _OperatorCosts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
    """Adds up what every operator costs, in torch's units.

    The formulas of torch's ``FlopCounterMode`` without its attempt to decompose every other operator and its tracking
    of modules, which cost most of the time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.by_operator: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = func.overloadpacket
        out = _RESULTS.get(operator, func)(*args, **kwargs)
        if operator in _FORMULAS:
            self.by_operator[operator] += _FORMULAS[operator](*args, **kwargs, out_val=out)
        return out


class _MaskedProducts(TorchFunctionMode):
    """Adds up the products that the source's tool does not see, in multiply-adds.

    These are the query-key products of attention under a boolean mask, and both products of attention that is fused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.fused = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            # A float mask is a bias, added after a product that the source's tool does see.
            products = 2 if self.fused else int(mask is not None and mask.dtype == torch.bool)
            self.macs += products * args[0].numel() * args[1].shape[-2]
        return func(*args, **kwargs)


class Meter:
    """Counts all that runs while it is entered; parts are differences of readings."""

    def __init__(self) -> None:
        self._operators = _OperatorCosts()
        self._products = _MaskedProducts()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for context in (torch.no_grad(), self._products, self._operators):
            self._stack.enter_context(context)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def take_as_fused(self, attention: nn.Module) -> Callable[[], None]:
        """Count a module's attention as torch's fused kernel, which the source's tool does not see.

        Returns:
            Ends it.
        """

        def enter(*_hook_arguments: object) -> None:
            self._products.fused = True

        def leave(*_hook_arguments: object) -> None:
            self._products.fused = False

        hooks = (attention.register_forward_pre_hook(enter), attention.register_forward_hook(leave))

        def end() -> None:
            for hook in hooks:
                hook.remove()

        return end

    def read(self) -> Reading:
        """All that was counted since the meter was made."""
        costs = self._operators.by_operator
        sampling = sum(costs[operator] for operator in _SAMPLING_OPERATORS) // _COUNTER_UNITS
        resizing = costs[_aten.upsample_bilinear2d] // _COUNTER_UNITS
        paper = costs.total() // _COUNTER_UNITS - sampling - self._products.macs
        return Reading(paper, resizing, sampling, self._products.macs)
