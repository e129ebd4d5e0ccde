"""What the commands share: surroundings, layered settings, and the one way to print a result.

stdout carries the result and nothing else, so that ``parent=$(eco train-parent ...)`` works; everything else goes to
stderr. Importing this module loads no torch.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ecocli.artifacts import references
from ecocli.artifacts.action import Plan, execute
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ManifestT
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.config.loading import load_toml, merge_alternatives, nest, parse_assignments, resolve_config
from ecocli.errors import DataError, InterruptedRunError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.device import choose_device, limit_threads
from ecocli.runtime.distributed import World, leave_world, setup_world
from ecocli.runtime.formats import plain_text
from ecocli.runtime.interrupt import StopFlag, StopNowError
from ecocli.runtime.logging import configure_logging
from ecocli.runtime.memory import keep_freed_memory
from ecocli.runtime.progress import Progress
from ecocli.runtime.streams import FileLike, write_stdout

if TYPE_CHECKING:
    import rich.table

ConfigT = TypeVar("ConfigT", bound=Config)
PlanT = TypeVar("PlanT")

_WIDEST_TABLE = 10_000


def open_store(store: Path | None) -> Store:
    """Open the store of ``--store``, of ``ECO_STORE``, or ``.eco`` in the working directory."""
    return Store(store) if store is not None else Store.default()


def environment_data_root() -> str | None:
    """Return the folder of data sets that the environment names, to be used below the presets, or None."""
    found = (os.environ.get(name, "").strip() for name in ("ECO_DATASETS", "DETECTRON2_DATASETS"))
    return next((text for text in found if text), None)


def _announce_stop(reason: str) -> None:
    text = f"{reason}: stopping; what is finished is kept"
    if reason == signal.SIGINT.name:
        text += "; press Ctrl-C again to leave at once"
    # A signal handler may interrupt a write to sys.stderr, which then refuses a second one.
    with suppress(OSError):
        os.write(2, (text + "\n").encode())


@contextmanager
def make_runtime(device: str = "auto", threads: int | None = None) -> Iterator[Runtime]:
    """Set up the surroundings of a stage, and take them down again.

    Inside the context SIGTERM, SIGUSR1 and SIGINT set the stop flag, and the processes that torchrun started form a
    group. Seeds are no part of it: a stage derives them from its configuration.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; None for ``OMP_NUM_THREADS`` or all usable cores.

    Raises:
        UsageError: The device is not there, or the launcher's variables make no sense.
    """
    try:
        name = choose_device(device, World.from_environment().local_rank)
        count = limit_threads(threads)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if name == "cpu":
        keep_freed_memory()
    with StopFlag(_announce_stop) as stop:
        try:
            world = setup_world(name)
        except ValueError as error:
            raise UsageError(str(error)) from error
        try:
            # Processes of a group stop together, where they look at the flag together.
            with stop.interruptible() if world.world_size == 1 else nullcontext():
                yield Runtime(name, world, Progress(world.is_main), stop, configure_logging(world), count)
        except StopNowError as stopped:
            raise InterruptedRunError(
                f"Stopped by {stopped}. What was finished before is kept; the same command starts from there."
            ) from None
        finally:
            leave_world(world)


def gather_settings(
    config_path: Path | None = None,
    flags: Mapping[str, object] | None = None,
    assignments: Sequence[str] | None = None,
    alternatives: Sequence[str] = (),
) -> dict[str, object]:
    """Merge what the user said: the TOML file, then flags, then ``--set``.

    Args:
        flags: Dotted key to value; a value of None was not given and is left out.
        alternatives: Keys that say one thing in different ways; the last of the three to have one decides.

    Raises:
        UsageError: The file or an assignment cannot be read, or one of the three has two alternatives.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return merge_alternatives(
        load_toml(config_path) if config_path is not None else {},
        nest(given),
        parse_assignments(assignments or ()),
        alternatives=alternatives,
    )


def resolve(
    config_class: type[ConfigT],
    *,
    preset: Mapping[str, object] | Callable[[Mapping[str, object]], Mapping[str, object]] | None = None,
    config_path: Path | None = None,
    flags: Mapping[str, object] | None = None,
    assignments: Sequence[str] | None = None,
    alternatives: Sequence[str] = (),
) -> ConfigT:
    """Resolve a configuration: preset, then TOML file, then flags, then ``--set``; the class's defaults below all.

    Args:
        preset: Lowest layer, or a function that chooses it from what the user said (as merged by
            ``gather_settings``), because the data set or architecture may be named in any layer.

    Raises:
        UsageError: Something is unknown, missing or wrong; all faults are named.
    """
    settings = gather_settings(config_path, flags, assignments, alternatives)
    lowest = preset(settings) if callable(preset) else preset or {}
    return resolve_config(config_class, lowest, settings)


def resolve_input(store: Store, kind: str, reference: str | None, log: logging.Logger) -> str:
    """Find the digest of an input and say on stderr which one is taken.

    Args:
        kind: Kind of artifact, which is also the name read where no reference is given.
        reference: Digest, unique prefix or name, or None.

    Raises:
        ArtifactError: Nothing, or more than one artifact, fits.
    """
    wanted = kind if reference is None else reference
    digest = references.resolve(store, wanted, kind)
    log.info("%s %s (%s)", kind, digest, "the latest" if reference is None else wanted)
    return digest


