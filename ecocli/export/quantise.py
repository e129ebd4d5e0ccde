"""Graphs with int8 products, by NNCF's quantisation after training: scales come from images, weights are not trained.

What stays in float32 is in ``IN_FLOAT``, chosen by measuring (docs/deployment.md). The graph of the gate stays as it
is: it is one small product, and its decisions are the point of it.
"""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ecocli.config.exported import GraphEntry
from ecocli.errors import UsageError
from ecocli.export.folder import file_digests
from ecocli.inference.engines import EngineModel

IN_FLOAT: Mapping[str, tuple[str, ...]] = {
    "extract": (r".*\.backbone\.(stem|res2|patch_embed)\b.*", r".*\.pixel_decoder\.(input_proj|adapter_1)\b.*"),
    # Products without a module make the masks.
    "decode": (r".*\.predictor\.(class_embed|mask_embed)\b.*", r".*\.pixel_decoder\.layer_1\b.*", r"/.*"),
}
"""Patterns of what is not quantised, by the part's name without its number: a module's name, then an operation's."""


class CalibrationInputs:
    """Inputs of one graph on some images, computed by the float32 graphs before it when they are asked for.

    Args:
        model: The float32 graphs.
        part: What the graph computes.
        images: Of the graph's size, normalised and padded, one at a time [1, 3, H, W].
    """

    def __init__(self, model: EngineModel, part: str, images: Sequence[Float[Tensor, "1 3 H W"]]) -> None:
        self._model, self._part, self._images = model, part, images

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        plan = self._model.plan
        # A graph that several exits use sees each of them in turn.
        depths = [d for d in plan.exit_depths if self._part in ("extract", *plan.exits[str(d)], "decode")]
        for index, image in enumerate(self._images):
            yield self._model.inputs_of(self._part, image, depths[index % len(depths)])


def quantise_graphs(
    folder: Path, model: EngineModel, images: Sequence[Float[Tensor, "1 3 H W"]], log: logging.Logger
) -> dict[str, GraphEntry]:
    """Replace the float32 graphs of a folder by quantised ones.

    Args:
        folder: Where they are.
        model: The same graphs, opened.
        images: Normalised and padded, one at a time; they set the scales.
        log: Told of each graph.

    Returns:
        The new entries of ``plan.json``.

    Raises:
        UsageError: NNCF is not installed, or no image has a size of the graphs.
    """
    plan = model.plan
    entries = dict(plan.graphs)
    parts = ["extract", *sorted({layer for layers in plan.exits.values() for layer in layers}), "decode"]
    for size in plan.sizes or (None,):
        own = [image for image in images if size in (None, tuple(image.shape[2:]))]
        if not own:
            assert size is not None
            raise UsageError(
                f"None of {len(images)} training images has the padded size {size[0]}x{size[1]}, on which its int8 "
                "graphs would be calibrated. Drop it from --size, or write float32."
            )
        for part in parts:
            name = plan.graph_name(part, size or ())
            path = folder / next(iter(plan.graphs[name].files))
            log.info("Quantising %s on %d images.", path.name, len(own))
            _quantise(path, CalibrationInputs(model, part, own), IN_FLOAT.get(part.rstrip("0123456789"), ()))
            entries[name] = plan.graphs[name].model_copy(update={"files": file_digests(path)})
    return entries


def require_nncf() -> Any:
    """Import what quantises.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise UsageError(
            f"int8 needs NNCF, which is not installed ({error}). Install it with `pip install 'ecocli[int8]'`."
        ) from error
    return nncf


def _quantise(path: Path, inputs: Iterable[Mapping[str, np.ndarray]], in_float: Sequence[str]) -> None:
    nncf = require_nncf()
    # Not nncf.set_log_level, which also sets the level of handlers that others hung on its logger.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    # NNCF draws its progress on stdout, which is for results.
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _quantise_with(nncf, path, inputs, in_float)


def _quantise_with(nncf: Any, path: Path, inputs: Iterable[Mapping[str, np.ndarray]], in_float: Sequence[str]) -> None:
    values = list(inputs)
    settings = {
        "subset_size": len(values),
        "ignored_scope": nncf.IgnoredScope(patterns=list(in_float), validate=False),
        # Transformers: products with two computed factors and attention keep their pattern.
        "model_type": nncf.ModelType.TRANSFORMER,
        # Processors without VNNI add pairs of products in 16 bits, which weights of 8 bits overflow: 7 are used.
        # Smoothing across MatMuls fails on ONNX graphs whose weights pass a Reshape.
        "advanced_parameters": nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            # Extremes over all images, not their mean: what is cut off costs more than finer steps gain.
            activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
        ),
    }
    # Beside and then renamed: the opened float32 graph may still be mapped into memory.
    beside = path.with_name(f"int8-{path.name}")
    if path.suffix == ".onnx":
        import onnx

        onnx.save(nncf.quantize(onnx.load(path), nncf.Dataset(values), **settings), beside)
    else:
        import openvino

        quantised = nncf.quantize(openvino.Core().read_model(path), nncf.Dataset(values), **settings)
        openvino.save_model(quantised, beside, compress_to_fp16=False)
        beside.with_suffix(".bin").rename(path.with_suffix(".bin"))
    beside.rename(path)
