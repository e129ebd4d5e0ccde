from pathlib import Path

from ecocli.training.metrics_log import (
    MetricsLog,
    MetricsWindow,
    evaluation_lines,
    loss_lines,
    nest_values,
)


def test_take_means__values_in_some_steps__means_over_those() -> None:
    window = MetricsWindow()
    window.add({"loss": 1.0, "exits.2.loss": 4.0})
    window.add({"loss": 2.0, "grad_norm": None})
    window.add({"loss": 6.0, "grad_norm": 3.0})
    assert window.take_means() == {"loss": 3.0, "exits.2.loss": 4.0, "grad_norm": 3.0}
    assert window.take_means() == {}


def test_metrics_window__restored__goes_on() -> None:
    window = MetricsWindow()
    window.add({"loss": 1.0})
    restored = MetricsWindow(window.state())
    restored.add({"loss": 2.0})
    assert restored.take_means() == {"loss": 1.5}
    assert window.take_means() == {"loss": 1.0}


def test_nest_values__dotted_names__nested_by_exit() -> None:
    found = nest_values(5, {"loss": 1.0, "exits.2.loss": 2.0, "exits.2.dice": 3.0})
    assert found == {"step": 5, "loss": 1.0, "exits": {"2": {"loss": 2.0, "dice": 3.0}}}


def test_resume__file_changed_since_the_state__the_states_lines_alone(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.resume("")
    for step in (1, 2):
        log.write({"step": step, "loss": 0.1 * step})
    saved = log.text
    log.write({"step": 3, "loss": 0.3})
    log.path.write_text('\n{"step": 1, "loss": 9.0}\n{"step": 4, "lo')
    log = MetricsLog(log.path)
    log.resume(saved)
    log.write({"step": 3, "loss": 7.0})
    expected = '{"loss": 0.1, "step": 1}\n{"loss": 0.2, "step": 2}\n{"loss": 7.0, "step": 3}\n'
    assert log.path.read_text() == log.text == expected


def test_resume__nothing_there__empty_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.resume("")
    assert log.path.read_text() == ""


def test_holds_evaluation__loss_and_evaluation_lines__told_apart(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.resume("")
    assert not log.holds_evaluation(2)
    loss = nest_values(2, {"loss": 1.0, "exits.3.loss": 2.0})
    evaluation = nest_values(2, {"evaluation.exits.3.pq": 0.5})
    log.write(loss)
    assert not log.holds_evaluation(2)
    log.write(evaluation)
    assert log.holds_evaluation(2)
    assert not log.holds_evaluation(1)
    lines = log.lines
    assert (loss_lines(lines), evaluation_lines(lines)) == ([loss], [evaluation])
