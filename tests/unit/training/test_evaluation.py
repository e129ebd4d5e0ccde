"""Evaluations between the steps, by a stand-in that scores weights: when, of what, and after interruptions."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import DrawnSamples, tiny_config, tiny_model
from torch import Tensor

from ecocli.config.train_parent import TrainParentConfig
from ecocli.errors import DataError, InterruptedRunError
from ecocli.runtime.context import Runtime
from ecocli.training import loop
from ecocli.training.evaluation import ExitEvaluator, describe_qualities, name_qualities
from ecocli.training.loop import Trainer, TrainingResult
from ecocli.training.metrics_log import evaluation_lines, loss_lines, parse_metrics


def quality(pq: float) -> dict[str, float | None]:
    """A quality without stuff."""
    return {"pq": pq, "sq": 0.5, "rq": 0.25, "pq_things": pq, "pq_stuff": None}


class KilledError(Exception):
    """Stands in for a kill: nothing is caught and nothing saved."""


class Judge:
    """Scores weights by a digest of their bits, so that other weights give other numbers; may be interrupted."""

    def __init__(self, *, stop_at: int = 0, kill_at: int = 0) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self._stop_at = stop_at
        self._kill_at = kill_at

    @property
    def num_images(self) -> int:
        return 9

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[int, dict[str, float | None]] | None:
        self.seen.append({name: tensor.clone() for name, tensor in weights.items()})
        if len(self.seen) == self._kill_at:
            raise KilledError
        if len(self.seen) == self._stop_at:
            return None
        total = sum(float(tensor.double().abs().sum()) for tensor in weights.values())
        return {depth: quality(total % depth / depth) for depth in (1, 2, 3)}


def train(
    folder: Path, config: TrainParentConfig, judge: ExitEvaluator | None, runtime: Runtime | None = None
) -> TrainingResult:
    return Trainer(config, tiny_model(), DrawnSamples(), runtime or Runtime.quiet(), folder, judge).run()


def evaluating(every: int = 2, **changes: Any) -> TrainParentConfig:
    return tiny_config(**{"steps": 5, "evaluation": {"every": every}, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """What five steps come to, whatever states are saved on the way."""
    return train(tmp_path_factory.mktemp("undisturbed"), evaluating(), Judge())


def test_judge__the_protocol__met() -> None:
    assert isinstance(Judge(), ExitEvaluator)


def test_run__every_second_of_five_steps__lines_of_their_own_after_the_losses(tmp_path: Path) -> None:
    lines = parse_metrics(train(tmp_path, evaluating(), Judge()).metrics)
    assert [("evaluation" in line, line["step"]) for line in lines] == [
        (False, 1),
        (False, 2),
        (True, 2),
        (False, 3),
        (False, 4),
        (True, 4),
        (False, 5),
        (True, 5),
    ]
    assert len(loss_lines(lines)) == 5
    for line in evaluation_lines(lines):
        assert line.keys() == {"step", "evaluation"}
        assert (line["evaluation"]["images"], line["evaluation"]["split"]) == (9, "val")
        assert list(line["evaluation"]["exits"]) == ["1", "2", "3"]
        # Stuff is not defined, so it is not told.
        assert set(line["evaluation"]["exits"]["1"]) == {"pq", "sq", "rq", "pq_things"}


def test_run__evaluated_or_not__same_bits_and_same_losses(tmp_path: Path) -> None:
    on, off = train(tmp_path / "on", evaluating(1), Judge()), train(tmp_path / "off", evaluating(0), None)
    assert all(torch.equal(on.weights[name], off.weights[name]) for name in off.weights)
    assert loss_lines(parse_metrics(on.metrics)) == parse_metrics(off.metrics)
    assert off.evaluation_seconds == 0.0
    assert 0.0 < on.evaluation_seconds < on.seconds


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_run__evaluated__the_weights_an_artifact_of_that_step_holds(tmp_path: Path, decay: float) -> None:
    judge, changes = Judge(), {"optimizer": {"ema_decay": decay}}
    train(tmp_path / "long", evaluating(3, **changes), judge)
    short = train(tmp_path / "short", evaluating(0, steps=3, **changes), None)
    assert len(judge.seen) == 2
    assert all(torch.equal(judge.seen[0][name], tensor) for name, tensor in short.weights.items())


def test_run__zero_steps__nothing_evaluated(tmp_path: Path) -> None:
    judge = Judge()
    assert parse_metrics(train(tmp_path, evaluating(1, steps=0), judge).metrics) == []
    assert judge.seen == []


@pytest.mark.parametrize("checkpoint_every", [1, 2, 3, 100])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_run__killed_while_evaluating__same_bytes_as_undisturbed(
    undisturbed: TrainingResult, tmp_path: Path, number: int, checkpoint_every: int
) -> None:
    config = evaluating(execution={"checkpoint_every": checkpoint_every})
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, Judge(kill_at=number))
    resumed = train(tmp_path / "killed", config, Judge())
    due = (2, 4, 5)[number - 1]
    assert resumed.first_step == (5 if due == 5 else due - due % checkpoint_every)
    assert resumed.metrics == undisturbed.metrics
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in undisturbed.weights.items())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_run__signal_while_evaluating__state_saved_and_evaluation_made_up(
    undisturbed: TrainingResult, tmp_path: Path, number: int
) -> None:
    config = evaluating(execution={"checkpoint_every": 100})
    runtime = Runtime.quiet()
    runtime.stop.reason = "SIGTERM"
    due = (2, 4, 5)[number - 1]
    stopped = tmp_path / "stopped"
    with pytest.raises(
        InterruptedRunError,
        match=rf"SIGTERM stopped the evaluation after step {due} of 5\. The state is saved in .*same",
    ):
        train(stopped, config, Judge(stop_at=number), runtime)
    assert [line["step"] for line in evaluation_lines(parse_metrics((stopped / "metrics.jsonl").read_text()))] == [
        2,
        4,
    ][: number - 1]
    judge = Judge()
    resumed = train(stopped, config, judge)
    assert resumed.first_step == due
    assert len(judge.seen) == 4 - number
    assert resumed.metrics == undisturbed.metrics


def test_run__evaluated_before_the_interruption__not_again(tmp_path: Path) -> None:
    train(tmp_path, evaluating(), Judge())
    judge = Judge()
    train(tmp_path, evaluating(), judge)
    assert judge.seen == []


def test_run__image_of_the_evaluation_unreadable__its_error_and_the_state_stays(tmp_path: Path) -> None:
    class Broken(Judge):
        def __call__(self, weights: Mapping[str, Tensor]) -> None:
            raise DataError("image 3 cannot be read")

    with pytest.raises(DataError, match=r"^image 3 cannot be read$"):
        train(tmp_path, evaluating(), Broken())
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-000000002"]


def test_trainer__no_evaluator_where_one_is_needed__refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.every is 2, but there is no evaluator"):
        train(tmp_path, evaluating(), None)


def test_run__trackers_and_log__told_of_every_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.values: list[tuple[int, dict[str, float]]] = []

        def write(self, step: int, values: dict[str, float]) -> None:
            self.values.append((step, values))

        def close(self) -> None:
            pass

    recorder = Recorder()
    monkeypatch.setattr(loop, "open_trackers", lambda *_: [recorder])
    runtime = dataclasses.replace(Runtime.quiet(), log=logging.getLogger("test"))
    with caplog.at_level(logging.INFO, "test"):
        result = train(tmp_path, evaluating(steps=2), Judge(), runtime)
    (line,) = evaluation_lines(parse_metrics(result.metrics))
    step, values = recorder.values[-1]
    assert step == 2
    assert values["evaluation.exits.3.pq"] == line["evaluation"]["exits"]["3"]["pq"]
    assert len(values) == 3 * 4
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage().startswith("step 2: PQ on 9 images at exits 1 2 3: ")
    assert record.getMessage().endswith(" s)")


def test_name_qualities__undefined_ones__left_out() -> None:
    found = {4: dict.fromkeys(quality(0.0)), 5: quality(0.125)}
    assert name_qualities(found) == {
        "evaluation.exits.5.pq": 0.125,
        "evaluation.exits.5.sq": 0.5,
        "evaluation.exits.5.rq": 0.25,
        "evaluation.exits.5.pq_things": 0.125,
    }
    assert describe_qualities(found, 64) == "PQ on 64 images at exits 4 5: - 12.5"
    json.dumps(name_qualities(found), allow_nan=False)
