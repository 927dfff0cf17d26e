"""A person at the table: scripted answers, bad answers, machines beside people, and the real command in a terminal."""

import fcntl
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from rich.console import Console
from toy import ToyTask, toy_game

import tracer_env
from tracer_agents import cli
from tracer_agents.cli import main
from tracer_agents.controllers.fixed import make_fixed
from tracer_agents.errors import RunDirectoryError
from tracer_agents.generators import policies
from tracer_agents.generators.scripted import ScriptedGenerator
from tracer_agents.play import Machine, Person, choose_seats, play_game, play_in_terminal
from tracer_agents.rollout import Player
from tracer_env import Control, Game, Question
from tracer_env.errors import ConfigError, UnknownNameError

EVIL = "\x1b[2J [bold red]loud[/] \u202egnol"


class Table:
    """A console, and a person who answers by a script and remembers what the screen showed at each question."""

    def __init__(self, *answers, width=100):
        self.console = Console(file=io.StringIO(), width=width, color_system=None)
        self.answers = list(answers)
        self.screens = []

    @property
    def screen(self):
        return self.console.file.getvalue()

    def ask(self, prompt):
        self.screens.append(self.screen)
        self.console.file.write(prompt)
        if not self.answers:
            raise EOFError
        self.console.file.write("\n")
        return self.answers.pop(0)

    def play(self, **options):
        play_in_terminal(self.ask, self.console, **options)
        assert not self.answers, "more was prepared than asked for"
        return self.screen


def people(game, table):
    return dict.fromkeys(game.rules.seats, Person(game, table.ask, table.console))


def test_a_whole_game_of_people():
    table = Table("I guess.", "#### 7", "", "s", "WRONG", "Guessed.", ".", "SPEAK", "#### 22", "", "k", "skip")
    screen = table.play(seats=["all"], task="arithmetic", seed=1, index=5)
    question = Game("arithmetic", split="test").task.question(5)
    assert question.text[:30] in screen
    assert "arithmetic, split test, seed 1. You are proposer_0, reviewer_0." in screen
    for words in ("answer 7", "│ Guessed.", "votes -1", "answer 22", f"gold {question.gold}", "✗ wrong"):
        assert words in screen
    assert screen.count("it is your turn") == 5
    assert "reviewer_0, it is your turn (round 2 of 5). Is the standing answer 7 right?" in screen
    assert re.search(r"proposer_0 +-3.00 +you\n +reviewer_0 +\+0.00 +you", screen)


def test_the_outcome_and_the_rewards_are_those_of_the_game():
    table, game = Table("4", "", "s", "RIGHT", "", "s", "5", ""), toy_game(rounds=3)
    state, returns = play_game(game, game.task.question(5), people(game, table), table.console)
    env = tracer_env.parallel_env(ToyTask(), rounds=3)
    env.reset(options={"index": 5})
    paid = dict.fromkeys(env.possible_agents, 0.0)
    for text in ("4", "RIGHT", "5"):
        action = {"control": Control.SPEAK, "utterance": text}
        for agent, reward in env.step(dict.fromkeys(env.possible_agents, action))[1].items():
            paid[agent] += reward
    assert state == env.dialogue
    assert {seat.name: value for seat, value in returns.items()} == paid


def test_wrong_input_is_asked_again_with_a_hint():
    table = Table("", " . ", "#### 7", "  ", "", "y", "speak up", "K")
    screen = table.play(seats=["all"], rounds=2, seed=0)
    assert screen.count("Write at least one line.") == 2
    assert screen.count("Type s to speak or k to skip.") == 3
    assert "You must speak: no answer stands yet." in screen.split("round 2 of 2")[0]
    assert "You must speak" not in screen.split("round 2 of 2")[1]
    assert "2  reviewer_0   SKIP" in screen


def test_gold_is_never_shown_before_the_end():
    game, table = toy_game(), Table("4", "", "s", "RIGHT", "", "s", "5", "", "s", "WRONG", "", "s", "6", "")
    question = Question("q", "What is it?", "Au-79")
    play_game(game, question, people(game, table), table.console)
    assert len(table.screens) == 14
    assert not any(re.search("Au-79|gold|✓|✗|right$|[Rr]eward", screen) for screen in table.screens)
    assert "gold Au-79" in table.screen


