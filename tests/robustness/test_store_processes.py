"""The store under fire: many processes, kills, broken locks, full and read-only disks, a collector at work.

Expected everywhere: what was acknowledged is there, what is there is intact, and refusals are one clear error.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_store import age, gate_manifest, put_gate

from ecocli.artifacts import collecting
from ecocli.artifacts.action import Action, Made, Plan, execute
from ecocli.artifacts.checking import verify
from ecocli.artifacts.collecting import collect
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.transfer import pull
from ecocli.config.base import Config
from ecocli.runtime.context import Runtime

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("store_worker.py")
PROCESSES = 4


class _Beta(Config):
    beta: float = 0.1


ACTION = Action("fit-gate", 1, _Beta())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _start(mode: str, store: Store, *arguments: object) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    return subprocess.Popen(
        [sys.executable, str(WORKER), mode, str(store.root), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def _index_names(store: Store) -> dict[str, str]:
    entries = json.loads(store.layout.index.read_bytes())["manifests"]
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}


def _swarm(store: Store, folder: Path, seed: int | None, mode: str, *arguments: object) -> list[str]:
    """Run a mode in several processes at once and return all they printed; a seed kills them at random moments."""
    folder.mkdir()
    chosen = "none" if seed is None else seed
    out, err = _start("swarm", store, folder, PROCESSES, chosen, mode, *arguments).communicate(timeout=120)
    assert out.split() == ["0" if seed is None else str(int(signal.SIGKILL))] * PROCESSES, err
    return [line for path in folder.iterdir() for line in path.read_text().splitlines()]


def test_put__many_processes__loses_no_name_and_the_index_agrees(store: Store, tmp_path: Path) -> None:
    lines = _swarm(store, tmp_path / "out", None, "put_many", 0, "WORKER", 6)
    told = dict(line.split() for line in lines)
    assert len(told) == PROCESSES * 6
    names = store.names()
    assert {name: names[name] for name in told} == told
    assert names["latest"] in told.values()
    assert _index_names(store) == names
    assert verify(store) == ()
    assert list(store.layout.scratch.iterdir()) == []


def test_put__killed_at_random_moments__keeps_all_it_acknowledged(store: Store, tmp_path: Path) -> None:
    told = {}
    for seed in range(3):
        lines = _swarm(store, tmp_path / str(seed), seed, "put_many", seed, "WORKER", 1000)
        told.update(line.split() for line in lines)
    names = store.names()
    assert len(told) >= 3 * PROCESSES * 2
    assert {name: names[name] for name in told} == told
    assert verify(store) == ()
    for digest in told.values():
        assert store.get(digest, GateManifest).path_of("shared").read_bytes() == b"shared" * 5000
    # The next writer heals the index; the collector takes what the killed ones left behind.
    put_gate(store, names=("healed",))
    assert _index_names(store) == store.names()
    age(store.layout.scratch, 2 * 24 * 3600.0)
    collect(store)
    assert list(store.layout.scratch.iterdir()) == []
    assert verify(store) == ()


def test_execute__many_processes__compute_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert len(set(_swarm(store, tmp_path / "out", None, "compute", log, "held"))) == 1
    assert log.read_text() == "worked\n"


def test_execute__locks_granted_to_everyone__is_double_work_without_damage(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (digest,) = set(_swarm(store, tmp_path / "out", None, "compute", log, "broken"))
    # The point of the test: they did work at the same time, in one run folder.
    assert log.read_text().count("worked") > 1
    assert store.get(digest, GateManifest).path_of("gate.safetensors").read_bytes() == b"weights" * 10_000
    assert verify(store) == ()


def test_execute__killed__the_next_process_has_lock_and_checkpoint(store: Store) -> None:
    process = _start("checkpoint_forever", store)
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)

    def work(run_dir: Path) -> Made[GateManifest]:
        return Made(gate_manifest(), {"state": (run_dir / "checkpoint").read_bytes()})

    artifact = execute(Plan(ACTION, GateManifest, work), store, Runtime.quiet())
    assert artifact.path_of("state").read_bytes() == b"step 5"


def test_put__full_disk__is_a_clear_error_and_leaves_nothing(store: Store) -> None:
    out = _finish(_start("fill", store, 100_000))
    assert out.startswith("UsageError 2 Cannot write ")
    assert str(store.layout.blobs) in out
    assert "File too large. Nothing half-written was left behind." in out
    assert list(store.names()) == ["small"]
    assert list(store.layout.scratch.iterdir()) == []
    assert verify(store) == ()


@pytest.fixture
def public_store() -> Iterator[Store]:
    """A store outside pytest's private folder, so that another user could reach it."""
    root = Path(tempfile.mkdtemp(prefix="eco-test-"))
    root.chmod(0o755)
    yield Store(root / "store")
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(root)


