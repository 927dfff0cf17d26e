"""tracer record: with the real model, killed at any point and gone on with, and everything it refuses."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tracer_agents import cli
from tracer_agents import record as recorder
from tracer_agents.assembly import SHIPPED_MODEL, load_generator
from tracer_agents.config import TrainConfig
from tracer_agents.record import RecordPlan, check_recordable, hash_of_files, record, record_with_model
from tracer_env import Action, Control, Game, Role, Seat, Utterance
from tracer_env.errors import ConfigError
from tracer_env.recordings import hash_of_prompt, load_recording, read_manifest

ROOT = Path(__file__).parents[2]
SMALL = ["--questions", "4", "--chunk", "2", "--replicates", "1", "--candidates", "2", "--proposals", "2",
         "--threads", "1", "--seed", "3"]  # fmt: skip
PROPOSER, REVIEWER = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 0)
PLAN = RecordPlan(replicates=2, candidates=2, proposals=3, chunk=2)
MODEL = {"name": "scripted"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def same_code(monkeypatch):
    """The manifest names the commit: a commit made while the tests run shall not make two files differ."""
    monkeypatch.setattr(recorder, "software", lambda: {"commit": "tested"})


def tracer_record(out, *options):
    return cli.main(["record", *SMALL, "--out", str(out), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A recording made in one go."""
    out = tmp_path_factory.mktemp("finished") / "game.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "software", lambda: {"commit": "tested"})
        assert tracer_record(out) == 0
    return out


# --- the real model -------------------------------------------------------------------------------------------------


def test_the_shipped_model_is_recorded(finished, capsys):
    game = Game(f"recorded:{finished}")
    recording = game.task.recording
    manifest = recording.manifest
    assert manifest["model"]["sha256"] == hash_of_files(SHIPPED_MODEL)
    assert manifest["model"]["max_new_tokens"] == TrainConfig().max_new_tokens
    assert (manifest["task"], manifest["split"], manifest["seed"]) == ("arithmetic", "train", 3)
    assert [q.question_id for q in recording.questions] == [f"arithmetic/train/{k}" for k in range(4)]
    assert len(recording.proposals) == 8
    assert not finished.with_name("game.npz.parts").exists()
    verdicts = set()
    for world in range(4):
        state = game.start(game.task.question(world))
        while not state.over:
            (seat,) = game.acting(state)
            node = game.task.node(state, seat)
            assert recording.prompt_hash[node] == hash_of_prompt(game.prompt(state, seat))
            for said in game.utterances(state, seat):
                assert said.tokens_in > 0
                assert said.tokens_out > 0
                assert said.min_logprob <= said.mean_logprob <= 0
                assert (said.p_right is not None) == (seat.role is Role.REVIEWER)
                assert said.truncated is not None
            state = game.advance(state, {seat: Action(Control.SPEAK)})
        verdicts |= {turn.verdict for turn in state.turns if turn.seat.role is Role.REVIEWER}
    assert verdicts - {None}
    assert sum(a is not None for a in recording.proposals.answer) > 4


def test_the_greedy_row_is_what_the_model_says_greedily(finished):
    game = Game("arithmetic")
    _, _, generator = load_generator(TrainConfig(), ("proposer_0", "reviewer_0"), seed=0)
    write = recorder.GeneratorWriter(game, generator, {PROPOSER: "proposer_0", REVIEWER: "reviewer_0"})
    questions = [game.task.question(k) for k in range(4)]
    greedy = write([(game.start(q), PROPOSER) for q in questions], 0.0)
    recording = load_recording(finished)
    assert recording.greedy.text == [str(u) for u in greedy]
    assert len({*recording.proposals.text, *recording.greedy.text}) > 4  # the others are sampled


def test_a_ballot_is_recorded(tmp_path, capsys):
    out = tmp_path / "sub" / "folder" / "pool.npz"
    options = ["--decide", "ballot", "--rounds", "5", "--proposals", "6", "--reviews", "2", "--split", "test"]
    assert tracer_record(out, *options) == 0
    assert f"task='recorded:{out}'" in capsys.readouterr().out.replace("\n", "")
    recording = load_recording(out)
    assert (len(recording.proposals), len(recording.reviews), len(recording.tree)) == (24, 48, 0)
    assert recording.manifest["replicates"] == 2
    assert not np.isnan(recording.reviews.p_right).any()
    assert np.isnan(recording.proposals.p_right).all()
    assert (recording.reviews.verdict >= 0).mean() > 0.5
    game = Game(f"recorded:{out}", abstraction="ballot")
    state = game.start(game.task.question(3))
    while not state.over:
        state = game.advance(state, {seat: Action(Control.SPEAK) for seat in game.acting(state)})
    assert state.calls_spent == 5


