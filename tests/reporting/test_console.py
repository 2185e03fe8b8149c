"""The lines and bars of a run, on a simulated clock and terminal."""

import os

import pytest

from borrow_det.reporting.console import Console


def make(num_steps, **options):
    console = Console(num_steps, **options)
    console.begin(0)
    return console


@pytest.mark.parametrize(
    ("waited", "said"),
    [(0.049, ""), (0.05, "  data_wait 5%"), (0.9, "  data_wait 90%")],
)
def test_a_line_says_that_steps_wait_for_batches(capsys, waited, said):
    console = Console(num_steps=20)
    means = {"loss": 1.5, "images_per_second": 12.34, "data_wait": waited}
    console.metrics(10, means)
    assert capsys.readouterr().out == (
        f"step 10/20  loss 1.5000  12.3 images/s{said}  \n"
    )


def test_the_time_is_estimated_once_without_compilation(clock, capsys):
    console = make(480)
    clock(60)  # The first step compiles.
    for step in range(1, 12):
        console.advance(step)
        clock(1.5)
    assert capsys.readouterr().out.splitlines() == [
        "compiling the training step ...",
        "about 12 min for 480 steps, 1.5 s per step (compilation and evaluations "
        "not included)",
    ]


def test_slow_steps_are_estimated_after_the_first_that_counts(clock, capsys):
    console = make(10)
    for step in range(1, 4):
        console.advance(step)
        clock(40)
    capsys.readouterr()
    console.advance(4)
    assert capsys.readouterr().out.startswith("about 7 min for 10 steps, 40 s per step")


def test_a_run_that_takes_days_on_a_cpu_gets_advice(clock, capsys):
    advice = "folder_narrow"
    for num_steps, on_cpu, expected in (
        (10_000, True, True),
        (10_000, False, False),
        (100, True, False),
    ):
        console = make(num_steps, on_cpu=on_cpu)
        for step in range(1, 10):
            console.advance(step)
            clock(10)
        assert (advice in capsys.readouterr().out) == expected


def test_a_resumed_run_counts_the_steps_of_this_start(clock, capsys):
    console = Console(1_000)
    console.begin(900)
    for step in range(901, 910):
        console.advance(step)
        clock(2)
    assert "about 3 min for 100 steps, 2 s per step" in capsys.readouterr().out
    console.metrics(910, {"loss": 1.0, "images_per_second": 4.0, "data_wait": 0.0})
    assert capsys.readouterr().out.endswith("  3:00 left\n")


def test_evaluations_do_not_count_as_steps(clock, capsys):
    console = make(100)
    for step in range(1, 20):
        console.advance(step)
        clock(1)
        with console.evaluating("pets val", 4):
            clock(50)
    console.metrics(20, {"loss": 1.0, "images_per_second": 4.0, "data_wait": 0.0})
    out = capsys.readouterr().out
    assert "1 s per step" in out
    assert out.endswith("  1:20 left\n")


def test_without_a_terminal_a_long_evaluation_prints_lines(clock, capsys):
    console = Console(10)
    with console.evaluating("pets val", 3_000) as done:
        for count in range(100, 3_001, 100):
            clock(4)
            done(count)
    assert capsys.readouterr().out.splitlines() == [
        "evaluating pets val, 3,000 images ...",
        "evaluating pets val: 800/3,000 images",
        "evaluating pets val: 1,600/3,000 images",
        "evaluating pets val: 2,400/3,000 images",
    ]


def test_on_a_terminal_the_bar_says_what_goes_on(clock, terminal):
    console = make(20, stream=terminal)
    assert "compiling the training step: " in terminal.new()
    console.advance(1)
    console.advance(2)
    assert "compiling" not in terminal.new().split("\r")[-1]
    with console.evaluating("pets val", 40) as done:
        assert "evaluating pets val:   0%" in terminal.new()
        done(40)
    assert "\n" not in terminal.new().strip("\n")
    console.evaluation(20, "pets val", {"AP": 0.5, "x": 1.0}, ["AP", "AP50"])
    assert "step 20  pets val: AP 0.5000\n" in terminal.new()


def test_a_terminal_without_a_size_gets_lines(monkeypatch, terminal):
    monkeypatch.setattr(terminal, "fileno", lambda: 1)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    make(20, stream=terminal)
    assert terminal.new() == "compiling the training step ...\n"


def test_the_bar_never_shows_an_old_loss(clock, terminal):
    console = make(1_000, stream=terminal)
    shown = None
    shown_at = 0.0
    now = 0.0
    for step in range(1, 200):
        clock(0.3)
        now += 0.3
        console.loss(lambda step=step: float(step))
        text = terminal.new()
        if "loss" in text:
            shown = float(text.rpartition("loss ")[2].split()[0].rstrip("]"))
            assert shown == step
            shown_at = now
        assert now - shown_at < 2.0
    assert shown is not None


def test_the_loss_is_read_at_most_once_a_second(clock, terminal):
    console = make(1_000, stream=terminal)
    read = []

    def loss():
        read.append(1)
        return 0.5

    for _ in range(100):
        clock(0.1)
        console.loss(loss)
    assert len(read) == 10


def test_without_a_terminal_no_loss_is_read(clock, capsys):
    console = make(10)

    def never():
        raise AssertionError("the loss was read")

    clock(10)
    console.loss(never)
