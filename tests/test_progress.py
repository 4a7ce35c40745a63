"""One line for a whole run: it knows when it ends, corrects itself, never runs backwards, and is a few lines in a log."""

from __future__ import annotations

import itertools

import pytest
from doppelscan import progress as module
from doppelscan.progress import OTHER, RunProgress, Work, progress, starting


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""

    class Clock:
        now = 1000.0

        def __call__(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", made)
    return made


def worked(bar, clock, units: int, seconds: float) -> None:
    for _ in range(units):
        clock.now += seconds
        bar.update(1)


def test_measured_costs_take_the_place_of_expected_ones(clock):
    plan = {
        "one": {"embed": Work(100, 0.1)},
        "two": {"embed": Work(50, 0.1), "verify": Work(10, 1.0)},
        "three": {OTHER: Work(1, 4)},
    }
    run = RunProgress(plan)
    assert run.remaining == pytest.approx(10 + 5 + 10 + 4)
    with run.shown():
        with run.stage("one"), progress(None, "embed training", "image", total=100) as bar:
            worked(bar, clock, 50, 0.2)
            assert run.to_come() == pytest.approx({"one": 10, "two": 10 + 20, "three": 8}), "all is twice as slow as was thought"
            worked(bar, clock, 50, 0.2)
        with run.stage("two"):
            with progress(None, "verify set", "image", total=10) as bar:
                worked(bar, clock, 5, 0.5)
            assert run.to_come()["two"] == pytest.approx(10 + 2.5), "each kind of work has a cost of its own"
    assert run.seconds == pytest.approx({"one": 20.0, "two": 2.5})


def test_what_is_stored_already_is_not_to_come(clock):
    run = RunProgress({"embed": {"embed": Work(1000, 1.0, one_bar=True)}, "score": {"verify": Work(10, 1.0)}})
    with run.shown(), run.stage("embed"), progress(None, "embed set", "image", total=4):
        assert run.to_come()["embed"] == pytest.approx(4)
    assert list(run.to_come()) == ["score"]


def test_parts_of_one_kind_in_several_bars_do_not_forget_the_others(clock):
    run = RunProgress({"score control": {"verify": Work(100, 1.0)}})
    with run.shown(), run.stage("score control"):
        for number in range(5):
            with progress(None, f"verify control {number}/5", "image", total=20) as bar:
                worked(bar, clock, 20, 1.0)
            assert run.remaining == pytest.approx(80 - 20 * number)


def test_time_without_a_bar_counts_down_and_ends_at_nothing(clock):
    run = RunProgress({"fit": {OTHER: Work(1, 10)}})
    with run.shown(), run.stage("fit"):
        clock.now += 4
        assert run.remaining == pytest.approx(6)
        clock.now += 40
        assert run.remaining == 0


def test_what_is_under_way_counts_down_while_it_takes_long(clock):
    """A volume takes ten seconds; the time left stood still meanwhile."""
    run = RunProgress({"one": {"plant": Work(10, 10.0)}})
    with run.shown(), run.stage("one"), progress(None, "plant copies", "volume", total=10) as bar:
        worked(bar, clock, 2, 10.0)
        assert run.remaining == pytest.approx(80)
        clock.now += 6
        assert run.remaining == pytest.approx(74)
        clock.now += 60
        assert run.remaining == pytest.approx(70), "of one that hangs no more than itself"


def test_a_kind_that_is_met_for_the_first_time_moves_the_shown_end_step_by_step(clock, capsys):
    """The line told 12, 21 and 16 minutes within twenty seconds."""
    run = RunProgress({"one": {"embed": Work(100, 1.0)}, "two": {"verify": Work(100, 1.0)}})
    shown = []
    with run.shown():
        with run.stage("one"), progress(None, "embed set", "image", total=100) as bar:
            worked(bar, clock, 100, 1.0)
        with run.stage("two"), progress(None, "verify set", "image", total=100) as bar:
            for _ in range(30):
                worked(bar, clock, 1, 6.0)
                run.words()
                shown.append(run._ending[0])
    steps = [abs(b - a) for a, b in itertools.pairwise(shown)]
    assert max(steps) < 0.4 * 500, "the end is 500 seconds later than was thought"
    assert shown[-1] - (1000.0 + 100 + 600) == pytest.approx(0, abs=40), "and gets there"


def test_the_first_second_of_work_does_not_turn_the_estimate_over(clock):
    run = RunProgress({"one": {"embed": Work(1000, 0.01)}})
    left = []
    with run.shown(), run.stage("one"), progress(None, "embed set", "image", total=1000) as bar:
        for _ in range(20):
            worked(bar, clock, 1, 0.1)
            left.append(run.remaining)
    assert all(b < 1.7 * a for a, b in itertools.pairwise(left)) and left[-1] == pytest.approx(98, rel=0.05)


def test_a_run_inside_of_a_run_has_no_line_of_its_own(clock, capsys):
    """A benchmark printed the lines of each audit in it, each with an end of its own."""
    outer, inner = (
        RunProgress({"ours": {OTHER: Work(1, 10)}, "rivals": {OTHER: Work(1, 5)}}),
        RunProgress({"embed": {"embed": Work(10, 3.0)}}),
    )
    with outer.shown():
        with outer.stage("ours"), inner.shown(), inner.stage("embed"), progress(None, "embed set", "image", total=10) as bar:
            assert outer.to_come()["ours"] == pytest.approx(30), "what the inner one knows better"
            worked(bar, clock, 10, 3.0)
        with outer.stage("rivals"):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith(("embed", "ours: embed"))] == ["ours: embed"] * 2
    assert sum(line.startswith("done") for line in lines) == 1 and "embed" in inner.seconds