def test_another_seed_says_something_else(finished, tmp_path):
    assert tracer_record(tmp_path / "other.npz", "--seed", "4", "--questions", "2") == 0
    ours, theirs = load_recording(tmp_path / "other.npz"), load_recording(finished)
    assert ours.greedy.text == theirs.greedy.text[:2]
    assert ours.proposals.text != theirs.proposals.text[:4]


def test_the_team_of_a_run_is_recorded(finished, tmp_path):
    """The rules are those of the run, and its adapters write."""
    from tracer_agents.generators.policies import policy_parameters, save_policies

    config = TrainConfig(rounds=3)
    policies = ("proposer_0", "reviewer_0")
    model, _, _ = load_generator(config, policies, seed=0)
    for name, weights in policy_parameters(model, "proposer_0").items():
        if "lora_B" in name:
            weights.data += 0.5  # an untrained adapter changes nothing
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config.to_json()))
    (run / "summary.json").write_text("{}")
    save_policies(model, run / "final" / "adapters", policies)
    assert tracer_record(tmp_path / "team.npz", "--run", str(run), "--questions", "2") == 0
    manifest, theirs = read_manifest(tmp_path / "team.npz"), load_recording(finished)
    assert manifest["settings"]["rounds"] == 3
    assert manifest["model"]["adapters_sha256"] == hash_of_files(run / "final" / "adapters")
    assert manifest["model"]["sha256"] == theirs.manifest["model"]["sha256"]
    assert load_recording(tmp_path / "team.npz").greedy.text != theirs.greedy.text[:2]


def test_a_finished_file_stays_as_it_is(finished, capsys):
    before = finished.read_bytes(), finished.stat().st_mtime_ns
    assert tracer_record(finished) == 0
    assert f"recorded:{finished}" in capsys.readouterr().out.replace("\n", "")
    assert (finished.read_bytes(), finished.stat().st_mtime_ns) == before
    for option, named in ((["--seed", "9"], "plan"), (["--rounds", "3"], "settings"), (["--questions", "3"], "data"),
                          (["--max-new-tokens", "9"], "model"), (["--split", "test"], "split")):  # fmt: skip
        assert tracer_record(finished, *option) == 1
        assert f"is there already, with another '{named}'" in capsys.readouterr().err
    assert finished.read_bytes() == before[0]


