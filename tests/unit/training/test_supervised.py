from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers_training import tiny_model
from torch import Tensor, nn

from ecocli.training.supervised import SupervisedModel, TrainedModel, checkpoint_activations


def test_supervised_model__two_exits__predictions_of_first_exit_come_first() -> None:
    model = tiny_model()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    logits, masks = SupervisedModel(model)(images, [images.shape[-2:]] * len(images), (1, 3))
    assert logits.shape == (4, 2, 6, 4)
    assert masks.shape == (4, 2, 6, 16, 16)
    final = model.predict_at(model.extract(images), torch.tensor([1, 1]))
    torch.testing.assert_close(logits[1], final.pred_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masks[1], final.pred_masks, rtol=1e-4, atol=1e-5)


def test_checkpoint_activations__backward__same_gradients_and_names() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plain, checkpointed = tiny_model(), tiny_model()
    checkpoint_activations(checkpointed)
    recomputed = []
    checkpointed.sem_seg_head.pixel_decoder.encoder.layers[1].register_forward_hook(
        lambda *_: recomputed.append(torch.is_grad_enabled())
    )
    gradients = []
    for model in (plain, checkpointed):
        forward = TrainedModel(model, device=torch.device("cpu"), world_size=1)
        with forward.without_sync():
            logits, masks = forward(images, [images.shape[-2:]] * len(images), (2, 3))
        (logits.square().mean() + masks.square().mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert len(recomputed) == 1
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_supervised_model__reaching_all__idle_layers_get_zeros_and_the_rest_what_it_gets_alone() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    alone, reaching = tiny_model(), tiny_model()
    for model, reach_all in ((alone, False), (reaching, True)):
        logits, masks = SupervisedModel(model, reach_all)(images, [images.shape[-2:]] * len(images), (1,))
        (logits.square().mean() + masks.square().mean()).backward()
    found = dict(reaching.named_parameters())
    idle = {name for name, parameter in alone.named_parameters() if parameter.grad is None}
    assert {name.split(".layers.")[1][0] for name in idle} == {"1", "2"}
    for name, parameter in alone.named_parameters():
        wanted = torch.zeros_like(parameter) if name in idle else parameter.grad
        torch.testing.assert_close(found[name].grad, wanted, msg=lambda text, name=name: f"{name}: {text}")
    forward = TrainedModel(reaching, device=torch.device("cpu"), world_size=1)
    forward.drop_idle_gradients((1,))
    assert {name for name, parameter in found.items() if parameter.grad is None} == idle


def gradients_of(forward: TrainedModel, model: nn.Module) -> dict[str, Tensor]:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    logits, masks = forward(images, [images.shape[-2:]] * len(images), (1, 3))
    (logits.square().mean() + masks.square().mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_trained_model__no_compiler__says_so_once_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Callable[[Tensor], Tensor]:
        raise RuntimeError("No working C++ compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", refuse)
    said: list[str] = []
    model = tiny_model()
    forward = TrainedModel(model, device=torch.device("cpu"), world_size=1, compile_warning=said.append)
    assert gradients_of(forward, model).keys() == dict(model.named_parameters()).keys()
    assert said == [
        "torch.compile does not work on this machine, so the network runs uncompiled: No working C++ compiler found"
    ]


def test_trained_model__compiled__the_backbone_alone_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[nn.Module] = []

    def compile_in_place(module: nn.Module, **_: object) -> None:
        call = module._call_impl

        def run(*arguments: Any) -> Any:
            runs.append(module)
            return call(*arguments)

        module._compiled_call_impl = run

    # What torch's own method does, but for the compiler; that one does not read through the runtime type checks.
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(nn.Module, "compile", compile_in_place)
    plain, compiled = tiny_model(), tiny_model()
    names = list(compiled.state_dict())
    expected = gradients_of(TrainedModel(plain, device=torch.device("cpu"), world_size=1), plain)
    forward = TrainedModel(compiled, device=torch.device("cpu"), world_size=1, compile_warning=pytest.fail)
    found = gradients_of(forward, compiled)
    assert runs == [compiled.backbone]
    assert list(compiled.state_dict()) == names
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