def test_the_share_never_falls_and_a_log_gets_a_line_a_stage_and_one_every_ten_seconds(clock, capsys):
    run = RunProgress({"one": {"embed": Work(10, 1.0)}, "two": {"verify": Work(10, 1.0)}})
    with run.shown():
        with run.stage("one"), progress(None, "embed set", "image", total=10) as bar:
            worked(bar, clock, 10, 3.0)
        with run.stage("two"), progress(None, "verify set", "image", total=10) as bar:
            worked(bar, clock, 10, 60.0)
    lines = capsys.readouterr().err.splitlines()
    shares = [int(line.split("%")[0].split()[-1]) for line in lines]
    assert shares == sorted(shares) and shares[-1] == 100 and lines[-1].startswith("done")
    assert all(" elapsed" in line for line in lines) and all("left, ends " in line for line in lines[:-1])
    assert [sum(line.startswith(stage) for line in lines) for stage in ("one", "two", "done")] == [3, 11, 1]


def test_a_loop_inside_of_a_run_gives_what_it_is_given_and_draws_no_bar(clock, capsys):
    run = RunProgress({"one": {}})
    with run.shown(), run.stage("one"):
        assert list(progress("abc", "hash training", "image")) == ["a", "b", "c"]
        assert list(progress(iter("abc"), "hash training", "image")) == ["a", "b", "c"]
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert list(progress("abc", "hash training", "image")) == ["a", "b", "c"]
    assert "hash training" in capsys.readouterr().err, "others keep their bars"


def test_an_error_ends_the_line_and_the_next_run_has_its_own(clock, capsys):
    run = RunProgress({"one": {}})
    with pytest.raises(KeyError), run.shown(), run.stage("one"):
        raise KeyError
    assert "100 %" not in capsys.readouterr().err
    list(progress("abc", "after", "image"))
    assert "after" in capsys.readouterr().err


def test_a_long_start_is_no_work_that_was_done(clock, capsys):
    """On a busy machine the first line said 86 %, and so did all others."""
    run = RunProgress({"one": {OTHER: Work(1, 10.0)}})
    with starting("doppelscan audit"):
        clock.now += 60
        with run.shown(), run.stage("one"):
            assert run.words().split()[1] == "0" and "01:00 elapsed" in run.words()
            clock.now += 5
            assert 30 <= int(run.words().split()[1]) <= 60
    capsys.readouterr()


def test_what_a_run_took_begins_with_its_command(clock, capsys):
    """Loading libraries and weights was in no stage: 23 s of 31."""
    run = RunProgress({"one": {OTHER: Work(1, 1.0)}})
    with starting("doppelscan audit"):
        clock.now += 8
        with starting():  # as the function of the same run says again
            clock.now += 1
            with run.shown(), run.stage("one"):
                clock.now += 2
    assert run.seconds == {"start": 9.0, "one": 2.0} and run.elapsed == pytest.approx(11)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("doppelscan audit: starting.") and sum("starting" in line for line in told) == 1
    again = RunProgress({"one": {}})
    with again.shown(), again.stage("one"):
        pass
    assert "start" not in again.seconds, "the next run of this process was not started then"


def test_a_run_inside_of_another_one_does_not_start_again(clock, capsys):
    outer, inner = RunProgress({"audit": {}}), RunProgress({"fit": {}})
    with outer.shown(), outer.stage("audit"), starting("doppelscan audit"):
        clock.now += 5
        with inner.shown(), inner.stage("fit"):
            pass
    assert "start" not in inner.seconds and "starting" not in capsys.readouterr().err


def test_what_an_earlier_run_stored_is_not_to_come_from_the_beginning(clock):
    """Of a store that held everything the whole time of a first run was told as left."""
    run = RunProgress(
        {"embed": {"hash": Work(100, 0.01), "embed": Work(100, 1.0)}, "score": {"verify": Work(100, 1.0), OTHER: Work(1, 3)}}
    )
    run.expect("embed", "embed", 40)
    run.expect("no stage", "embed", 40)
    assert run.to_come() == pytest.approx({"embed": 41, "score": 103})
    run.expect("embed", "embed", 0)
    run.expect_stored()
    assert run.to_come() == pytest.approx({"embed": 1, "score": 8})


def test_what_is_written_between_stages_is_written_within_a_long_one_too(clock):
    """The page told an end that was expected when a stage of an hour began."""
    asked = []
    run = RunProgress({"score": {"verify": Work(100, 1.0)}}, lambda: asked.append(clock.now))
    with run.shown(), run.stage("score"), progress(None, "verify", "image", total=100) as bar:
        worked(bar, clock, 20, 1.0)
    assert (
        asked[0] == 1000.0
        and [round(b - a) for a, b in itertools.pairwise(asked[1:])] == [5] * (len(asked) - 2)
        and len(asked) >= 4
    )
