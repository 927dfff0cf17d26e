"""What people see: aligned, coloured, no secrets before the end, and no text that a terminal would obey."""

import io
import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from toy import SKIP, ToyTask, play_script, speak, toy_game

import tracer_env
from tracer_env import Control, Question, Utterance
from tracer_env.rendering import clean, render, render_ansi, show

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
EVIL = (
    "\x1b[2J\x1b]0;title\x07[bold red]loud[/] \x9b31m \u202egnol\u2066 \x00\x7f :smile:\n  4  reviewer_9   SPEAK  RIGHT"
)


def lines_of(state, width=100):
    return COLOURS.sub("", render_ansi(state, width)).splitlines()


def heads_of(state, width=100):
    """The lines of columns: those that start with a round's number."""
    return [line for line in lines_of(state, width) if re.match(r" {0,2}\d+  \w", line)]


def shown(state, **settings):
    console = Console(file=io.StringIO(), **{"width": 80, "color_system": None, **settings})
    show(state, console)
    return console.file.getvalue()


@pytest.fixture
def states():
    """Every state of one game, with a wrong and a right proposal, reviews, a SKIP and every kind of flag."""
    corrected = SKIP._replace(utterance=Utterance("?" * 3000))
    game = toy_game(proposers=11, rounds=7, max_utterance_chars=400)
    return play_script(
        game, 5, corrected, speak("RIGHT", 12_345), speak("四十二" * 30), speak("hm?"), SKIP, SKIP, speak("5")
    )


def test_the_plain_text_is_what_it_was(states):
    env = tracer_env.parallel_env(ToyTask())
    env.reset(options={"index": 5})
    assert (
        env.render()
        == render(env.dialogue)
        == "Question toy/5: Which number is 5?\n" + ("standing answer: None   votes: +0   tokens: 0\n")
    )
    assert not COLOURS.search(render(states[-1]))


def test_the_mode_decides():
    env = tracer_env.parallel_env(ToyTask(), render_mode="ansi")
    env.reset(options={"index": 5})
    assert env.render() == render_ansi(env.dialogue)
    assert COLOURS.search(env.render())


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_columns_align_and_nothing_is_wider_than_asked(states, width):
    heads = heads_of(states[-1], width)
    assert len(heads) == 7
    assert {head.index(word) for head in heads for word in ("SPEAK", "SKIP") if word in head} == {18}
    edges = {cell_len(head[: head.index(" tokens")]) for head in heads if " tokens" in head}
    assert len(edges) == 1, "token counts end in one column, wide characters or not"
    assert "…" in heads[2], "a long answer is cut"
    flags = {cell_len(head[: head.index(word)]) for head in heads for word in ("clipped", "invalid") if word in head}
    assert len(flags) == (width > 60)
    assert all(any(word in line for line in lines_of(states[-1], width)) for word in ("control_corrected", "invalid"))
    assert max(map(cell_len, lines_of(states[-1], width))) <= width
    assert width == 60 or not any(line.endswith(" ") for line in lines_of(states[-1], width))


def test_everything_is_there(states):
    heads = heads_of(states[-1])
    for head, words in zip(
        heads,
        [
            ("1", "proposer_0", "SPEAK", "answer ???", "~", "clipped, control_corrected"),
            ("2", "reviewer_0", "SPEAK", "RIGHT", "12345 tokens"),
            ("3", "proposer_1", "SPEAK", "answer 四十二"),
            ("4", "reviewer_0", "SPEAK", "no verdict", "invalid"),
            ("5", "proposer_2", "SKIP"),
            ("6", "reviewer_0", "SKIP"),
            ("7", "proposer_3", "SPEAK", "answer 5 ✓"),
        ],
        strict=True,
    ):
        for word in words:
            assert word in head
    assert re.search(r"standing 5 +votes 0 +tokens \d+ +calls 5 +gold 5 +✓ right", lines_of(states[-1])[-1])
    assert re.search(r"standing none +votes 0 +tokens 0 +calls 0$", lines_of(states[0])[-1])
    assert "Which number is 5?" in lines_of(states[-1])[1]


def test_a_spent_budget_is_named():
    state = play_script(toy_game(token_budget=5), 3, speak("4", 9))[-1]
    assert state.truncated
    assert lines_of(state)[-1].endswith("✗ wrong   token budget spent")


def test_skips_are_dim_and_outcomes_coloured(states):
    rendered = render_ansi(states[-1]).splitlines()
    skip = next(line for line in rendered if "SKIP" in line)
    speech = next(line for line in rendered if "SPEAK" in line)
    assert re.search(r"\x1b\[2m[^\x1b]*SKIP", skip)
    assert not re.search(r"\x1b\[2m[^\x1b]*SPEAK", speech)
    assert "\x1b[31manswer ???" in speech
    assert "\x1b[32manswer 5 ✓" in rendered[-3]
    assert "\x1b[1;32m" in rendered[-1]