def test_a_killed_command_goes_on_to_the_same_file(finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "game.npz"
    command = [sys.executable, "-m", "tracer_agents.cli", "record", *SMALL, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    parts, deadline = out.with_name("game.npz.parts"), time.monotonic() + 120
    while not (parts / "000000.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not out.exists()
    there = {path.name: path.stat().st_mtime_ns for path in parts.glob("??????.npz")}
    assert there
    made, real = [], recorder.record_chunk
    monkeypatch.setattr(recorder, "record_chunk", lambda *args: made.append(args[2]) or real(*args))
    assert tracer_record(out) == 0
    assert "4/4" in capsys.readouterr().out
    assert len(made) == 2 - len(there)  # what was there is not made again
    assert read_manifest(out)["content"] == read_manifest(finished)["content"]
    assert out.read_bytes() == finished.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["game.npz"]


def test_an_interrupted_command_says_how_to_go_on(finished, tmp_path, monkeypatch, capsys):
    real, out = recorder.record_chunk, tmp_path / "game.npz"

    def interrupted(game, write, questions, plan):
        if questions[0].question_id.endswith("/2"):
            raise KeyboardInterrupt
        return real(game, write, questions, plan)

    monkeypatch.setattr(recorder, "record_chunk", interrupted)
    assert tracer_record(out) == 130
    said = capsys.readouterr().out
    assert "2/4" in said
    assert f"The same command goes on from {out}.parts" in said.replace("\n", "")
    assert tracer_record(out, "--seed", "4") == 1
    assert f"{out}.parts belongs to a recording with another 'plan'" in capsys.readouterr().err
    monkeypatch.setattr(recorder, "record_chunk", real)
    assert tracer_record(out) == 0
    assert out.read_bytes() == finished.read_bytes()


# --- killed anywhere ------------------------------------------------------------------------------------------------


def draw(asked, temperature):
    """Write texts that depend on the question and the place only."""
    said = []
    for k, (state, seat) in enumerate(asked):
        number = sum(map(ord, state.question.question_id)) + 7 * k + len(state.turns)
        text = f"#### {number % 5}" if seat.role is Role.PROPOSER else ("RIGHT" if number % 2 else "WRONG\nNo.")
        said.append(Utterance(text, tokens_out=1 + number % 9))
    return said


def scripted(out, *, plan=PLAN, number=7, write=draw, on_chunk=None, **rules):
    game = Game("arithmetic", **rules)
    questions = [game.task.question(k) for k in range(number)]
    return record(game, write, questions, out, plan=plan, model=MODEL, on_chunk=on_chunk)


KILLED = textwrap.dedent(
    """
    import os, shutil, signal, sys
    from pathlib import Path
    import numpy as np
    sys.path[:0] = [{tests!r}, {root!r}]
    from tracer_agents import record as recorder
    from agents import test_record
    recorder.software = lambda: dict(commit="tested")
    calls = 0
    def half(file, **arrays):
        file.write(b"half")
        file.flush()
    def dies(module, name, at, before=None):
        real = getattr(module, name)
        def wrapped(*args, **options):
            global calls
            calls += 1
            if calls == at:
                if before:
                    before(*args, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)
        setattr(module, name, wrapped)
    {point}
    test_record.scripted(Path({out!r}))
    """
)
POINTS = {
    "before a chunk": "dies(recorder, 'record_chunk', 3)",
    "while a chunk is written": "dies(np, 'savez_compressed', 2, half)",
    "before a chunk is put in place": "dies(Path, 'replace', 2)",
    "while the whole is written": "dies(np, 'savez_compressed', 5, half)",
    "before the whole is put in place": "dies(Path, 'replace', 6)",
    "before the parts are removed": "dies(shutil, 'rmtree', 1)",
    "while the parts are removed": "dies(shutil, 'rmtree', 1, lambda folder: (folder / 'manifest.json').unlink())",
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_result_is_the_same(point, tmp_path, monkeypatch):
    out = tmp_path / "killed" / "game.npz"
    out.parent.mkdir()
    code = KILLED.format(tests=str(ROOT / "tests"), root=str(ROOT), point=POINTS[point], out=str(out))
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr
    put_in_place = "parts are removed" in point
    assert out.exists() == put_in_place
    parts = out.with_name("game.npz.parts")
    whole = sorted(path.name for path in parts.glob("??????.npz"))
    assert whole == [f"{k:06d}.npz" for k in range(len(whole))]
    made, real = [], recorder.record_chunk
    monkeypatch.setattr(recorder, "record_chunk", lambda *args: made.extend(args[2]) or real(*args))
    seen = []
    scripted(out, on_chunk=lambda done, total: seen.append((done, total)))
    numbers = [int(q.question_id.rpartition("/")[2]) for q in made]
    assert numbers == ([] if put_in_place else list(range(2 * len(whole), 7)))
    assert seen == ([] if put_in_place else [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)])
    expected = scripted(tmp_path / "game.npz")
    assert out.read_bytes() == expected.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["game.npz"]  # and nothing is left over
    assert [q.question_id for q in load_recording(out).questions] == [f"arithmetic/train/{k}" for k in range(7)]


class Stop(Exception):
    pass


def stopped(out, after=1, **options):
    """Leave the parts of a recording that was stopped after some chunks."""
    count = 0

    def on_chunk(done, total):
        nonlocal count
        count += 1
        if count > after:
            raise Stop

    with pytest.raises(Stop):
        scripted(out, on_chunk=on_chunk, **options)
    return out.with_name(out.name + ".parts")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"plan": replace(PLAN, chunk=3)}, "plan"),
        ({"plan": replace(PLAN, seed=1)}, "plan"),
        ({"number": 6}, "data"),
        ({"rounds": 3}, "settings"),
        ({"split": "test"}, "split"),
    ],
)
def test_parts_of_other_settings_are_refused(tmp_path, options, named):
    out = tmp_path / "game.npz"
    parts = stopped(out)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    with pytest.raises(ConfigError, match=f"{parts.name} belongs to a recording with another '{named}'"):
        scripted(out, **options)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before
    assert not out.exists()


