"""``eco store``: what stands on stdout, the exit codes, and that no torch is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_store import age, flip_bit, parent_manifest, put_gate

from ecocli.__main__ import main
from ecocli.artifacts.checking import verify
from ecocli.artifacts.store import Store


@pytest.fixture
def store() -> Store:
    # ECO_STORE is set to a folder of the test.
    return Store.default()


def test_ls__artifacts__prints_a_table(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    gate = put_gate(store, names=("gate", "mine")).digest
    parent = store.put(parent_manifest(), {}).digest
    assert main(["store", "ls"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["kind", "digest", "names", "bytes", "created", "(UTC)"]
    assert ["gate", gate[:19], "gate,", "mine"] in [row[:4] for row in rows]
    assert ["parent", parent[:19]] in [row[:2] for row in rows]
    assert err == ""


def test_ls__kind_as_json__lists_only_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    digest = put_gate(store, names=("gate",)).digest
    store.put(parent_manifest(), {})
    assert main(["store", "ls", "--kind", "gate", "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert (line["digest"], line["kind"], line["names"], line["problem"]) == (digest, "gate", ["gate"], "")


def test_ls__no_store__prints_an_empty_table_and_makes_nothing(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "ls"]) == 0
    assert "digest" in capsys.readouterr().out
    assert not store.root.exists()


def test_ls__damaged_artifact__is_marked(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    flip_bit(store.blobs.path(put_gate(store).digest))
    assert main(["store", "ls"]) == 0
    assert [word[:7] for word in capsys.readouterr().out.splitlines()[-1].split()[:2]] == ["damaged", "sha256:"]


def test_ls__store_option__goes_before_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = put_gate(Store(tmp_path / "other")).digest
    assert main(["store", "ls", "--store", str(tmp_path / "other")]) == 0
    assert digest[:19] in capsys.readouterr().out


def test_show__name__prints_manifest_files_and_provenance(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = put_gate(store, names=("mine",))
    assert main(["store", "show", "mine"]) == 0
    out = capsys.readouterr().out
    assert f"gate {artifact.digest}\nnames: mine\n" in out
    assert '  feature: "res5"\n' in out
    assert "  host: " in out
    assert str(artifact.path_of("gate.safetensors")) in out


def test_show__prefix_as_json__has_everything(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = put_gate(store, 0.25)
    assert main(["store", "show", artifact.digest[:15], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["digest"] == artifact.digest
    assert shown["manifest"]["beta"] == 0.25
    assert [(entry["name"], entry["size_bytes"]) for entry in shown["files"]] == [
        ("gate.safetensors", 7),
        ("notes.json", 2),
    ]
    assert shown["files"][0]["path"] == str(artifact.path_of("gate.safetensors"))
    assert shown["names"] == []


def test_show__unknown__leaves_with_4(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put_gate(store, names=("mine",))
    assert main(["store", "show", "mime"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: 'mime' is unknown in the store" in err
    assert "Near names: mine." in err


def test_verify__sound_store__says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put_gate(store, names=("mine",))
    assert main(["store", "verify"]) == 0
    assert capsys.readouterr().out == f"store {store.root} is intact\n"
    assert main(["store", "verify", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []


def test_verify__damage__lists_it_and_leaves_with_4(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = put_gate(store, names=("mine",))
    flip_bit(artifact.path_of("gate.safetensors"))
    artifact.path_of("notes.json").unlink()
    assert main(["store", "verify"]) == 4
    out, err = capsys.readouterr()
    assert "Damaged blob" in out
    assert "Missing file notes.json" in out
    assert str(artifact.path_of("gate.safetensors")) in out
    assert f"error: Found 2 faults in store {store.root}, expected none; they are listed on stdout." in err
    assert main(["store", "verify", "mine", "--json"]) == 4
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["problem"] for fault in faults] == ["Damaged file gate.safetensors", "Missing file notes.json"]


def test_verify__no_store__leaves_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "verify"]) == 2
    assert "There is no store at" in capsys.readouterr().err


def test_gc__dry_run_then_real__says_would_free_then_freed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    digest = put_gate(store).digest
    age(store.root, 15 * 24 * 3600.0)
    assert main(["store", "gc", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("would free ")
    assert digest in told
    assert store.digests() == [digest]
    assert main(["store", "gc", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["artifacts"], done["dry_run"], len(done["blobs"])) == ([digest], False, 4)
    assert main(["store", "gc"]) == 0
    assert capsys.readouterr().out == "freed 0 bytes\n"


def test_gc__grace_days__shortens_the_grace_period(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put_gate(store)
    age(store.root, 2 * 24 * 3600.0)
    assert main(["store", "gc", "--grace-days", "3"]) == 0
    assert len(store.digests()) == 1
    assert main(["store", "gc", "--grace-days", "1.5"]) == 0
    assert store.digests() == []
    assert "artifact" in capsys.readouterr().out


def test_gc__damaged__removes_it_with_its_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    flip_bit(put_gate(store, names=("mine",)).path_of("notes.json"))
    assert main(["store", "gc", "--damaged"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["name", "mine"] in rows
    assert verify(store) == ()


def test_push_pull__layout_between__keeps_the_digest(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = store.put(parent_manifest(), {}).digest
    digest = put_gate(store, inputs={"parent": parent}, names=("mine",)).digest
    assert main(["store", "push", "mine", str(tmp_path / "layout"), "--with-inputs"]) == 0
    assert capsys.readouterr().out == f"{digest}\n"
    other = str(tmp_path / "other")
    assert main(["store", "pull", str(tmp_path / "layout"), "mine", "--name", "yours", "--store", other]) == 0
    assert capsys.readouterr().out == f"{digest}\n"
    assert Store(other).names() == {"yours": digest}
    assert main(["store", "pull", str(tmp_path / "layout"), parent[:20], "--store", other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == parent


def test_store__without_subcommand__shows_help_and_leaves_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store"]) == 2
    out, err = capsys.readouterr()
    assert "push" in out + err


def test_ls__fresh_process__loads_no_torch() -> None:
    script = (
        "import sys; from ecocli.__main__ import main; code = main(['store', 'ls']);"
        "assert code == 0; assert not {'torch', 'pyarrow', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=Path(__file__).resolve().parents[2], capture_output=True
    )