def test_put__read_only_store__is_a_clear_error_but_reading_works(public_store: Store) -> None:
    store = public_store
    digest = execute(
        Plan(ACTION, GateManifest, lambda run_dir: Made(gate_manifest(), {"w": b"w"})), store, Runtime.quiet()
    ).digest
    for path in (store.root, *store.root.rglob("*")):
        # Permissions do not stop root, so the worker becomes another user where it can; see there.
        path.chmod(0o555 if path.is_dir() else 0o444)
    first, second = _finish(_start("write_unprivileged", store)).splitlines()
    assert first == digest
    assert second.startswith("UsageError 2 Cannot write ")
    assert "Permission denied. Make it writable for you, or choose another place" in second
    assert verify(store) == ()


def test_collect__put_of_an_old_unneeded_blob_meanwhile__keeps_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = put_gate(store, 0.1, {"w": b"shared"})
    age(store.root, 30 * 24 * 3600.0)
    mark = collecting._Collector._blobs_of
    made = []

    def mark_then_put(self: collecting._Collector, live: set[str]) -> set[str]:
        needed = mark(self, live)
        # Between marking and sweeping another process stores an artifact with the doomed one's file.
        made.append(put_gate(store, 0.2, {"w": b"shared"}, names=("new",)))
        return needed

    monkeypatch.setattr(collecting._Collector, "_blobs_of", mark_then_put)
    assert doomed.digest in collect(store).artifacts
    assert store.get(made[0].digest, GateManifest).path_of("w").read_bytes() == b"shared"
    assert verify(store) == ()


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_push__through_skopeo_and_back__keeps_digest_and_bytes(store: Store, tmp_path: Path) -> None:
    artifact = put_gate(store, names=("mine",))
    copied = tmp_path / "copied"
    subprocess.run(["skopeo", "copy", f"oci:{store.root}:mine", f"oci:{copied}:mine"], check=True, capture_output=True)
    other = Store(tmp_path / "other")
    assert pull(other, copied, "mine") == artifact.digest
    assert other.get(artifact.digest, GateManifest).manifest == artifact.manifest


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Address of a registry on loopback, Debian's ``docker-registry``."""
    if shutil.which("skopeo") is None or shutil.which("docker-registry") is None:
        pytest.skip("skopeo or docker-registry is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    # JSON is YAML.
    (tmp_path / "registry.yml").write_text(json.dumps(settings))
    with (tmp_path / "registry.log").open("w") as log:
        served = subprocess.Popen(
            ["docker-registry", "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        host, _, port = address.partition(":")
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                break
            time.sleep(0.1)
        yield address
    finally:
        served.terminate()
        served.wait(30)


def test_push__through_a_registry_and_back__keeps_digest_and_bytes(store: Store, tmp_path: Path, registry: str) -> None:
    artifact = put_gate(store, names=("mine",))
    image, copied = f"docker://{registry}/eco/gate:mine", tmp_path / "copied"
    policy = ["skopeo", "--insecure-policy", "copy"]
    for command in (
        [*policy, "--dest-tls-verify=false", f"oci:{store.root}:mine", image],
        [*policy, "--src-tls-verify=false", image, f"oci:{copied}:mine"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    other = Store(tmp_path / "other")
    assert pull(other, copied, "mine") == artifact.digest
    assert other.get(artifact.digest, GateManifest).manifest == artifact.manifest