def test_nobody_sees_the_others_in_a_simultaneous_round():
    game, table = toy_game(proposers=2, schedule="simultaneous", rounds=1), Table("first", "", "second", "")
    play_game(game, game.task.question(5), people(game, table), table.console)
    assert "│ first" not in table.screens[-1]
    assert "│ first" in table.screen


def test_nothing_that_is_said_is_obeyed():
    game, table = toy_game(rounds=3), Table(EVIL, "", "k", "k", width=400)
    play_game(game, Question(EVIL, EVIL, EVIL), people(game, table), table.console)
    assert "\x1b" not in table.screen
    assert "\u202e" not in table.screen
    assert r"Is the standing answer \x1b[2J [bold red]loud[/] \u202egnol right?" in table.screen


def test_seats_are_chosen_by_name():
    game = toy_game(proposers=2)
    assert [s.name for s in choose_seats(game, ["reviewer_0", "proposer_1"])] == ["reviewer_0", "proposer_1"]
    assert choose_seats(game, ["all", "reviewer_0"]) == game.rules.seats
    with pytest.raises(UnknownNameError, match=r"'reviewr_0'.* 'reviewer_0'\? Known: all, proposer_0, proposer_1"):
        choose_seats(game, ["reviewr_0"])


def machine(game, table, seat, controllers, script="#### 4"):
    player = Player(policy=seat.name, controller=make_fixed(controllers))
    return Machine(game, player, ScriptedGenerator([script]), np.random.default_rng(0), table.console)


@pytest.mark.parametrize(("controllers", "spoken"), [("always", 5), ("never", 1), ("random", None)])
def test_machines_follow_their_controllers_and_the_mask(controllers, spoken):
    game, table = toy_game(), Table()
    acts = {seat: machine(game, table, seat, controllers, "RIGHT") for seat in game.rules.seats}
    state, _ = play_game(game, game.task.question(4), acts, table.console)
    assert state.turns[0].spoke
    assert state.calls_spent == spoken if spoken else 1 < state.calls_spent < 5
    assert not state.turns[0].tokens_estimated


def test_a_controller_is_asked_only_where_it_has_a_choice():
    class Choosy:
        def speak_prob(self, infoset, features, mask):
            assert mask == (True, True)
            return 0.0

    game, table = toy_game(), Table()
    player = Player(policy="any", controller=Choosy())
    rng = np.random.default_rng(0)
    acts = {seat: Machine(game, player, ScriptedGenerator(["4"]), rng, table.console) for seat in game.rules.seats}
    state, _ = play_game(game, game.task.question(4), acts, table.console)
    assert [turn.spoke for turn in state.turns] == [True, False, False, False, False]


def test_a_machine_reads_its_own_prompt():
    game, table, requests = toy_game(rounds=2), Table("4", ""), []
    proposer, reviewer = game.rules.seats

    def script(request, rng):
        requests.append(request)
        return "WRONG"

    generator = ScriptedGenerator(script)
    player = Player(policy="judge", controller=make_fixed("always"))
    acts = {
        proposer: Person(game, table.ask, table.console),
        reviewer: Machine(game, player, generator, np.random.default_rng(0), table.console, temperature=0.5),
    }
    state, _ = play_game(game, game.task.question(4), acts, table.console)
    before = game.advance(
        game.start(game.task.question(4)), {proposer: tracer_env.Action(Control.SPEAK, state.turns[0].utterance)}
    )
    [request] = requests
    assert (request.policy, request.temperature) == ("judge", 0.5)
    assert request.prompt == game.prompt(before, reviewer)