def flip(state):
    """The same game, had right been wrong: what must look alike while it runs."""
    turns = tuple(t if t.correct is None else t._replace(correct=not t.correct) for t in state.turns)
    standing = None if state.standing is None else state.standing._replace(correct=not state.standing.correct)
    return state._replace(turns=turns, standing=standing, question=replace(state.question, gold="another gold"))


def test_no_secret_before_the_end(states):
    for state in states[:-1]:
        assert render_ansi(flip(state)) == render_ansi(state)
        assert shown(flip(state)) == shown(state)
    over = states[-1]
    assert render_ansi(flip(over)) != render_ansi(over)
    assert shown(flip(over)) != shown(over)
    assert "another gold" in shown(flip(over))


def test_model_text_cannot_leave_its_place():
    question = Question(f"id{EVIL}", f"What?{EVIL}", f"gold{EVIL}")
    game = toy_game(rounds=3)
    state = game.start(question)
    for action in (speak(EVIL), speak(EVIL), SKIP):
        state = game.advance(state, {game.acting(state)[0]: action})
    heads = [line for line in lines_of(state) if re.match(r" {0,2}\d+  \w", line)]
    assert len(heads) == 3, "a forged head stays behind its bar"
    text = COLOURS.sub("", render_ansi(state))
    assert "[bold red]loud[/]" in text.splitlines()[0], "in the title, too"
    assert text.count("[bold red]loud[/]") >= 5
    assert ":smile:" in text
    assert r"\x1b[2J\x1b]0;title\x07" in text
    assert r"\u202egnol\u2066 \x00\x7f" in text
    assert shown(state, width=400).count("\x1b") == 0


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_text_reaches_the_terminal_as_a_command(question, answer, gold):
    game = toy_game(rounds=1, reviewers=0)
    state = game.start(Question(question, question, gold))
    both = shown(state)
    state = game.advance(state, {game.acting(state)[0]: speak(answer)})
    both += shown(state)
    odd = {c for c in both if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c != "\n"}
    odd |= {c for c in both if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "PDI")}
    assert not odd
    # the coloured one has the same characters, and the commands of colours in between
    assert not {c for c in COLOURS.sub("", render_ansi(state)) if ord(c) < 32 and c != "\n"}


def test_clean_keeps_what_is_harmless():
    assert clean("a\tb\nc\r\nd é 👩\u200d🚀 \\x1b") == "a\tb\nc\nd é 👩\u200d🚀 \\x1b"
    assert clean("a\rb\x85c\u2028\ud800") == r"a\rb\x85c\u2028\ud800"


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "20"}, {"FORCE_COLOR": "1"}])
def test_the_ansi_string_does_not_depend_on_the_machine(states, monkeypatch, env):
    expected = render_ansi(states[-1])
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert render_ansi(states[-1]) == expected
    assert "\x1b[" in expected


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "64")
    return monkeypatch


def play_human(make):
    env = make(ToyTask(), render_mode="human", rounds=3)
    env.reset(options={"index": 5})
    yield
    for text in ("4", "WRONG", "5"):
        action = {"control": Control.SPEAK, "utterance": text}
        env.step(action if make is not tracer_env.parallel_env else dict.fromkeys(env.possible_agents, action))
        yield


@pytest.mark.parametrize("make", [tracer_env.env, tracer_env.raw_env, tracer_env.parallel_env])
def test_human_shows_the_dialogue_as_it_is_played(make, terminal, capsys):
    printed = [capsys.readouterr().out for _ in play_human(make)]
    assert "Which number is 5?" in printed[0]
    for k, words in enumerate([("answer 4", "standing 4"), ("WRONG", "votes -1"), ("answer 5", "gold 5")], start=1):
        assert [line.split()[0] for line in printed[k].splitlines() if "SPEAK" in line] == [str(k)]
        for word in words:
            assert word in printed[k]
    assert max(cell_len(line) for text in printed for line in text.splitlines()) == 64
    assert not any("\x1b" in text for text in printed), "what goes into a pipe has no colours"


@pytest.mark.parametrize("no_color", [False, True])
def test_human_honours_no_color(no_color, terminal, capsys):
    terminal.setenv("FORCE_COLOR", "1")
    if no_color:
        terminal.setenv("NO_COLOR", "1")
    list(play_human(tracer_env.parallel_env))
    printed = capsys.readouterr().out
    colours = re.findall(r"\x1b\[(?:[0-9;]*;)?3[0-7]m", printed)
    assert bool(colours) != no_color
    assert "reviewer_0" in printed


def test_a_stream_without_unicode_gets_question_marks():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    state = play_script(toy_game(rounds=1), 5, speak("四十二 ✓"))[-1]
    show(state, Console(file=stream, width=80))
    assert b"answer ??? ?" in stream.buffer.getvalue()
