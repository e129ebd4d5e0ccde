"""Progress lines, worked by hand with a clock of our own; the bar is only checked to appear on a terminal."""

import io
import sys

import pytest

from ecocli.runtime.progress import Progress, format_duration


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (90000, "25:00:00")])
def test_format_duration__seconds__are_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_task__in_a_log__writes_at_most_every_ten_seconds_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with Progress(clock=clock).task("training", total=8) as task:
        for _ in range(8):
            clock.now += 4
            task.advance(1, loss=clock.now / 10)
    # Steps end at 4, 8, 12, ... s: lines at 12 and 24 s, and the closing one at 32 s.
    assert capsys.readouterr().err.splitlines() == [
        "training 3/8 step 37%  0.25 step/s  0:00:20 left  loss 1.2",
        "training 6/8 step 75%  0.25 step/s  0:00:08 left  loss 2.4",
        "training 8/8 step 100%  0.25 step/s  0:00:32 elapsed  loss 3.2",
    ]


def test_task__resumed__counts_only_new_units_for_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with Progress(clock=clock).task("training", total=120, completed=100) as task:
        clock.now += 10
        task.advance(10)
    assert "training 110/120 step 91%  1 step/s  0:00:10 left\n" in capsys.readouterr().err


def test_task__unknown_total__shows_count_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with Progress(clock=clock).task("reading", unit="image") as task:
        clock.now += 2
        task.advance(4)
    assert capsys.readouterr().err == "reading 4 image  2 image/s  0:00:02 elapsed\n"


def test_task__nothing_to_do__is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(clock=_Clock()).task("reading", total=0):
        pass
    assert capsys.readouterr().err == "reading 0/0 step 100%  0:00:00 elapsed\n"


def test_task__error_inside__still_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Progress(clock=_Clock()).task("reading", total=2) as task:
            task.advance()
            raise KeyError("one of the images")

    with pytest.raises(KeyError, match="one of the images"):
        fail()
    assert capsys.readouterr().err.startswith("reading 1/2 step 50%")


def test_task__disabled__writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(enabled=False).task("reading", total=1) as task:
        task.advance(1, loss=1.0)
        assert task.completed == 1
    assert capsys.readouterr() == ("", "")


def test_task__default_stream__is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().task("reading", total=1) as task:
        task.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("reading 1/1 step 100%")


def test_task__terminal__draws_nested_bars_and_leaves_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress()
    with progress.task("training", total=2) as outer:
        outer.advance(1, loss=0.25)
        with progress.task("checking", total=3, unit="image") as inner:
            inner.advance(3)
            sys.stdout.write("the result\n")
        outer.advance(1)
    shown = terminal.getvalue()
    assert "training" in shown
    assert "2/2 step" in shown
    assert "loss 0.25" in shown
    assert "3/3 image" in shown
    assert capsys.readouterr().out == "the result\n"


@pytest.mark.parametrize("stream", [io.StringIO, _Terminal])
def test_task__markup_and_control_characters_in_a_name__are_plain_text(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stream()
    monkeypatch.setattr(sys, "stderr", found)
    with Progress(interval_s=0.0).task("checking [/nope][bold]x\x1b]0;title\x07", total=1) as task:
        task.advance()
    assert "[/nope][bold]x" in found.getvalue()
    assert "\x1b]0;" not in found.getvalue()
