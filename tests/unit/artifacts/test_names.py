"""Names: which are allowed, and the index as their projection."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.artifacts.names import NameEntry, Names, check_name, is_name
from ecocli.errors import ArtifactError, UsageError

A = NameEntry("sha256:" + "a" * 64, 5, "gate")
B = NameEntry("sha256:" + "b" * 64, 6, "parent")


@pytest.fixture
def names(tmp_path: Path) -> Names:
    (tmp_path / "refs").mkdir()
    return Names(tmp_path / "refs", tmp_path / "index.json", tmp_path)


def _index(names: Names) -> dict[str, str]:
    index = json.loads((names.directory.parent / "index.json").read_bytes())
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in index["manifests"]}


@pytest.mark.parametrize("name", ["gate", "v1.0-rc_2", "_x", "0", "a" * 128])
def test_check_name__tag_of_the_distribution_spec__is_taken(name: str) -> None:
    check_name(name)
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".x", "-x", "a/b", "x:y", "v1+local", "a b", "ü", "x\n", "a" * 129, ".."])
def test_check_name__other_text__is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name: expected 1 to 128 letters, digits"):
        check_name(name)


@settings(deadline=None)
@given(st.text(max_size=5))
def test_is_name__any_text__never_leaves_its_folder(text: str) -> None:
    if is_name(text):
        assert Path("refs", f"{text}.json").parent == Path("refs")
        assert not text.startswith(".")


def test_write__two_names__projects_both_into_the_index(names: Names) -> None:
    names.write("second", B)
    names.write("first", A)
    assert names.read_all() == {"first": A, "second": B}
    assert _index(names) == {"first": A.digest, "second": B.digest}


def test_write__name_moves__replaces_its_entry(names: Names) -> None:
    names.write("gate", A)
    names.write("gate", B)
    assert _index(names) == {"gate": B.digest}


def test_rebuild_index__name_written_meanwhile__is_caught_up(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.write("first", A)
    read_all, calls = names.read_all, []

    def read_then_add() -> dict[str, NameEntry]:
        found = read_all()
        if not calls:
            # Another process names something right after the first look; its own index write is lost.
            (names.directory / "late.json").write_text(json.dumps({"digest": B.digest, "size": 6, "kind": "parent"}))
        calls.append(1)
        return found

    monkeypatch.setattr(names, "read_all", read_then_add)
    names.rebuild_index()
    assert _index(names) == {"first": A.digest, "late": B.digest}
    assert len(calls) == 3


def test_read__unknown__is_none(names: Names) -> None:
    assert names.read("unknown") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"digest":"x","size":1,"kind":"gate"}', b"\xff"])
def test_read__damaged_file__is_refused_and_skipped_in_lists(
    names: Names, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    names.write("good", A)
    names.path("bad").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"The name file .*/bad\.json is damaged: expected JSON with digest"):
        names.read("bad")
    with caplog.at_level(logging.WARNING):
        assert names.read_all() == {"good": A}
    assert "bad.json is damaged" in caplog.text
    assert names.listed() == ["bad", "good"]


def test_listed__no_folder__is_empty(tmp_path: Path) -> None:
    assert Names(tmp_path / "none", tmp_path / "index.json", tmp_path).listed() == []


def test_remove__name__is_gone_after_the_next_rebuild(names: Names) -> None:
    names.write("gate", A)
    names.remove("gate")
    names.remove("gate")
    names.rebuild_index()
    assert _index(names) == names.read_all() == {}
