"""A world of one process, and the environment. Several processes: tests/distributed."""

import subprocess
import sys

import pytest
import torch

from ecocli.runtime.distributed import World, leave_world, setup_world


def test_from_environment__nothing_set__is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert World.from_environment() == World(rank=0, world_size=1, local_rank=0)


def test_from_environment__torchrun__is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    assert world == World(rank=5, world_size=8, local_rank=1)
    assert not world.is_main


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE is 'two', expected a whole number of at least 1"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is '0', expected a whole number of at least 1"),
        ("RANK", "-1", "RANK is '-1', expected a whole number of at least 0"),
        ("LOCAL_RANK", "first", "LOCAL_RANK is 'first', expected a whole number of at least 0"),
    ],
)
def test_from_environment__no_number__raises(name: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        World.from_environment({name: value})


def test_from_environment__rank_outside__raises() -> None:
    with pytest.raises(ValueError, match="RANK=2 and WORLD_SIZE=2, expected a rank below the world size"):
        World.from_environment({"RANK": "2", "WORLD_SIZE": "2"})


def test_world__of_one__answers_for_itself() -> None:
    world = setup_world()
    world.barrier()
    tensor = torch.tensor([1.0, 2.0])
    assert world.is_main
    assert world.any(True)
    assert not world.any(False)
    assert world.sum_(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    assert world.gather_objects({"a": 1}) == [{"a": 1}]
    assert world.broadcast_object("x") == "x"
    leave_world(world)
    assert not torch.distributed.is_initialized()


_LEAVING = """
import atexit, os, sys
from ecocli.runtime import distributed

class Watcher:
    def __del__(self, write=os.write):
        write(2, b"taken apart")

watcher = Watcher()
distributed._has_joined = sys.argv[1] == "joined"
atexit.register(print, "at exit")
print("result")
distributed.exit_process(5)
"""


@pytest.mark.parametrize("past, err", [("joined", ""), ("alone", "taken apart")])
def test_exit_process__was_in_a_group__only_then_the_interpreter_is_left_whole(past: str, err: str) -> None:
    done = subprocess.run([sys.executable, "-c", _LEAVING, past], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (5, "result\nat exit\n", err)