def test_the_shipped_model_takes_the_other_seat(one_thread):
    screens = []
    for answers in (["s", "WRONG", "No.", "", "k"], ["k", "k"]):
        table = Table(*answers)
        screens.append(table.play(seats=["reviewer_0"], seed=3))
    assert "You are reviewer_0." in screens[0]
    assert screens[0].count("it is your turn") == 2
    said = [re.findall(r"^  [135]  proposer_0   SPEAK  answer .*\n((?:     │ .*\n)+)", s, re.M) for s in screens]
    assert [len(texts) for texts in said] == [3, 3]
    assert said[0][0] == said[1][0], "one seed, one question, one proposal"


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("runs") / "run"
    sizes = {
        "updates": 1, "questions-per-update": 4, "groups-per-update": 4, "refit-questions": 4,
        "eval-questions": 4, "rounds": 4,
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in sizes.items()]
    assert cli.main(["train", "--smoke", *options, "--run-dir", str(folder), "--threads", "1"]) == 0
    return folder


def test_a_trained_team_takes_the_other_seats(run, monkeypatch):
    loaded = []
    load = policies.load_policies
    monkeypatch.setattr(policies, "load_policies", lambda *args: loaded.append(args[1:]) or load(*args))
    screen = Table("#### 1", "", "k").play(seats=["proposer_0"], run=str(run), seed=0)
    assert "(round 3 of 4)" in screen, "the rules are the run's"
    assert loaded == [(run / "final" / "adapters", ("reviewer_0",))]
    screen = Table("#### 1", "").play(seats=["proposer_0"], run=str(run), seed=0, rounds=2, controllers="never")
    assert "2  reviewer_0   SKIP" in screen


def test_a_run_must_be_finished_and_have_the_team(run):
    with pytest.raises(ConfigError, match="this team has"):
        Table().play(seats=["proposer_0"], run=str(run), reviewers=0)
    (run / "summary.json").rename(run / "elsewhere.json")
    with pytest.raises(RunDirectoryError, match="not a finished run"):
        Table().play(run=str(run))
    (run / "elsewhere.json").rename(run / "summary.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seats": ["proposer_1"]}, "'proposer_1'"),
        ({"task": "arithmetik"}, "'arithmetic'"),
        ({"controllers": "allways"}, "'always'"),
        ({"schedule": "round-robin"}, "'round_robin'"),
        ({"temperature": -1.0}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"index": -1}, "index"),
        ({"proposers": 0}, "proposers"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"split": "tset"}, "tset"),
    ],
)
def test_wrong_options_are_errors_before_anything_is_loaded(options, message):
    def loading():
        raise AssertionError

    with pytest.raises(ConfigError, match=message):
        Table().play(before_loading=loading, **options)


def test_another_question_each_time():
    def first_screen():
        table = Table()
        with pytest.raises(EOFError):
            table.play(seats=["all"])
        return table.screen

    assert first_screen() != first_screen()


def test_files_and_simulated_teams_can_be_played(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Two and two?", "answer": "4"}\n')
    screen = Table("#### 4", "").play(seats=["all"], task=str(path), rounds=1)
    assert "Two and two?" in screen
    assert "✓ right" in screen
    # A simulated team brings every text: the person decides, and nothing is asked where nothing is to decide.
    table = Table("s", "s", "s")
    play_in_terminal(table.ask, table.console, seats=["all"], task="simulated:default", rounds=3, seed=1)
    assert table.screen.count("You must speak") + table.screen.count("speak or skip?") == 3
    assert "Your text" not in table.screen
    assert re.search(r"2  reviewer_0   SPEAK  (RIGHT|WRONG)", table.screen)


def command(*options, answers, code=""):
    program = (
        f"import sys\nfrom tracer_agents.cli import main\nstatus = main({list(options)!r})\n{code}\nsys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", program], input=answers, capture_output=True, text=True, timeout=120)


NO_TORCH = "assert not {'torch', 'transformers', 'trl'} & set(sys.modules), 'torch was imported'"


def test_games_without_a_model_import_no_torch():
    answers = "#### 1\n\nk\nk\nk\nk\n"
    done = command("play", "--seat", "all", "--rounds", "5", answers=answers, code=NO_TORCH)
    assert done.returncode == 0, done.stderr
    assert "Rewards of the whole game" in done.stdout
    done = command("play", "--seat", "proposer_0", "--task", "simulated:default", answers="k\nk\n", code=NO_TORCH)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [["--help"], ["play", "--help"]])
