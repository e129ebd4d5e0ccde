import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import DrawnSamples, tiny_config, tiny_model
from safetensors.torch import load_file
from torch import Tensor

from ecocli.config.architecture import SwinConfig
from ecocli.config.train_parent import TrainParentConfig
from ecocli.errors import DataError, InterruptedRunError, UsageError
from ecocli.losses.criterion import Criterion
from ecocli.losses.matched import CriterionOutput
from ecocli.model.builders import build_model
from ecocli.runtime.context import Runtime
from ecocli.runtime.interrupt import StopFlag
from ecocli.training import loop
from ecocli.training.batches import SampleSource
from ecocli.training.loop import Trainer, TrainingResult
from ecocli.training.metrics_log import parse_metrics


def train(
    folder: Path, config: TrainParentConfig, samples: SampleSource | None = None, runtime: Runtime | None = None
) -> TrainingResult:
    return Trainer(config, tiny_model(), samples or DrawnSamples(), runtime or Runtime.quiet(), folder).run()


def train_swin(folder: Path, drop_path_rate: float = 0.6, generator_seed: int = 0, **changes: Any) -> TrainingResult:
    backbone = SwinConfig(
        embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_size=4, drop_path_rate=drop_path_rate
    )
    torch.manual_seed(0)
    model = build_model(tiny_config().architecture.model_copy(update={"backbone": backbone}))
    trainer = Trainer(tiny_config(steps=2, **changes), model, DrawnSamples(), Runtime.quiet(), folder)
    torch.manual_seed(generator_seed)
    return trainer.run()


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def losses_of(result: TrainingResult) -> list[float]:
    return [line["loss"] for line in parse_metrics(result.metrics)]


class StopsAfter(DrawnSamples):
    """Asks for a stop while the images of a step are loaded, as a signal during that step would."""

    def __init__(self, stop: StopFlag, images: int) -> None:
        super().__init__()
        self._stop = stop
        self._left = images

    def __getitem__(self, key: tuple[int, int]) -> Any:
        self._left -= 1
        if self._left == 0:
            self._stop.request("SIGTERM")
        return super().__getitem__(key)


def test_run__few_images_many_steps__every_exit_learns(tmp_path: Path) -> None:
    config = tiny_config(steps=40, batch_size=2, log_every=5, execution={"checkpoint_every": 100})
    lines = parse_metrics(train(tmp_path, config, DrawnSamples(2)).metrics)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30, 35, 40]
    for depth in ("1", "2", "3"):
        assert lines[-1]["exits"][depth]["loss"] < 0.7 * lines[0]["exits"][depth]["loss"]
        assert lines[-1]["exits"][depth].keys() == {"loss", "class", "mask", "dice"}


def test_run__schedule__first_step_at_its_beginning(tmp_path: Path) -> None:
    # By hand, as detectron2 counts: the first of four steps has iteration 0. Warm-up 1/2, 3/4, 1, 1 times 1 - step / 4.
    schedule = {"kind": "polynomial", "power": 1.0, "warmup_steps": 2, "warmup_factor": 0.5}
    config = tiny_config(steps=4, log_every=1, optimizer={"lr": 1e-3}, schedule=schedule)
    rates = [line["lr"] for line in parse_metrics(train(tmp_path, config).metrics)]
    assert rates == pytest.approx([5e-4, 5.625e-4, 5e-4, 2.5e-4])


def test_run__ends_or_is_stopped__trackers_are_closed_with_the_first_step_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.calls: list[object] = []

        def write(self, step: int, values: dict[str, float]) -> None:
            self.calls.append(step)

        def close(self) -> None:
            self.calls.append("closed")

    recorders: list[Recorder] = []

    def open_one(execution: object, log: object, world: object, first_step: int) -> list[Recorder]:
        recorders.append(Recorder())
        recorders[-1].calls.append(f"from {first_step}")
        return [recorders[-1]]

    monkeypatch.setattr(loop, "open_trackers", open_one)
    runtime = Runtime.quiet()
    # The images of the third step are being loaded.
    with pytest.raises(InterruptedRunError, match="after step 2 of 4"):
        train(tmp_path, tiny_config(), StopsAfter(runtime.stop, 9), runtime)
    train(tmp_path, tiny_config())
    assert [recorder.calls for recorder in recorders] == [["from 0", 1, 2, "closed"], ["from 2", 3, 4, "closed"]]


