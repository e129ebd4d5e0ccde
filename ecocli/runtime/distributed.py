"""The processes of one run: who am I, how many are we, and how do we agree.

This is the only reader of ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``, the variables of torchrun. One process
needs no process group and runs the same code: every method then answers for itself.
"""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from ecocli.runtime.streams import flush_streams

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# How long a process that is done waits for the others before it leaves the group.
_LEAVE_TIMEOUT_S = 300.0
# What gloo and NCCL say of it.
_GONE = ("closed by peer", "reset by peer", "remote process exited")
_log = logging.getLogger(__name__)
# Whether this process was ever a member of a group, also after it left.
_has_joined = False


def _read_count(environment: Mapping[str, str], name: str, default: int, lowest: int) -> int:
    text = environment.get(name, "").strip() or str(default)
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if value < lowest:
        raise ValueError(
            f"The environment variable {name} is {text!r}, expected a whole number of at least {lowest}. "
            "Start the processes with torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK for a single one."
        )
    return value


@dataclass(frozen=True)
class World:
    """One process among the processes of a run.

    Attributes:
        rank: Position among all processes, from 0.
        world_size: Number of all processes.
        local_rank: Position among the processes of this machine, from 0; it picks the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> World:
        """Read torchrun's variables; a world of one where they are not set.

        Raises:
            ValueError: A variable is not a number, or the rank lies outside the world.
        """
        environment = os.environ if environment is None else environment
        world_size = _read_count(environment, "WORLD_SIZE", 1, 1)
        rank = _read_count(environment, "RANK", 0, 0)
        local_rank = _read_count(environment, "LOCAL_RANK", 0, 0)
        if rank >= world_size:
            raise ValueError(
                f"The environment has RANK={rank} and WORLD_SIZE={world_size}, expected a rank below the "
                "world size. Start the processes with torchrun, or unset both for a single process."
            )
        return cls(rank, world_size, local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes results."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Tell every process whether the flag is set on at least one of them."""
        if self.world_size == 1:
            return flag
        import torch
        import torch.distributed as dist

        # A CPU tensor travels by gloo, also in a GPU run: no device to choose, no stream to wait for.
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes)
        return bool(votes.item() > 0)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes, in place, and return it.

        Args:
            tensor: Same shape and dtype on every process; on the CPU or on this process's device.
        """
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def gather_objects(self, obj: T) -> list[T]:
        """Collect one picklable object of every process, in rank order, on every process."""
        if self.world_size == 1:
            return [obj]
        import torch.distributed as dist

        gathered: list[T | None] = [None] * self.world_size
        dist.all_gather_object(gathered, obj)
        return cast("list[T]", gathered)

    def broadcast_object(self, obj: T) -> T:
        """Give every process the picklable object of rank 0; the argument of the others is ignored."""
        if self.world_size == 1:
            return obj
        import torch.distributed as dist

        box = [obj]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def setup_world(device: str = "cpu", *, timeout_s: float = 3600.0) -> World:
    """Read the environment and, where there are several processes, join them into a group.

    Args:
        device: ``cpu``, or ``cuda...`` to carry GPU tensors by NCCL beside CPU tensors by gloo.
        timeout_s: How long a process waits for the others before the run fails, in seconds. Generous,
            because the others wait while rank 0 writes an artifact.

    Raises:
        ValueError: The environment makes no sense, or leads to no others.
    """
    global _has_joined
    world = World.from_environment()
    if world.world_size > 1:
        import torch.distributed as dist

        if not dist.is_initialized():
            _has_joined = True
            try:
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
                    rank=world.rank,
                    world_size=world.world_size,
                    timeout=datetime.timedelta(seconds=timeout_s),
                )
            except (ValueError, RuntimeError) as error:
                raise ValueError(
                    f"The environment has WORLD_SIZE={world.world_size}, but the processes find no common address "
                    f"({' '.join(str(error).split())[:200]}). Start them with torchrun, or unset RANK, WORLD_SIZE and "
                    "LOCAL_RANK for a single one."
                ) from error
    return world


def leave_world(world: World, *, timeout_s: float = _LEAVE_TIMEOUT_S) -> None:
    """Wait for the others of the process group, if there is one: none ends while another still counts on it.

    Called while an exception is on its way it does not wait: the others may never come here. The group itself stays
    until `exit_process`. Whoever takes it apart waits for its threads, and if that is the last holder of a model in
    parallel (in the traceback of the exception, say), it waits with the interpreter, which such a thread may want to
    let go of the last sum: they then wait for each other for ever.

    Args:
        timeout_s: How long to wait for the others, in seconds. A process that is late or gone is told in the log; this
            one has done its work.
    """
    if world.world_size == 1:
        return
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    if sys.exc_info()[0] is None and dist.group.WORLD is not None:
        options = dist.AllreduceOptions()
        options.timeout = datetime.timedelta(seconds=timeout_s)
        try:
            dist.group.WORLD.allreduce([torch.zeros(1)], options).wait()
        except RuntimeError as error:
            _log.warning("Left without the other processes: %s", " ".join(str(error).split())[:200])


def has_lost_another(error: Exception) -> bool:
    """Tell whether an error says that another process of the group has gone."""
    return _has_joined and isinstance(error, RuntimeError) and any(text in str(error) for text in _GONE)


def exit_process(code: int) -> NoReturn:
    """End the process; one that was in a group without taking the interpreter apart.

    Threads of torch outlive the group, and one that still wants the interpreter while it is taken apart aborts the
    process: a finished run then ends with SIGABRT. What Python registered for the end is done either way.
    """
    if not _has_joined:
        sys.exit(code)
    atexit._run_exitfuncs()
    flush_streams()
    os._exit(code)