def test_help_imports_no_torch(options):
    program = (
        f"import sys\nfrom tracer_agents.cli import main\ntry: main({options!r})\nexcept SystemExit: pass\n{NO_TORCH}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "play" in done.stdout


def test_leaving_is_polite():
    done = command("play", "--seat", "all", answers="#### 1\n\n")
    assert done.returncode == 130
    assert done.stdout.endswith("\nYou left the game.\n")
    assert not done.stderr
    assert "gold" not in done.stdout


def test_errors_are_one_line(capsys):
    assert cli.main(["play", "--seat", "reviewer_7"]) == 1
    assert capsys.readouterr().err.startswith("error: unknown seat 'reviewer_7'. Did you mean 'reviewer_0'?")


def _take_terminal():
    """So that Ctrl-C arrives, also where the tests themselves run in the background and ignore it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A command in a pseudo-terminal: what it prints, and a person who waits for a prompt before typing."""

    def __init__(self, *options):
        self._master, slave = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "90"}
        env.pop("NO_COLOR", None)
        argv = [sys.executable, "-m", "tracer_agents.cli", *options]
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.screen = ""
        self._read = 0

    def wait_for(self, words, seconds=30.0):
        """Read until words appear that were not there before."""
        deadline = time.monotonic() + seconds
        while words not in self.screen[self._read :]:
            assert time.monotonic() < deadline, f"no {words!r} in:\n{self.screen}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.screen += os.read(self._master, 65_536).decode("utf-8", "replace")
                except OSError:  # Linux: the other end is closed
                    assert words in self.screen[self._read :], self.screen
        self._read = self.screen.index(words, self._read) + len(words)

    def type(self, text):
        os.write(self._master, text.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal():
    opened = []

    def open_terminal(*options):
        opened.append(Terminal(*options))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def test_the_real_command_in_a_terminal(terminal):
    screen = terminal("play", "--seat", "all", "--task", "arithmetic", "--rounds", "3", "--seed", "1")
    screen.wait_for("You must speak")
    screen.wait_for("> ")
    screen.type("#### 7\n")
    screen.wait_for("> ")
    screen.type("\n")
    screen.wait_for("speak or skip? [s/k] ")
    screen.type("what\n")
    screen.wait_for("Type s to speak or k to skip.")
    screen.wait_for("speak or skip? [s/k] ")
    screen.type("s\n")
    screen.wait_for("> ")
    screen.type("WRONG\n")
    screen.wait_for("> ")
    screen.type(".\n")
    screen.wait_for("speak or skip? [s/k] ")
    assert "gold" not in screen.screen
    screen.type("k\n")
    screen.wait_for("Rewards of the whole game")
    screen.wait_for("reviewer_0")
    assert screen.process.wait(timeout=30) == 0
    assert re.search(r"\x1b\[1;3\dm", screen.screen), "colours in a terminal"
    assert re.search(r"gold .*\d+", screen.screen)


def test_ctrl_c_leaves(terminal):
    screen, tries = terminal("play", "--seat", "all", "--seed", "1"), 5
    screen.wait_for("> ")
    screen.type("half a tex\x03")
    while "You left the game." not in screen.screen:  # what is typed while readline sets up the terminal can be lost
        try:
            screen.wait_for("You left the game.", seconds=3.0)
        except AssertionError:
            assert (tries := tries - 1) >= 0, screen.screen
            screen.type("\x03")
    assert screen.process.wait(timeout=30) == 130
    assert "Traceback" not in screen.screen


@pytest.mark.parametrize("option", [["--model", "nowhere"], ["--temperature", "0.5"], ["--max-new-tokens", "5"]])
def test_a_recorded_game_takes_no_options_of_a_model(option, capsys):
    assert main(["play", "--task", "recorded:arithmetic-test", *option]) == 1
    assert "brings its texts itself" in capsys.readouterr().err
