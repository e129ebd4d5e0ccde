"""``eco env``: what a report of a bug has to say about the machine; it computes nothing and changes nothing."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator

from ecocli.commands import options
from ecocli.commands.common import emit_result, environment_data_root, open_store
from ecocli.runtime.device import limit_threads
from ecocli.runtime.distributed import World
from ecocli.runtime.version import version

_VARIABLES = (
    "ECO_STORE",
    "ECO_DATASETS",
    "DETECTRON2_DATASETS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "RANK",
    "WORLD_SIZE",
)


def env(store: options.Store = None, as_json: options.Json = False) -> None:
    """Print versions, devices, threads and places, for reports of bugs.

    Example: eco env
    """
    found = dict(_describe(store))
    width = max(map(len, found))
    text = "\n".join(f"{name:<{width}}  {'-' if value is None else value}" for name, value in found.items())
    emit_result(World(), found, text=text, as_json=as_json)


def _describe(store: options.Store) -> Iterator[tuple[str, object]]:
    given = {f"${name}": os.environ[name] for name in _VARIABLES if name in os.environ}  # limit_threads sets one
    yield "eco", version()
    yield "python", platform.python_version()
    yield "system", platform.platform()
    threads = _threads()  # before torch is loaded, which reads the number then
    import torch

    yield "processor", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    yield "cores", os.cpu_count()
    yield "threads", threads
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    yield "gpus", ", ".join(gpus) or None
    yield "cuda of torch", torch.version.cuda
    place = open_store(store)
    yield "store", place.root
    yield "store exists", place.layout.is_store()
    yield "data sets", environment_data_root() or "datasets"
    yield from given.items()
    for package in _dependencies():
        yield package, _version(package)


def _threads() -> object:
    try:
        return limit_threads()
    except ValueError as error:
        return str(error)


def _dependencies() -> list[str]:
    """Names of the packages that eco itself asks for, without those of its extras."""
    required = importlib.metadata.requires("ecocli") or []
    return sorted(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
