"""References: names win, prefixes must be unique, and every refusal says what there is."""

import logging
from pathlib import Path

import pytest
from helpers_store import flip_bit, parent_manifest, put_gate

from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _twins(store: Store) -> tuple[str, str]:
    """Two gates whose digests share their first four digits, found by trying."""
    from helpers_store import gate_manifest

    from ecocli.artifacts.digest import sha256_bytes
    from ecocli.artifacts.oci import Descriptor, build_manifest

    seen: dict[str, float] = {}
    for number in range(2000):
        beta = number / 1000
        config = gate_manifest(beta).canonical_bytes()
        digest = sha256_bytes(build_manifest("gate", Descriptor(sha256_bytes(config), len(config)), ()))
        if digest[:11] in seen:
            return put_gate(store, seen[digest[:11]], {}).digest, put_gate(store, beta, {}).digest
        seen[digest[:11]] = beta
    raise AssertionError("2000 digests without a pair: the birthday bound says otherwise")


def test_resolve__digest_prefix_and_name__give_the_digest(store: Store) -> None:
    digest = put_gate(store, names=("mine",)).digest
    for reference in (digest, digest[7:], digest[:11], digest[7:11], "mine"):
        assert resolve(store, reference, "gate") == digest
        assert resolve(store, reference, None) == digest


def test_resolve__ambiguous_prefix__lists_the_candidates(store: Store) -> None:
    first, second = sorted(_twins(store))
    with pytest.raises(ArtifactError, match=rf"ambiguous: found {first} \(gate\), {second} \(gate\)\. Type more"):
        resolve(store, first[:11], "gate")
    assert resolve(store, first, "gate") == first


def test_resolve__prefix_of_two_kinds__takes_the_kind_wanted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = put_gate(store).digest
    parent = store.put(parent_manifest(), {}).digest
    monkeypatch.setattr("ecocli.artifacts.references._starts", lambda digest, prefix: True)
    assert resolve(store, "sha256:0000", "gate") == gate
    assert resolve(store, "sha256:0000", "parent") == parent


def test_resolve__damaged_candidate__is_named_as_such(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, other = put_gate(store).digest, put_gate(store, 0.2).digest
    flip_bit(store.blobs.path(other))
    monkeypatch.setattr("ecocli.artifacts.references._starts", lambda digest, prefix: True)
    with pytest.raises(ArtifactError, match=rf"{other} \(damaged\)"):
        resolve(store, "0000", "gate")
    assert resolve(store, gate, "gate") == gate


def test_resolve__name_that_reads_like_a_digest__wins_with_a_warning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    digest = put_gate(store, 0.1).digest
    other = put_gate(store, 0.2).digest
    name = digest[7:13]
    store.set_name(name, other)
    with caplog.at_level(logging.WARNING):
        assert resolve(store, name, "gate") == other
    assert f"{name} is a name and a digest prefix: took the name. Type sha256:{name} for the digest." in caplog.text
    assert resolve(store, f"sha256:{name}", "gate") == digest


def test_resolve__name_of_another_kind__is_refused(store: Store) -> None:
    put_gate(store, names=("mine",))
    with pytest.raises(ArtifactError, match="The name 'mine' is an artifact of kind 'gate', expected 'parent'"):
        resolve(store, "mine", "parent")


def test_resolve__digest_of_another_kind__is_refused(store: Store) -> None:
    digest = put_gate(store).digest
    with pytest.raises(ArtifactError, match=f"{digest} is an artifact of kind 'gate', expected 'parent'"):
        resolve(store, digest[:20], "parent")


def test_resolve__misspelt_name__lists_near_names_of_the_kind(store: Store) -> None:
    put_gate(store, names=("coco-beta5", "coco-beta7"))
    store.set_name("other", put_gate(store).digest)
    with pytest.raises(ArtifactError, match=r"'coco-bta5' is unknown .* Near names: coco-beta5, coco-beta7\."):
        resolve(store, "coco-bta5", "gate")


@pytest.mark.parametrize(
    "kind, names, advice",
    [
        (None, (), "The store has no names yet"),
        ("parent", ("mine",), "no name of that kind yet: make one with `eco import` or `eco train-parent`, or point"),
        ("gate", ("mine",), r"Names there are: mine\."),
    ],
)
def test_resolve__unknown__says_what_there_is(
    store: Store, kind: str | None, names: tuple[str, ...], advice: str
) -> None:
    put_gate(store, names=names)
    with pytest.raises(ArtifactError, match=advice):
        resolve(store, "zzzzzzzz", kind)


@pytest.mark.parametrize("reference", ["abc", "sha256:abc", "sha256:" + "0" * 65, "sha256:XYZW", "a/b", "", "beef"])
def test_resolve__no_reference__is_unknown(store: Store, reference: str) -> None:
    put_gate(store)
    with pytest.raises(ArtifactError, match=r"is unknown in the store .* unique digest prefix of at least 4 digits"):
        resolve(store, reference, None)
