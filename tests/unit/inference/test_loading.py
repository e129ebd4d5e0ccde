"""Gates restored from their artifact, at their own and at other prices of compute."""

import pytest
import torch
from helpers_inference import TINY, tiny_model
from helpers_store import gate_manifest

from ecocli.artifacts.manifest import GateManifest
from ecocli.errors import ArtifactError, UsageError
from ecocli.inference.loading import restore_gate, restore_model


def fitted(**changes: object) -> GateManifest:
    known = {"head": "quality", "exit_depths": (2, 4, 6), "exit_costs": (2.0, 4.0, 6.0)}
    return gate_manifest(0.01).model_copy(update={**known, **changes})


# Expected quality of the exits: 0.50, 0.54, 0.56 for a feature of 0, and 0.04 more at exit 6 per unit of it. At beta
# 0.01 the biases hold quality less 0.01 per layer.
STATE = {"linear.weight": torch.tensor([[0.0], [0.0], [0.04]]), "linear.bias": torch.tensor([0.48, 0.50, 0.50])}


@pytest.mark.parametrize(
    ("beta", "depths"),
    [
        (None, [4, 6]),  # 0.48, 0.50, 0.50: a tie takes the cheaper exit; with 0.04 more exit 6
        (0.01, [4, 6]),
        (0.0, [6, 6]),  # 0.50, 0.54, 0.56
        (0.015, [4, 6]),  # 0.47, 0.48, 0.47; with 0.04 more 0.51
        (0.05, [2, 2]),  # 0.40, 0.34, 0.26; with 0.04 more 0.30
    ],
)
def test_restore_gate__other_price__chooses_as_if_fitted_at_it(beta: float | None, depths: list[int]) -> None:
    gate = restore_gate(STATE, fitted(), "cpu", "sha256:1", beta)
    assert gate.choose({"res5": torch.tensor([[0.0], [1.0]])}).tolist() == depths


def test_restore_gate__class_head_at_another_price__says_how_to_get_one() -> None:
    with pytest.raises(
        UsageError, match=r"the gate sha256:1 predicts the exit itself, at beta 0.01 only. Fit one with"
    ):
        restore_gate(STATE, fitted(head="class"), "cpu", "sha256:1", 0.02)


def test_restore_gate__weights_of_other_exits__says_what_was_found() -> None:
    with pytest.raises(ArtifactError, match=r"holds linear.weight \[3, 1\] over feature 'res5', expected one row"):
        restore_gate(STATE, fitted(exit_depths=(2, 4)), "cpu", "sha256:1")


def test_restore_model__bfloat16__computes_products_in_it_and_nothing_else_changes() -> None:
    state = tiny_model().state_dict()
    plain, fast = (restore_model(TINY, state, "cpu", "sha256:1", precision) for precision in ("float32", "bfloat16"))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    wanted, found = plain(images, (1, 3), all_layers=False), fast(images, (1, 3), all_layers=False)
    assert found.pred_masks.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.float32}
    # Eight bits of mantissa: a few thousandths of the spread of the logits.
    spread = wanted.pred_masks.std()
    torch.testing.assert_close(found.pred_masks.float(), wanted.pred_masks, rtol=0.0, atol=float(0.2 * spread))
    assert not torch.equal(found.pred_masks.float(), wanted.pred_masks)
    mixed = fast.predict_at(fast.extract(images), torch.tensor([3, 1]))
    torch.testing.assert_close(mixed.pred_logits.float(), wanted.pred_logits[[1, 0], 0, [0, 1]], rtol=0.0, atol=0.2)


def test_restore_model__compiled_where_nothing_compiles__warns_once_and_predicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", refuse)
    warnings: list[str] = []
    model = restore_model(TINY, tiny_model().state_dict(), "cpu", "sha256:1", compile_warning=warnings.append)
    assert len(warnings) == 1
    assert "runs uncompiled: no compiler here" in warnings[0]
    assert model(torch.zeros(1, 3, 64, 64), (1,), all_layers=False).pred_logits.shape[:4] == (1, 1, 1, 8)