def emit_result(
    world: World,
    data: Mapping[str, object],
    *,
    text: str | None = None,
    table: "rich.table.Table | None" = None,
    as_json: bool = False,
) -> None:
    """Print the result on stdout, from rank 0 only.

    Args:
        data: The full result, printed as one line of JSON under ``--json``; NaN becomes null.
        text: What is printed otherwise: a digest, a path, or several lines.
        table: What is printed otherwise, instead of or after the text; never cut off in a pipe.
    """
    if not world.is_main:
        return
    if as_json:
        from pydantic_core import to_json

        write_stdout(to_json(data, inf_nan_mode="null").decode() + "\n")
        return
    shown = "" if text is None else plain_text(text) + "\n"
    if table is not None:
        from rich.console import Console

        from ecocli.commands.tables import print_table

        # Plain text: what names and files hold is nobody's markup.
        written: list[str] = []
        console = Console(file=FileLike(sys.stdout, written.append), markup=False, emoji=False, highlight=False)
        for column in table.columns:
            column._cells = [plain_text(cell) if isinstance(cell, str) else cell for cell in column._cells]
        if not console.is_terminal:
            unbounded = console.options.update(width=_WIDEST_TABLE)
            console.width = max(console.width, console.measure(table, options=unbounded).maximum)
        # Rich itself would leave with 1 and no word where the reader has gone.
        print_table(console, table)
        shown += "".join(written)
    write_stdout(shown)


def _lines(values: Mapping[str, object], prefix: str = "  ") -> Iterator[str]:
    from pydantic_core import to_json

    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key} = {to_json(value).decode()}"


def _outside_identity(config: Config) -> dict[str, object]:
    """Collect the settings that no digest covers, those left out of the serialised ones, nested as they are said."""
    found: dict[str, object] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if field.exclude:
            found[name] = value.model_dump(mode="json") if isinstance(value, Config) else value
        elif isinstance(value, Config) and (inner := _outside_identity(value)):
            found[name] = inner
    return found


def print_dry_run(
    world: World,
    stage: str,
    config: Config,
    inputs: Mapping[str, str],
    *,
    action_digest: str | None = None,
    reused: str | None = None,
    unknown: Sequence[str] = (),
    refused: bool = False,
    as_json: bool = False,
) -> None:
    """Print what ``--dry-run`` promises: the resolved settings, the inputs, and what would be reused.

    Settings that do not shape the result, such as ``execution``, come in a section of their own.

    Args:
        inputs: Role to digest.
        action_digest: What was asked, where the stage can say it beforehand.
        reused: Digest of the artifact that would be returned without running, or None.
        unknown: Settings that follow from what is not there yet; left out, in JSON null.
        refused: Whether these settings cannot be run here, which the caller then says.
    """
    settings = {**config.model_dump(mode="json"), **dict.fromkeys(unknown)}
    outside = _outside_identity(config)
    data: dict[str, object] = {
        "stage": stage,
        "action": action_digest,
        "inputs": dict(inputs),
        "config": settings,
        "outside_identity": outside,
        "reused": reused,
    }
    outcome = "would be refused" if refused else "would run" if reused is None else f"would reuse {reused}"
    lines = [f"{stage}: {outcome}"]
    if action_digest:
        lines.append(f"action {action_digest}")
    lines += ["inputs", *_lines(dict(inputs))] if inputs else []
    lines += ["config", *_lines(settings)]
    if shown := list(_lines(outside)):
        lines += ["no part of the result's identity", *shown]
    emit_result(world, data, text="\n".join(lines), as_json=as_json)


def plan_on_data(
    make: Callable[[bool], PlanT],
    runtime: Runtime,
    stage: str,
    config: Config,
    inputs: Mapping[str, str],
    *,
    dry_run: bool,
    unknown: Sequence[str] = (),
    as_json: bool = False,
) -> PlanT | None:
    """Plan a stage that opens data; a dry run shows its settings also where the data is not there.

    Args:
        make: Makes the plan; told whether it may draw the ``shapes``, which a dry run may not.
        unknown: Settings that follow from the data.

    Returns:
        The plan; None in a dry run whose data is only known once it is drawn.

    Raises:
        DataError: The data is missing or faulty; in a dry run after the settings were shown.
    """
    try:
        return make(not dry_run)
    except DataError as error:
        if not dry_run:
            raise
        from ecocli.data.datasets import NotDrawnError

        refused = not isinstance(error, NotDrawnError)
        print_dry_run(runtime.world, stage, config, inputs, unknown=unknown, refused=refused, as_json=as_json)
        if refused:
            raise
        runtime.log.warning("%s", error)
        return None


@dataclass(frozen=True)
class Shown:
    """A result as it is printed; see ``emit_result``."""

    data: Mapping[str, object]
    text: str | None = None
    table: "rich.table.Table | None" = None


def show_digest(artifact: Artifact[ManifestT]) -> Shown:
    """Show an artifact by its digest; with ``--json`` by its manifest too."""
    manifest = artifact.manifest.model_dump(mode="json")
    return Shown({"digest": artifact.digest, "manifest": manifest}, artifact.digest)


def run_stage(
    plan: Plan[ManifestT],
    store: Store,
    runtime: Runtime,
    *,
    force: bool,
    names: Sequence[str] | None,
    dry_run: bool,
    as_json: bool,
    show: Callable[[Artifact[ManifestT]], Shown] = show_digest,
) -> None:
    """Print what would be run, or run it and print the result."""
    action = plan.action
    if dry_run:
        reused = None if force or plan.anew else store.find_action(action.digest)
        print_dry_run(
            runtime.world,
            action.stage,
            action.config,
            action.inputs,
            action_digest=action.digest,
            reused=reused,
            as_json=as_json,
        )
        return
    shown = show(execute(plan, store, runtime, force=force, names=names or ()))
    emit_result(runtime.world, shown.data, text=shown.text, table=shown.table, as_json=as_json)