def test_run__reported_losses__add_up_to_the_total(tmp_path: Path) -> None:
    # Eq. 3: total = sum of alpha_k times the loss of exit k.
    config = tiny_config(steps=1, alpha=[1.0, 2.0, 5.0])
    (line,) = parse_metrics(train(tmp_path, config).metrics)
    parts = [line["exits"][str(depth)]["loss"] for depth in (1, 2, 3)]
    assert line["loss"] == pytest.approx(parts[0] + 2 * parts[1] + 5 * parts[2], rel=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_run__accumulated_parts__equal_the_big_batch(tmp_path: Path, count: int) -> None:
    samples = DrawnSamples(empty=3)
    whole = train(tmp_path / "whole", tiny_config(steps=2), samples)
    parts = train(tmp_path / "parts", tiny_config(steps=2, execution={"accumulation": count}), samples)
    assert losses_of(parts) == pytest.approx(losses_of(whole), rel=1e-5)
    # From the second step on a rounding difference may choose another uncertain point.
    first_norms = [parse_metrics(result.metrics)[0]["grad_norm"] for result in (whole, parts)]
    assert first_norms[1] == pytest.approx(first_norms[0], rel=1e-5)


def test_run__stochastic_depth_in_accumulated_parts__losses_of_the_big_batch(tmp_path: Path) -> None:
    whole = losses_of(train_swin(tmp_path / "whole"))
    for count in (2, 4):
        parts = losses_of(train_swin(tmp_path / f"parts-{count}", execution={"accumulation": count}))
        assert parts == pytest.approx(whole, rel=2e-5)
    # The draws matter: without them the losses are others.
    assert losses_of(train_swin(tmp_path / "without", drop_path_rate=0.0)) != pytest.approx(whole, rel=1e-3)


def test_run__other_state_of_the_global_generator__same_bits(tmp_path: Path) -> None:
    one, other = (train_swin(tmp_path / str(seed), generator_seed=seed) for seed in (1, 2))
    assert_same_bits(other.weights, one.weights)


@pytest.mark.parametrize(
    ("changes", "stopped_at"),
    [
        ({}, 3),
        ({"exits_per_step": 1, "optimizer": {"ema_decay": 0.9}, "log_every": 3}, 2),
        ({"exits_per_step": 2, "precision": "bfloat16", "execution": {"accumulation": 2}}, 1),
        # Two steps of the deepest exit: stopped among them, and between the two parts.
        ({"exits_per_step": 2, "keep_deepest": True, "deepest_first": 0.4, "optimizer": {"ema_decay": 0.9}}, 1),
        ({"exits_per_step": 1, "deepest_first": 0.4, "log_every": 3}, 2),
        ({"exits_per_step": 2, "loss": {"matching": "deepest"}, "execution": {"accumulation": 2}}, 3),
        ({"exits_per_step": 1, "optimizer": {"kind": "muon", "ema_decay": 0.9}}, 3),
    ],
)
def test_run__stopped_and_resumed__same_bits_as_undisturbed(
    tmp_path: Path, changes: dict[str, Any], stopped_at: int
) -> None:
    config = tiny_config(steps=5, **changes)
    undisturbed = train(tmp_path / "undisturbed", config)
    runtime = Runtime.quiet()
    samples = StopsAfter(runtime.stop, images=4 * stopped_at + 1)
    with pytest.raises(InterruptedRunError, match=rf"SIGTERM stopped the training after step {stopped_at} of 5"):
        train(tmp_path / "stopped", config, samples, runtime)
    resumed = train(tmp_path / "stopped", config)
    assert resumed.first_step == stopped_at
    assert_same_bits(resumed.weights, undisturbed.weights)
    assert resumed.metrics == undisturbed.metrics


def test_run__latest_state_damaged__repeats_steps_to_the_same_bits(tmp_path: Path) -> None:
    config = tiny_config(steps=4)
    undisturbed = train(tmp_path, config)
    (tmp_path / "state-000000004" / "optimizer.safetensors").unlink()
    again = train(tmp_path, config)
    assert again.first_step == 2
    assert_same_bits(again.weights, undisturbed.weights)


def test_run__saved_states__two_at_most(tmp_path: Path) -> None:
    train(tmp_path, tiny_config(steps=5, execution={"checkpoint_every": 1}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "state-000000004", "state-000000005"]


def test_run__one_sampled_exit__deeper_layers_keep_their_weights(tmp_path: Path) -> None:
    config = tiny_config(steps=1, exit_depths=[1], optimizer={"weight_decay": 0.5})
    before = tiny_model().state_dict()
    after = train(tmp_path, config).weights
    layers = "sem_seg_head.pixel_decoder.transformer.encoder.layers"
    assert not torch.equal(after[f"{layers}.0.linear1.weight"], before[f"{layers}.0.linear1.weight"])
    assert torch.equal(after[f"{layers}.1.linear1.weight"], before[f"{layers}.1.linear1.weight"])


def test_run__matching_of_the_deepest__every_exit_takes_that_of_its_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny model has two predictions per exit; the drawn exit comes first, the deepest last.
    matched: list[Tensor] = []

    compute = Criterion.__call__

    def watched(*arguments: Any) -> CriterionOutput:
        out = compute(*arguments)
        matched.append(out.queries)
        return out

    monkeypatch.setattr(Criterion, "__call__", watched)
    exits = {"exits_per_step": 2, "keep_deepest": True, "steps": 2}
    for matching in ("own", "deepest"):
        train(tmp_path / matching, tiny_config(loss={"matching": matching}, **exits))
    own, shared = matched[:2], matched[2:]
    assert all(torch.equal(queries[:2], queries[2:]) for queries in shared)
    assert not all(torch.equal(queries[:2], queries[2:]) for queries in own)
    assert torch.equal(shared[0][2:], own[0][2:])  # the first step's weights are the same


def test_run__deepest_first__its_steps_are_those_of_a_model_with_one_exit(tmp_path: Path) -> None:
    # Law: at a constant rate the first part of the run is the training of the deepest exit alone, bit for bit.
    exits = {"exit_depths": [1, 3], "alpha": [0.5, 4.0]}
    both = train(tmp_path / "both", tiny_config(steps=4, deepest_first=0.5, **exits))
    alone = train(tmp_path / "alone", tiny_config(steps=2, exit_depths=[3]))
    first = load_file(tmp_path / "both" / "state-000000002" / "model.safetensors")
    assert_same_bits(first, alone.weights)
    trained = [sorted(line["exits"]) for line in parse_metrics(both.metrics)]
    assert trained == [["3"], ["3"], ["1", "3"], ["1", "3"]]


def test_run__no_object_in_any_image__every_parameter_but_masks_learns(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(steps=1), DrawnSamples(1, empty=0))
    (line,) = parse_metrics(result.metrics)
    assert line["exits"]["1"]["mask"] == 0.0
    assert line["exits"]["1"]["class"] > 0.0


def test_run__loss_not_finite__names_images_and_keeps_last_state(tmp_path: Path) -> None:
    class Poisoned(DrawnSamples):
        # Half of all steps lie behind when the model breaks; image 4 of the stream's third step is then unlucky.
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self._model = model
            self._left = 9

        def __getitem__(self, key: tuple[int, int]) -> Any:
            self._left -= 1
            if self._left == 0:
                with torch.no_grad():
                    next(self._model.parameters()).fill_(torch.nan)
            return super().__getitem__(key)

    model = tiny_model()
    trainer = Trainer(tiny_config(), model, Poisoned(model), Runtime.quiet(), tmp_path)
    with pytest.raises(
        DataError,
        match=r"The loss of step 3 is not finite, with the images image-\d, image-\d, image-\d, image-\d\. .* "
        "the last good state is that after step 2",
    ):
        trainer.run()
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-000000002"]


def test_run__gradient_not_finite__changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    weight = model.sem_seg_head.predictor.class_embed.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(tiny_config(), model, DrawnSamples(), Runtime.quiet(), tmp_path)
    with pytest.raises(
        DataError, match=r"The gradient of step 1 is not finite.*the last good state is that after step 0"
    ):
        trainer.run()
    assert_same_bits(model.state_dict(), before)


def test_run__float16_gradient_overflows__leaves_steps_out_and_goes_on(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(steps=2, precision="float16"))
    scale = json.loads((tmp_path / "state-000000002" / "values.json").read_text())["scaler"]["scale"]
    lines = parse_metrics(result.metrics)
    # The first scale, 65536, is far too large for these losses: each step out is half a scale.
    assert ["grad_norm" in line for line in lines] == [False, False]
    assert scale == 65536 / 4
    assert_same_bits(result.weights, tiny_model().state_dict())


def test_run__float16_gradient_never_finite__stops_once_the_scale_is_1(tmp_path: Path) -> None:
    model = tiny_model()
    model.sem_seg_head.predictor.class_embed.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = tiny_config(steps=20, batch_size=1, precision="float16", execution={"checkpoint_every": 10})
    trainer = Trainer(config, model, DrawnSamples(), Runtime.quiet(), tmp_path)
    # The scale is 65536 in step 1, 2 in step 16 and 1 in step 17.
    with pytest.raises(
        DataError,
        match=r"The gradient of step 17 is not finite, with the images image-\d\. .* the last good state is that after "
        r"step 10\. .* set precision=float32",
    ):
        trainer.run()
    assert_same_bits(model.state_dict(), before)


def test_run__unreadable_image__its_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^image 2 cannot be read$"):
        train(tmp_path, tiny_config(steps=3), DrawnSamples(4, bad=2))


def test_run__ema__delivers_the_average(tmp_path: Path) -> None:
    # By hand: after one step, average = 0.75 x first + 0.25 x trained.
    first = tiny_model().state_dict()
    trained = train(tmp_path / "plain", tiny_config(steps=1)).weights
    averaged = train(tmp_path / "average", tiny_config(steps=1, optimizer={"ema_decay": 0.75})).weights
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * trained[name])


def test_run__zero_steps__first_weights(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(steps=0))
    assert_same_bits(result.weights, tiny_model().state_dict())
    assert losses_of(result) == []


def test_run__activation_checkpointing__same_bits(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", tiny_config(steps=1))
    saving = train(tmp_path / "saving", tiny_config(steps=1, execution={"activation_checkpointing": True}))
    assert_same_bits(saving.weights, plain.weights)


def test_trainer__batch_with_rest__refused(tmp_path: Path) -> None:
    config = tiny_config(execution={"accumulation": 3})
    with pytest.raises(UsageError, match="batch size is 4, expected a multiple of 3"):
        Trainer(config, tiny_model(), DrawnSamples(), Runtime.quiet(), tmp_path)


def test_run__progress__tells_losses_per_exit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ecocli.runtime.progress import Progress

    runtime = dataclasses.replace(Runtime.quiet(), progress=Progress(interval_s=0.0))
    train(tmp_path, tiny_config(steps=1), runtime=runtime)
    captured = capsys.readouterr()
    assert captured.out == ""
    for word in ("training 1/1 step", "loss", "exit1", "exit2", "exit3", "images_per_s"):
        assert word in captured.err