def test_a_part_that_is_damaged_or_of_another_recording_is_made_again(tmp_path):
    expected, out, other = (tmp_path / f"{name}.npz" for name in ("expected", "game", "other"))
    scripted(expected)
    options = {"plan": replace(PLAN, seed=1), "write": lambda asked, temperature: draw(asked, temperature)[::-1]}
    foreign = stopped(other, after=2, **options)
    parts = stopped(out, after=3)
    whole = (parts / "000000.npz").read_bytes()
    (parts / "000000.npz").write_bytes(whole[: len(whole) // 2])
    shutil.copy(foreign / "000001.npz", parts / "000001.npz")
    scripted(out)
    assert load_recording(out).tree.text == load_recording(expected).tree.text
    parts = stopped(other, after=2, **options)
    (parts / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match=r"manifest.json cannot be read.*remove the folder"):
        scripted(other)


def test_a_finished_file_does_not_take_the_parts_of_another_with_it(tmp_path):
    out = tmp_path / "game.npz"
    made = scripted(tmp_path / "made.npz")
    parts = stopped(out, number=5)
    shutil.copy(made, out)
    assert scripted(out) == out
    assert parts.exists()  # they belong to a recording of other questions


def test_chunks_only_group_the_work(tmp_path):
    """A writer whose texts depend on the state alone gives the same recording whatever the chunks."""

    def write(asked, temperature):
        return [Utterance(f"#### {sum(map(ord, game.prompt(*a))) % 7}", tokens_out=2) for a in asked]

    game, made = Game("arithmetic", rounds=4), []
    for chunk in (1, 3, 50):
        plan = RecordPlan(replicates=2, candidates=2, proposals=2, chunk=chunk)
        made.append(load_recording(scripted(tmp_path / f"{chunk}.npz", plan=plan, write=write, rounds=4)))
    for other in made[1:]:
        assert other.questions == made[0].questions
        for name in ("world_nodes", "node_path", "node_seat", "prompt_hash"):
            assert np.array_equal(getattr(other, name), getattr(made[0], name))
        for name in ("tree", "proposals", "greedy"):
            assert getattr(other, name).text == getattr(made[0], name).text
            assert np.array_equal(getattr(other, name).correct, getattr(made[0], name).correct)


def test_a_generators_writer_is_reseeded_before_each_chunk(tmp_path):
    from tracer_agents.generators.scripted import ScriptedGenerator

    game = Game("arithmetic", rounds=2)
    seeds = []

    class Counting(ScriptedGenerator):
        def reseed(self, seed):
            seeds.append(seed)
            super().reseed(seed)

    generator = Counting(lambda request, rng: f"#### {rng.integers(100)}" if request.role is Role.PROPOSER else "RIGHT")
    write = recorder.GeneratorWriter(game, generator, {PROPOSER: "p", REVIEWER: "r"})
    one, two = (scripted(tmp_path / f"{k}.npz", write=write, rounds=2) for k in range(2))
    assert len(seeds) == 8
    assert seeds[:4] == seeds[4:]
    assert len(set(seeds)) == 4
    assert load_recording(one).proposals.text == load_recording(two).proposals.text


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "simulated:default"], "is a recorded or simulated game already"),
        (["--rounds", "14"], "up to 8,192 leaves"),
        (["--rounds", "5", "--proposers", "4", "--reviewers", "4", "--schedule", "simultaneous"], "65,536 leaves"),
        (["--decide", "ballot"], "can use 3 proposals and 2 reviews"),
        (["--decide", "ballots"], "'ballot'"),
        (["--questions", "0"], "number of questions must be at least 1"),
        (["--temperature", "0"], "temperature"),
        (["--replicates", "0"], "replicates must be at least 1"),
        (["--chunk", "-1"], "chunk must be at least 1"),
        (["--task", "gsm8"], "'gsm8k'"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--run", "no/such/run"], "no/such/run"),
        (["--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert tracer_record(tmp_path / "x.npz", *options) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_recording_is_not_recorded_again(finished, tmp_path, capsys):
    assert tracer_record(tmp_path / "x.npz", "--task", f"recorded:{finished}") == 1
    assert "is a recorded or simulated game already" in capsys.readouterr().err


def test_bad_file_names(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.npz").mkdir()
    for out, message in (
        (tmp_path / "x.json", "ends in .npz"),
        (tmp_path / "folder.npz", "name a file in a folder"),
        (tmp_path / "file" / "x.npz", "name a file in a folder"),
        (tmp_path / "file" / "deep" / "x.npz", "name a file in a folder"),
    ):
        assert tracer_record(out) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "junk.npz").write_text("junk")
    assert tracer_record(tmp_path / "junk.npz") == 1
    assert "is there already. Name another file with --out, or remove it." in capsys.readouterr().err
    assert (tmp_path / "junk.npz").read_text() == "junk"


@pytest.mark.parametrize("rule", [{"stop_after_skips": 2}, {"stop_at_votes": 1}, {"token_budget": 100}])
def test_stopping_rules_are_refused(rule, tmp_path):
    with pytest.raises(ConfigError, match="without stopping rules: they can be set when the recording is played"):
        scripted(tmp_path / "x.npz", **rule)
    with pytest.raises(ConfigError, match="without stopping rules"):
        record_with_model(
            "arithmetic", tmp_path / "x.npz", plan=PLAN, num_questions=2, before_loading=pytest.fail, **rule
        )


@pytest.mark.parametrize(
    ("rules", "leaves"),
    [
        ({"rounds": 13}, 4096),
        ({"rounds": 5, "reviewers": 3, "schedule": "simultaneous"}, 256),  # 3 + 1 + 3 + 1 choices
        ({"rounds": 2, "proposers": 31, "schedule": "simultaneous"}, 2),
        ({"rounds": 5, "proposers": 99, "reviewers": 99}, 16),
    ],
)
def test_trees_that_just_fit(rules, leaves):
    check_recordable(Game("arithmetic", **rules), PLAN)
    if leaves <= 256:
        rights = lambda asked, temperature: [Utterance("#### 1", tokens_out=1)] * len(asked)  # noqa: E731
        game = Game("arithmetic", **rules)
        one = RecordPlan(replicates=1, candidates=1, proposals=1)
        tree = recorder.record_chunk(game, rights, [game.task.question(0)], one)
        last = tree.node_path.astype(int) >= 2 ** int(np.log2(tree.node_path.max()))
        seats = len(game.acting(_last_round(game)))
        assert last.sum() == leaves // 2**seats * seats


def _last_round(game):
    state = game.start(game.task.question(0))
    while state.round < game.rules.rounds - 1:
        said = {seat: Action(Control.SPEAK, Utterance("#### 1", tokens_out=1)) for seat in game.acting(state)}
        state = game.advance(state, said)
    return state


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"rounds": 14}, "up to 8,192 leaves"),
        ({"rounds": 5, "reviewers": 6, "schedule": "simultaneous"}, "up to 16,384 leaves"),
        ({"rounds": 2, "proposers": 32, "schedule": "simultaneous"}, "31 turns before the last round.* 33 and 32"),
        ({"rounds": 2, "proposers": 250, "reviewers": 7}, "256 seats"),
        ({"schedule": lambda rules, state: (PROPOSER,)}, "callable cannot be recorded"),
        ({"decide": "ballot", "rounds": 7}, "can use 4 proposals and 3 reviews of each; the pool has 3 and 4"),
        ({"decide": "ballot", "rounds": 3, "reviewers": 5, "schedule": "simultaneous"}, "2 proposals and 5 reviews"),
        ({"decide": "ballot", "proposers": 2, "schedule": "simultaneous"}, "can use 6 proposals"),
    ],
)
def test_games_that_cannot_be_recorded(rules, message):
    with pytest.raises(ConfigError, match=message):
        check_recordable(Game("arithmetic", **rules), PLAN)


def test_no_question_is_no_recording(tmp_path):
    with pytest.raises(ConfigError, match="at least one question"):
        scripted(tmp_path / "x.npz", number=0)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_model_tells_names_and_bytes(tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    (one / "config.json").write_text("{}")
    (one / "model.safetensors").write_bytes(b"weights")
    before = hash_of_files(one)
    (one / "README.md").write_text("no part of the model")
    assert hash_of_files(one) == before
    (one / "model.safetensors").write_bytes(b"weightS")
    assert hash_of_files(one) != before
    (one / "model.safetensors").rename(one / "other.safetensors")
    (one / "other.safetensors").write_bytes(b"weights")
    assert hash_of_files(one) != before
    assert hash_of_files(SHIPPED_MODEL) == hash_of_files(SHIPPED_MODEL)
