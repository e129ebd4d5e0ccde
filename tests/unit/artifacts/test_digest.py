"""Digests and canonical JSON: golden values, and the laws that make a digest an identity."""

import hashlib
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecocli.artifacts.digest import canonical_json, hex_of, is_digest, sha256_bytes, sha256_file

# NIST's published example for the message "abc" (FIPS 180-2, appendix B.1).
ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

# A busy machine must not fail a law.
_FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)


def test_sha256_bytes__abc__gives_published_digest() -> None:
    assert sha256_bytes(b"abc") == ABC


def test_sha256_file__abc__gives_published_digest(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == ABC


@pytest.mark.parametrize("text", ["", "abc", ABC[7:], ABC.upper(), ABC + "0", "md5:" + ABC[7:], ABC + "\n"])
def test_is_digest__other_text__is_false(text: str) -> None:
    assert not is_digest(text)


def test_hex_of__digest__gives_its_digits() -> None:
    assert is_digest(ABC)
    assert hex_of(ABC) == ABC[7:]


def test_hex_of__path_in_disguise__is_refused() -> None:
    with pytest.raises(ValueError, match=r"'sha256:\.\./\.\./etc/passwd' is no digest; expected 'sha256:' and 64"):
        hex_of("sha256:../../etc/passwd")


def test_canonical_json__nested_value__is_sorted_and_compact() -> None:
    # Worked by hand.
    value = {"b": [1, 1.0, None, True], "a": {"ü": (), "0": 1e-5}}
    assert canonical_json(value) == '{"a":{"0":1e-05,"ü":[]},"b":[1,1.0,null,true]}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_canonical_json__no_finite_number__is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json([number])


def test_canonical_json__number_as_key__is_refused() -> None:
    with pytest.raises(TypeError, match=r"text keys only; found 1 \(int\)"):
        canonical_json([{"a": {1: 2}}])


@_FEW
@given(_JSON)
def test_canonical_json__any_value__reads_back_and_is_a_fixed_point(value: object) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@_FEW
@given(st.dictionaries(_TEXT, _JSON, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_canonical_json__other_key_order__gives_same_bytes(value: dict[str, object], random: Random) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


@_FEW
@given(_JSON, _JSON)
def test_sha256_bytes__different_values__have_different_digests(first: object, second: object) -> None:
    # repr tells 1, 1.0 and True apart, which == does not; sorting makes the order of keys irrelevant.
    same = _plain(first) == _plain(second)
    assert (sha256_bytes(canonical_json(first)) == sha256_bytes(canonical_json(second))) == same


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return ("dict", [(key, _plain(value[key])) for key in sorted(value)])
    if isinstance(value, list):
        return ("list", [_plain(item) for item in value])
    return (type(value).__name__, repr(value))


@_FEW
@given(st.binary(max_size=100))
def test_sha256_bytes__any_bytes__agrees_with_hashlib(data: bytes) -> None:
    assert hex_of(sha256_bytes(data)) == hashlib.sha256(data).hexdigest()
