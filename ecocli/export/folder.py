"""Write the graphs of a model as files: ONNX, or OpenVINO's format made of it.

Encoder layers of one kind differ in their weights alone, so one is traced and the others are its copies.
"""

import ast
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ecocli.artifacts.digest import sha256_file
from ecocli.config.exported import GraphEntry, GraphFormat, sized_name
from ecocli.errors import UsageError
from ecocli.export.graphs import GraphModule, Size, example_values, trace

OPSET = 20
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SUFFIX: Mapping[GraphFormat, str] = {"onnx": ".onnx", "openvino": ".xml"}


def write_graphs(
    parts: Sequence[GraphModule],
    image_size: Size,
    fixed: bool,
    format_: GraphFormat,
    folder: Path,
    *,
    named: bool = False,
) -> dict[str, GraphEntry]:
    """Write every part.

    Args:
        parts: In the order in which an image passes them.
        image_size: Padded size of the image that they are traced with.
        fixed: Whether the graphs are for this size only.
        format_: Kind of the files.
        folder: Where they go.
        named: Whether the names of the graphs end in the size.

    Returns:
        The entries of ``plan.json``.

    Raises:
        UsageError: The exporter is not installed, or torch cannot trace a part for every size.
    """
    values = example_values(parts, torch.zeros(1, 3, *image_size))
    entries: dict[str, GraphEntry] = {}
    traced: dict[str, tuple[GraphModule, Path]] = {}
    scratch = folder / "scratch"
    scratch.mkdir()
    for part in parts:
        path = scratch / f"{part.name}.onnx"
        if part.alike is not None and part.alike in traced:
            _copy_layer(*traced[part.alike], part, path)
        else:
            _write_onnx(part, values, fixed, path)
            if part.alike is not None:
                traced[part.alike] = (part, path)
        name = sized_name(part.name, image_size) if named else part.name
        target = folder / f"{name}{_SUFFIX[format_]}"
        if format_ == "openvino":
            write_openvino(path, target)
        else:
            target.write_bytes(path.read_bytes())
        entries[name] = graph_entry(part, target)
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
    return entries


def graph_entry(part: GraphModule, path: Path) -> GraphEntry:
    """What ``plan.json`` says about a graph."""
    return GraphEntry(files=file_digests(path), inputs=part.inputs, outputs=part.outputs)


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 of a graph's files by name, the one to open first."""
    files = [path] if path.suffix == ".onnx" else [path, path.with_suffix(".bin")]
    return {file.name: sha256_file(file) for file in files}


def _write_onnx(part: GraphModule, values: Mapping[str, Tensor], fixed: bool, path: Path) -> None:
    with _quiet():
        try:
            program = trace(part, values, fixed)
        except Exception as error:
            # torch raises many classes where code depends on a size that is a symbol.
            if fixed:
                raise
            raise UsageError(
                f"torch cannot trace {part.name} for every size ({' '.join(str(error).split())[:200]}). Write graphs "
                "of fixed padded sizes with --size HxW,HxW."
            ) from error
        try:
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                # A layer keeps its weights under their names; engines fold constants themselves.
                optimize=part.alike is None,
                verbose=False,
            )
        except ImportError as error:
            raise _not_installed(error, "onnx") from error
        assert converted is not None
        converted.save(path)
    _name_products(path)


def _name_products(path: Path) -> None:
    """Name convolutions and products after the modules that they belong to; quantisation goes by these names."""
    import onnx

    graph = onnx.load(path)
    for node in graph.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), None)
        if scopes is not None and node.op_type in _PRODUCTS:
            # From the model down to the operation itself, which its name has already.
            node.name = f"{ast.literal_eval(scopes)[-2]}/{node.name}"
    onnx.save(graph, path)


def _copy_layer(traced: GraphModule, source: Path, part: GraphModule, path: Path) -> None:
    """Write a traced layer's graph with another layer's weights."""
    import onnx

    graph = onnx.load(source)
    old, new = traced.module.state_dict(), part.module.state_dict()
    replaced = set()
    for tensor in graph.graph.initializer:
        if tensor.name in old:
            weights = new[tensor.name].numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
            replaced.add(tensor.name)
    unnamed = set(old) - replaced
    if unnamed:
        raise RuntimeError(f"The traced layer has no weights named {sorted(unnamed)}: it cannot be copied.")
    onnx.save(graph, path)


def write_openvino(source: Path, path: Path) -> None:
    try:
        import openvino
    except ImportError as error:
        raise _not_installed(error, "openvino") from error
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)


def require_exporter(format_: GraphFormat) -> None:
    """Make sure that what writes graphs is installed.

    Raises:
        UsageError: It is not.
    """
    extra = "onnx"
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        if format_ == "openvino":
            extra = "openvino"
            importlib.import_module("openvino")
    except ImportError as error:
        raise _not_installed(error, extra) from error


def _not_installed(error: ImportError, extra: str) -> UsageError:
    return UsageError(f"The exporter is not installed ({error}). Install it with `pip install 'ecocli[{extra}]'`.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch and onnxscript report about their own insides away from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
