"""Recorded games: the file format and what it refuses, and that a recorded game plays as the live one."""

import copy
import io
import json
import lzma
import pickle
import tracemalloc
import zipfile
from dataclasses import replace
from hashlib import blake2b
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracer_env
from tracer_agents.assembly import SHIPPED_MODEL
from tracer_agents.record import RecordPlan, hash_of_files, record
from tracer_env import Action, Control, Game, Question, Role, Seat, Utterance, Verdict
from tracer_env.answers import parse_verdict
from tracer_env.dialogue import play_turn
from tracer_env.errors import ConfigError, DataNotFoundError, RecordedPathError, RecordingError, UnknownNameError
from tracer_env.exact import build_tree
from tracer_env.recordings import (
    Recording,
    Utterances,
    hash_of_prompt,
    load_recording,
    read_manifest,
    recording_path,
    save_recording,
    shipped_recordings,
)
from tracer_env.recordings import format as file_format
from tracer_env.tasks.recorded import path_of
from tracer_env.testing import check_env, check_faces_agree, check_task

# shape legend: W worlds, N nodes, K candidates, M proposals per pool, V reviews of each

PROPOSER, REVIEWER = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 0)
COLUMNS = ("verdict", "correct", "truncated", "tokens_in", "tokens_out", "mean_logprob", "min_logprob", "p_right")


def said_by(prompt, role, salt=""):
    """What a writer says who is deterministic in the prompt; all kinds of answers and facts occur."""
    digest = blake2b(f"{salt}{prompt}".encode(), digest_size=16).digest()
    number = digest[0] % 4
    texts = {
        Role.PROPOSER: [
            f"So it is.\n#### {digest[1] % 3}",
            f"Résumé: {digest[2]}\n#### 41",
            "I give up.",
            "#### 1 or 2",
        ],
        Role.REVIEWER: ["RIGHT", "WRONG\nThe sum is off.", f"WRONG\nNo: {digest[1]}.", "Hard to say."],
    }
    return Utterance(
        texts[role][number],
        tokens_in=100 + digest[3],
        tokens_out=1 + digest[4],
        mean_logprob=-digest[5] / 64,
        min_logprob=-digest[6] / 8,
        p_right=digest[7] / 255 if role is Role.REVIEWER else None,
        truncated=digest[8] < 32,
    )


def writer_of(game):
    """Write deterministically in the prompt; the candidates of a node are told apart by their place."""

    def write(asked, temperature):
        texts, places = [], {}
        for state, seat in asked:
            prompt = game.prompt(state, seat)
            place = places[state, seat] = places.get((state, seat), -1) + 1
            texts.append(said_by(prompt, seat.role, salt=str(place % PLAN.candidates or "")))
        return texts

    return write


TEAMS = {
    "default": {},
    "two at once": {"proposers": 2, "rounds": 3, "schedule": "simultaneous"},
    "three bundles": {"proposers": 3, "reviewers": 3, "rounds": 6},
    "no reviewer": {"reviewers": 0, "rounds": 4, "on_invalid": "replace"},
}
PLAN = RecordPlan(replicates=2, candidates=3, proposals=4, chunk=3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("recordings"), {}
    for name, rules in TEAMS.items():
        game = Game("arithmetic", split="test", **rules)
        questions = [game.task.question(k) for k in range(7)]
        out = folder / f"{name.replace(' ', '-')}.npz"
        made[name] = record(game, writer_of(game), questions, out, plan=PLAN, model={"name": "hash"})
    return made


@pytest.fixture
def path(paths):
    return paths["default"]


def recorded(path, **options):
    return Game(f"recorded:{path}", **options)


every_team = pytest.mark.parametrize("team", TEAMS)


# --- a recorded game plays as the live one --------------------------------------------------------------------------


def all_states(game, question):
    """Yield every state in which somebody acts."""
    waiting = [game.start(question)]
    while waiting:
        state = waiting.pop()
        if state.over:
            continue
        yield state
        seats = game.acting(state)
        for controls in product(*[Control if game.mask(state, seat)[0] else (Control.SPEAK,) for seat in seats]):
            waiting.append(game.advance(state, {s: Action(c) for s, c in zip(seats, controls, strict=True)}))


@every_team
def test_transcripts_are_those_of_the_live_game_under_the_same_controls(paths, team):
    """Whoever wrote the recording, playing on the spot, says the same on every path."""
    live, game = Game("arithmetic", split="test", **TEAMS[team]), recorded(paths[team])
    ends = 0
    for index in range(7):
        for replicate in range(2):
            question = game.task.question(2 * index + replicate)
            pairs = [(live.start(live.task.question(index)), game.start(question))]
            while pairs:
                ours, theirs = pairs.pop()
                if ours.over:
                    assert theirs.over
                    ends += 1
                    continue
                seats = live.acting(ours)
                assert game.acting(theirs) == seats
                for controls in product(*[Control if live.mask(ours, s)[0] else (Control.SPEAK,) for s in seats]):
                    said = {
                        s: Action(c, said_by(live.prompt(ours, s), s.role))
                        for s, c in zip(seats, controls, strict=True)
                    }
                    silent = {s: Action(c) for s, c in zip(seats, controls, strict=True)}
                    after = live.advance(ours, said), game.advance(theirs, silent)
                    same_step(live, game, *after)
                    pairs.append(after)
    assert ends >= 3 * 14


def nearly(stored, value):
    """Compare with the precision and range of float16; unknown is unknown."""
    if stored is None or value is None:
        return stored is value
    return stored == pytest.approx(max(value, -65504.0), rel=1e-3, abs=1e-7)


def same_step(live, game, ours, theirs):
    for a, b in zip(ours.turns[-2:], theirs.turns[-2:], strict=True):
        for name in ("index", "round", "seat", "control", "utterance", "answer", "verdict", "correct",
                     "standing_correct", "tokens_in", "tokens_out", "tokens_estimated", "clipped"):  # fmt: skip
            assert getattr(a, name) == getattr(b, name), name
        for name in ("mean_logprob", "min_logprob", "p_right"):  # stored as float16
            assert nearly(getattr(b.utterance, name), getattr(a.utterance, name)), name
        assert a.utterance.truncated == b.utterance.truncated
    assert (ours.votes, ours.answer, ours.correct, ours.over) == (
        theirs.votes,
        theirs.answer,
        theirs.correct,
        theirs.over,
    )
    for seat in live.acting(ours):
        assert live.prompt(ours, seat) == game.prompt(theirs, seat)
        assert live.infoset(ours, seat) == game.infoset(theirs, seat)
        a, b = (g.observe(s, seat, True)["features"] for g, s in ((live, ours), (game, theirs)))
        assert a == pytest.approx(b, rel=1e-3)


@every_team
def test_every_node_has_the_hash_of_its_prompt_and_what_is_read_from_its_texts(paths, team):
    game = recorded(paths[team])
    recording, met = game.task.recording, set()
    for world in range(recording.num_worlds):
        for state in all_states(game, game.task.question(world)):
            for seat in game.acting(state):
                node = game.task.node(state, seat)
                met.add(node)
                assert recording.world_nodes[world] <= node < recording.world_nodes[world + 1]
                assert recording.prompt_hash[node] == hash_of_prompt(game.prompt(state, seat))
                assert recording.node_path[node] == path_of(state)
                candidates = game.utterances(state, seat)
                assert len(candidates) == PLAN.candidates
                for k, candidate in enumerate(candidates):
                    check_row(game, state, seat, candidate, recording.tree, node * PLAN.candidates + k)
    assert met == set(range(len(recording.node_path)))  # and none is out of reach
    if team == "default":
        valid = [game.advance(game.start(q), {PROPOSER: Action(Control.SPEAK)}).answer is not None
                 for q in (game.task.question(w) for w in range(recording.num_worlds))]  # fmt: skip
        # 16 nodes a world: 1 + 1 + 2 + 4 + 8; fewer where SKIP is masked because nothing stands
        nodes = np.diff(recording.world_nodes)
        assert (nodes[valid] == 16).all()
        assert (nodes <= 16).all()


def check_row(game, state, seat, utterance, table, row):
    turn = play_turn(game.rules, game.task, state, seat, Action(Control.SPEAK, utterance))
    assert table.text[row] == utterance
    assert table.answer[row] == turn.answer
    assert table.verdict[row] == (-1 if turn.verdict is None else turn.verdict == "RIGHT")
    assert table.correct[row] == turn.correct


def test_the_pool_beside_a_tree(path):
    """Independent first proposals and the greedy one of each question, for baselines on the same data."""
    game = recorded(path)
    recording, different = game.task.recording, 0
    for index, question in enumerate(recording.questions):
        start = game.start(question)
        rows = [recording.proposals.utterance(index * PLAN.proposals + m) for m in range(PLAN.proposals)]
        assert rows[0] == said_by(game.prompt(start, PROPOSER), Role.PROPOSER)
        different += len(set(rows)) > 1
        for m, utterance in enumerate(rows):
            check_row(game, start, PROPOSER, utterance, recording.proposals, index * PLAN.proposals + m)
        check_row(game, start, PROPOSER, recording.greedy.utterance(index), recording.greedy, index)
    assert different > 3
    assert len(recording.reviews) == 0


@every_team
def test_spaces_and_faces(paths, team):
    task = f"recorded:{paths[team]}"
    live, env = tracer_env.parallel_env("arithmetic", **TEAMS[team]), tracer_env.parallel_env(task)
    assert env.possible_agents == live.possible_agents
    for agent in env.possible_agents:
        assert env.observation_space(agent) == live.observation_space(agent)
        assert env.action_space(agent) == live.action_space(agent)
    check_env(lambda: tracer_env.parallel_env(task))
    check_env(lambda: tracer_env.raw_env(task))
    check_faces_agree(lambda: tracer_env.raw_env(task), lambda: tracer_env.parallel_env(task))
    check_task(env.game.task)


def test_texts_of_actions_are_ignored_on_both_faces(path):
    endings = []
    for text in ("", "#### 99"):
        env = tracer_env.parallel_env(f"recorded:{path}")
        env.reset(seed=3, options={"index": 5})
        while env.agents:
            env.step({agent: {"control": 1, "utterance": text} for agent in env.agents})
        endings.append(env.dialogue)
        aec = tracer_env.env(f"recorded:{path}")
        aec.reset(seed=3, options={"index": 5})
        for agent in aec.agent_iter():
            terminated = aec.last()[2]
            aec.step(None if terminated else {"control": 1, "utterance": text})
            assert agent in aec.possible_agents
        endings.append(aec.unwrapped.dialogue)
    assert len(set(map(repr, endings))) == 1
    assert len(endings[0].turns) == 5


def test_worlds_are_replicates_of_questions(path):
    game = recorded(path)
    assert game.task.num_questions() == 14
    assert [game.task.question(k).question_id for k in (0, 1, 2)] == [
        "arithmetic/test/0/0", "arithmetic/test/0/1", "arithmetic/test/1/0",
    ]  # fmt: skip
    assert (game.task.split, game.task.kind) == ("test", "number")
    worlds = game.task.worlds()
    assert sum(p for p, _ in worlds) == pytest.approx(1.0)
    assert [q for _, q in worlds] == [game.task.question(k) for k in range(14)]
    for index in (-1, 14):
        with pytest.raises(IndexError):
            game.task.question(index)
    drawn = {game.draw_question(rng).question_id for rng in [np.random.default_rng(0)] for _ in range(200)}
    assert len(drawn) == 14


def test_copies_travel_as_the_files_path(path):
    game = recorded(path)
    state = game.start(game.task.question(1))
    for copied in (pickle.loads(pickle.dumps(game)), copy.deepcopy(game)):
        assert copied.utterances(state, PROPOSER) == game.utterances(state, PROPOSER)
    assert len(pickle.dumps(game.task)) < 1000


def test_stopping_rules_prune_what_was_recorded_without_them(path):
    whole = build_tree(recorded(path))
    for rule in ({"stop_after_skips": 1}, {"stop_at_votes": 1}, {"token_budget": 150}):
        pruned = build_tree(recorded(path, **rule))
        assert pruned.num_leaves < whole.num_leaves
        game = recorded(path, **rule)
        for state in all_states(game, game.task.question(0)):  # all of them are in the file
            assert game.utterances(state, game.acting(state)[0])


# --- what the recording fixes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rounds", 3), ("proposers", 2), ("reviewers", 0), ("schedule", "simultaneous"), ("decide", "ballot"),
     ("on_invalid", "replace")],
)  # fmt: skip
def test_rules_may_be_repeated_but_not_contradicted(path, setting, value):
    fixed = read_manifest(path)["settings"]
    assert getattr(recorded(path, **{setting: fixed[setting]}).rules, setting) == fixed[setting]
    with pytest.raises(ConfigError, match=rf"{setting}={fixed[setting]!r}.*cannot be played with {value!r}"):
        recorded(path, **{setting: value})
    with pytest.raises(ConfigError, match=setting):
        tracer_env.parallel_env(f"recorded:{path}", **{setting: value})


def test_a_recording_brings_its_data_and_split(path):
    with pytest.raises(ConfigError, match="data_dir"):
        recorded(path, data_dir="somewhere")
    with pytest.raises(ConfigError, match="'test'"):
        recorded(path, split="train")
    assert recorded(path, split="test").task.split == "test"


def test_what_was_not_recorded_names_question_and_path(path):
    live, game = Game("arithmetic", split="test", rounds=7), recorded(path)
    state = live.start(game.task.question(2))
    for control in (1, 0, 1, 1, 0):
        action = Action(Control(control), Utterance("#### 1", tokens_out=1))
        state = live.advance(state, {live.acting(state)[0]: action})
    played = "proposer_0 SPEAK, reviewer_0 SKIP, proposer_0 SPEAK, reviewer_0 SPEAK, proposer_0 SKIP"
    with pytest.raises(RecordedPathError, match=f"'arithmetic/test/1/0' after: {played}"):
        game.utterances(state, REVIEWER)
    with pytest.raises(RecordedPathError, match="reviewer_0 for question 'arithmetic/test/1/0' after: nothing"):
        game.utterances(game.start(game.task.question(2)), REVIEWER)  # it does not act there
    with pytest.raises(RecordedPathError, match="proposer_1"):
        game.utterances(game.start(game.task.question(2)), Seat(Role.PROPOSER, 1))
    for unknown in (live.task.question(2), Question("arithmetic/test/7/0", "?", "1")):
        with pytest.raises(RecordedPathError, match=f"'{unknown.question_id}'"):
            game.advance(game.start(unknown), {PROPOSER: Action(Control.SPEAK)})


# --- ballots --------------------------------------------------------------------------------------------------------


def ballot_recording(folder, **rules):
    """A pool in which every text has its own number: proposal m of question q, review v of it."""
    game = Game("arithmetic", decide="ballot", **rules)
    counts = {}

    def write(asked, temperature):
        texts = []
        for state, seat in asked:
            key = (
                state.question.question_id,
                seat.role,
                path_of(state),
                str(state.turns[-1].utterance if state.turns else ""),
            )
            number = counts[key] = counts.get(key, -1) + 1
            if seat.role is Role.PROPOSER:
                texts.append(Utterance(f"#### {number}" if temperature else "#### 999", tokens_out=1))
            else:
                texts.append(Utterance(f"WRONG\n{key[3]} review {number}", tokens_out=1, p_right=0.25))
        return texts

    questions = [game.task.question(k) for k in range(3)]
    plan = RecordPlan(proposals=9, reviews=4, chunk=2)
    return record(game, write, questions, folder / "pool.npz", plan=plan, model={"name": "numbers"})


def play_all(game, world, controls):
    state = game.start(game.task.question(world))
    for control in controls:
        state = game.advance(state, {seat: Action(Control(control)) for seat in game.acting(state)})
    return [str(turn.utterance).rpartition("\n")[2] for turn in state.turns]


def test_a_ballot_takes_its_texts_from_the_pool(tmp_path):
    game = recorded(ballot_recording(tmp_path, rounds=7))
    assert read_manifest(tmp_path / "pool.npz")["replicates"] == 2  # 9 proposals, 4 places
    assert game.task.num_questions() == 6
    assert len(game.task.recording.node_path) == 0
    assert game.task.recording.greedy.text == ["#### 999"] * 3
    everything = ["#### 0", "#### 0 review 0", "#### 1", "#### 1 review 0", "#### 2", "#### 2 review 0", "#### 3"]
    assert play_all(game, 0, [1] * 7) == play_all(game, 4, [1] * 7) == everything
    second = play_all(game, 1, [1] * 7)  # the other replicate has its own part
    assert second == ["#### 4", "#### 4 review 0", "#### 5", "#### 5 review 0", "#### 6", "#### 6 review 0", "#### 7"]
    # who stays silent leaves the place unused; a second verdict on the same proposal is another one
    assert play_all(game, 0, [1, 1, 0, 1, 1, 0, 0]) == [
        "#### 0",
        "#### 0 review 0",
        "",
        "#### 0 review 1",
        "#### 2",
        "",
        "",
    ]
    assert play_all(game, 0, [1, 0, 0, 1, 0, 1, 1]) == [
        "#### 0",
        "",
        "",
        "#### 0 review 1",
        "",
        "#### 0 review 2",
        "#### 3",
    ]
    check_faces_agree(lambda: tracer_env.raw_env(f"recorded:{tmp_path / 'pool.npz'}"),
                      lambda: tracer_env.parallel_env(f"recorded:{tmp_path / 'pool.npz'}"))  # fmt: skip
    with pytest.raises(RecordedPathError, match="after: nothing"):
        game.utterances(game.start(game.task.question(0)), REVIEWER)
    weights = tracer_env.types.Ballot(prior=2.0)  # how ballots weigh is not fixed
    assert recorded(tmp_path / "pool.npz", ballot=weights).rules.ballot == weights
    assert recorded(tmp_path / "pool.npz", abstraction="ballot").abstraction == "ballot"


def test_a_ballot_of_several_seats_at_once(tmp_path):
    rules = {"rounds": 4, "proposers": 2, "reviewers": 2, "schedule": "simultaneous"}
    game = recorded(ballot_recording(tmp_path, **rules))
    assert read_manifest(tmp_path / "pool.npz")["replicates"] == 2  # 9 proposals, 4 places
    assert play_all(game, 0, [1] * 4) == [
        "#### 0", "#### 1", "#### 1 review 0", "#### 1 review 1", "#### 2", "#### 3", "#### 3 review 0",
        "#### 3 review 1",
    ]  # fmt: skip
    assert play_all(game, 1, [1, 1, 0, 1])[-2:] == ["#### 5 review 2", "#### 5 review 3"]


def test_a_ballot_without_reviewers(tmp_path):
    game = recorded(ballot_recording(tmp_path, rounds=3, reviewers=0))
    assert play_all(game, 2, [1, 0, 1]) == ["#### 6", "", "#### 8"]
    assert game.task.num_questions() == 9


# --- the file -------------------------------------------------------------------------------------------------------

facts = st.fixed_dictionaries(
    {
        "tokens_in": st.none() | st.integers(0, 2**31 - 1),
        "tokens_out": st.none() | st.integers(0, 2**31 - 1),
        "mean_logprob": st.none() | st.floats(-1e9, 0),
        "min_logprob": st.none() | st.floats(max_value=0, allow_nan=False),
        "p_right": st.none() | st.floats(0, 1),
        "truncated": st.none() | st.booleans(),
    }
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.tuples(texts, facts, st.none() | texts, st.none() | st.booleans(), st.booleans())
MANIFEST = {
    "name": "x", "task": "t", "split": "train", "kind": "number", "candidates": 2, "proposals": 3, "reviews": 1,
    "replicates": 2, "data": "", "prompts": "", "model": {}, "code": {}, "seed": 0, "temperature": 1.0,
    "settings": {"proposers": 1, "reviewers": 1, "rounds": 5, "schedule": "round_robin", "decide": "last",
                 "on_invalid": "keep"},
}  # fmt: skip


def table_of(listed):
    utterances = [Utterance(text, **known) for text, known, *_ in listed]
    return Utterances.of(utterances, [r[2] for r in listed], [r[3] for r in listed], [r[4] for r in listed])


def recording_of(listed, ids=("a", "b")):
    """Two questions of two worlds with 1, 0, 2 and 1 nodes: 8 rows of nodes, 6 proposals, 6 reviews, 2 greedy."""
    assert len(listed) == 22
    cuts = [listed[:8], listed[8:14], listed[14:20], listed[20:]]
    tree, proposals, reviews, greedy = map(table_of, cuts)
    return Recording(
        manifest=MANIFEST,
        questions=tuple(Question(i, f"What is {i}?", "7") for i in ids),
        world_nodes=np.array([0, 1, 1, 3, 4]),
        node_path=np.array([1, 1, 3, 1], dtype=np.uint32),
        node_seat=np.array([0, 0, 1, 0], dtype=np.uint8),
        prompt_hash=np.array([0, 2**64 - 1, 5, 6], dtype=np.uint64),
        tree=tree,
        proposals=proposals,
        reviews=reviews,
        greedy=greedy,
    )


def assert_same(a, b):
    assert a.questions == b.questions
    for name in ("world_nodes", "node_path", "node_seat", "prompt_hash"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("tree", "proposals", "reviews", "greedy"):
        one, two = getattr(a, name), getattr(b, name)
        assert list(one.text) == list(two.text)
        assert list(one.answer) == list(two.answer)
        for column in COLUMNS:
            assert np.array_equal(getattr(one, column), getattr(two, column), equal_nan=column[-1] in "bt"), column
            assert getattr(one, column).dtype == getattr(two, column).dtype


@given(st.lists(rows, min_size=22, max_size=22), st.lists(texts, min_size=2, max_size=2))
@settings(max_examples=25, deadline=None)
def test_round_trip(tmp_path_factory, listed, ids):
    path = tmp_path_factory.getbasetemp() / "round-trip.npz"
    recording = recording_of(listed, ids)
    save_recording(path, recording)
    loaded = load_recording(path)
    assert_same(recording, loaded)
    assert {k: v for k, v in loaded.manifest.items() if k not in ("content", "format", "version")} == MANIFEST
    assert read_manifest(path) == loaded.manifest
    for row, (text, known, *_) in enumerate(listed[:8]):
        utterance = loaded.tree.utterance(row)
        assert utterance == text
        for name in ("tokens_in", "tokens_out", "truncated"):
            assert getattr(utterance, name) == known[name]
        for name in ("mean_logprob", "min_logprob", "p_right"):
            assert nearly(getattr(utterance, name), known[name]), name
    first = path.read_bytes()
    save_recording(path, loaded)
    assert path.read_bytes() == first  # the same content, the same bytes


SIMPLE = [("#### 7", dict.fromkeys(("tokens_in", "tokens_out", "mean_logprob", "min_logprob", "p_right", "truncated")),
           "7", None, True)] * 22  # fmt: skip


def test_lone_surrogates_are_written_as_question_marks(tmp_path):
    save_recording(tmp_path / "x.npz", recording_of([("a\ud800b", SIMPLE[0][1], "7", None, True)] * 22))
    assert load_recording(tmp_path / "x.npz").tree.text[0] == "a?b"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    save_recording(path, recording_of(SIMPLE))
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    for target in (path, tmp_path / "new.npz"):
        with pytest.raises(OSError, match="No space"):
            save_recording(target, recording_of(SIMPLE[1:] + SIMPLE[:1]))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    assert path.read_bytes() == before


def members(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def rewrite(path, arrays, *, rehash=False, **manifest):
    """Write changed arrays with a changed manifest; ``rehash`` makes the stated hash fit."""
    said = {**json.loads(arrays["manifest"].tobytes()), **manifest}
    if rehash:
        rest = {k: v for k, v in arrays.items() if k != "manifest"}
        said["content"] = file_format._content_hash({k: v for k, v in said.items() if k != "content"}, rest)
    np.savez_compressed(path, **{**arrays, "manifest": np.frombuffer(json.dumps(said).encode(), dtype=np.uint8)})


@pytest.fixture
def own(path, tmp_path):
    """A copy that may be broken, and its members."""
    target = tmp_path / "broken.npz"
    target.write_bytes(path.read_bytes())
    return target, members(path)


def refused(path, match):
    with pytest.raises(RecordingError, match=match) as caught:
        load_recording(path)
    assert str(path) in str(caught.value)
    with pytest.raises(RecordingError, match=match):
        Game(f"recorded:{path}")


def test_a_rewritten_file_is_read(own):
    path, arrays = own
    rewrite(path, arrays, rehash=True)
    assert load_recording(path).manifest == read_manifest(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(own, share):
    path, _ = own
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, r"truncated or damaged.*Make it again")
    with pytest.raises(RecordingError, match="truncated or damaged"):
        read_manifest(path)


def test_another_version_or_format(own):
    path, arrays = own
    rewrite(path, arrays, rehash=True, version=2)
    refused(path, "version 2; this library reads version 1")
    rewrite(path, arrays, rehash=True, format="other")
    refused(path, "'tracer-recording'")


def test_a_changed_text_is_noticed(own):
    path, arrays = own
    plain = bytearray(lzma.decompress(arrays["texts"].tobytes()))
    plain[len(plain) // 2] ^= 1
    texts = np.frombuffer(lzma.compress(bytes(plain), preset=9 | lzma.PRESET_EXTREME), dtype=np.uint8)
    rewrite(path, {**arrays, "texts": texts})
    refused(path, "changed since it was written")
    rewrite(path, arrays, temperature=0.5)  # the manifest is hashed as well
    refused(path, "changed since it was written")
    changed = arrays["correct"].copy()
    changed[0] ^= 1
    rewrite(path, {**arrays, "correct": changed})
    refused(path, "changed since it was written")


@pytest.mark.parametrize("name", ["node_path", "verdict", "texts", "texts_length", "has_answer", "manifest"])
def test_a_missing_member(own, name):
    path, arrays = own
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if k != name})
    refused(path, f"{name}.npy")


def test_a_manifest_without_a_key(own):
    path, arrays = own
    said = json.loads(arrays["manifest"].tobytes())
    del said["model"]
    rewrite(path, {**arrays, "manifest": np.frombuffer(json.dumps(said).encode(), dtype=np.uint8)})
    refused(path, "lacks.*model")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"])
def test_what_is_no_recording(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    refused(tmp_path / "x.npz", "is not a recording")


def test_pickles_are_not_read(own):
    path, arrays = own
    np.savez_compressed(path, **{**arrays, "golds": np.array([{"a": 1}], dtype=object)})
    refused(path, "is not a recording")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("node_path", lambda a: a.astype(np.int64), "one-dimensional uint32"),
        ("texts_length", lambda a: a.astype(np.int64) * -1, "one-dimensional uint32"),
        ("verdict", lambda a: a[:-1], "do not fit together.*verdict"),
        ("node_seat", lambda a: a[1:], "do not fit together.*node_seat"),
        ("prompt_hash", lambda a: a[1:], "do not fit together.*prompt_hash"),
        ("world_nodes", lambda a: a[:-1], "do not fit together.*world_nodes"),
        ("world_nodes", lambda a: np.r_[a[:1], a[3:0:-1], a[4:]], "do not fit together.*world_nodes"),
        ("world_nodes", lambda a: np.r_[a[:1] + 1, a[1:]], "do not fit together.*world_nodes"),
        ("world_nodes", lambda a: np.r_[a[:-1], a[-1:] + 1], "do not fit together.*world_nodes"),
        ("texts_length", lambda a: a[:-1], "does not hold"),
        ("answers", lambda a: a[:-7], "does not hold|cannot be unpacked"),
        ("golds", lambda a: a[::-1], "cannot be unpacked"),
    ],
)
def test_parts_that_do_not_fit_together(own, name, change, match):
    path, arrays = own
    rewrite(path, {**arrays, name: np.ascontiguousarray(change(arrays[name]))}, rehash=True)
    refused(path, match)


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ({"replicates": 3}, "world_nodes"),
        ({"candidates": 2}, "do not fit together"),
        ({"proposals": "4"}, "proposals must be an integer"),
        ({"reviews": -1}, "reviews must be an integer"),
        ({"replicates": 0}, "replicates must be an integer"),
        ({"settings": {"rounds": 5}}, "settings must be exactly"),
    ],
)
def test_a_manifest_that_does_not_fit(own, manifest, match):
    path, arrays = own
    rewrite(path, arrays, rehash=True, **manifest)
    refused(path, match)


def test_claims_and_bombs_are_refused_before_they_are_unpacked(own):
    path, arrays = own
    lengths = arrays["texts_length"].copy()
    lengths[0] = 200_000_000
    rewrite(path, {**arrays, "texts_length": lengths}, rehash=True)
    refused(path, "texts claims 200")
    lengths[0] = 50_000_000  # may be claimed, but is not there
    rewrite(path, {**arrays, "texts_length": lengths}, rehash=True)
    refused(path, "does not hold")
    bomb = np.frombuffer(lzma.compress(bytes(200_000_000), preset=0), dtype=np.uint8)
    rewrite(path, {**arrays, "texts": bomb}, rehash=True)
    tracemalloc.start()
    refused(path, "does not hold")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000  # unpacked no further than the lengths say
    tracemalloc.stop()
    np.savez_compressed(path, **{**arrays, "has_answer": np.zeros(150_000_000, dtype=np.bool_)})
    assert path.stat().st_size < 500_000
    refused(path, "claims to hold 15")


def test_an_array_may_not_claim_more_than_its_bytes(own):
    path, arrays = own
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            plain = io.BytesIO()
            np.save(plain, array)
            file.writestr(f"{name}.npy", header.getvalue() if name == "golds" else plain.getvalue())
    refused(path, "1000000000000")


@given(st.integers(0, 10**9), st.integers(1, 255), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_an_error_of_ours_or_reads_the_same(paths, position, change, cut):
    """Whatever byte is changed, and wherever the file ends."""
    whole = paths["no reviewer"].read_bytes()
    data = bytearray(whole)
    data[position % len(data)] ^= change
    broken = paths["no reviewer"].with_name("damaged.npz")
    broken.write_bytes(data[: position % len(data)] if cut else data)
    try:
        loaded = load_recording(broken)
    except RecordingError:
        return
    assert_same(loaded, load_recording(paths["no reviewer"]))


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_recording_is_found_by_path_or_name(path, tmp_path, monkeypatch):
    assert recording_path(path) == recording_path(str(path)) == path
    monkeypatch.chdir(path.parent)
    assert recording_path(path.name) == Path(path.name)
    for missing in (tmp_path / "none.npz", "no/such/recording", "none.npz"):
        with pytest.raises(DataNotFoundError, match=r"tracer record --out"):
            recording_path(missing)
    with pytest.raises(DataNotFoundError):
        load_recording(tmp_path)
    with pytest.raises(DataNotFoundError):
        Game(f"recorded:{tmp_path / 'none.npz'}")
    monkeypatch.setattr(file_format, "_FOLDER", path.parent)
    assert shipped_recordings()["default"] == path
    assert Game("recorded:default").task.path == path
    with pytest.raises(UnknownNameError, match=r"unknown recording 'defaults'.*Did you mean 'default'"):
        Game("recorded:defaults")


# --- the recordings that come with the package ----------------------------------------------------------------------

TREES = ("arithmetic-train", "arithmetic-test")
BALLOTS = ("arithmetic-ballot-train", "arithmetic-ballot-test")
SHIPPED = (*TREES, *BALLOTS)


@pytest.fixture(scope="module")
def shipped():
    """Load a shipped recording; skip while there is none, and fail when one of a pair is missing."""
    found, loaded = shipped_recordings(), {}

    def load(name):
        if not set(SHIPPED) & set(found):
            pytest.skip("no recording of the arithmetic task has been made yet: make recordings")
        assert name in found, f"{name}.npz is missing: make recordings"
        if name not in loaded:
            loaded[name] = Game(f"recorded:{name}")
        return loaded[name]

    return load


@pytest.mark.parametrize("name", sorted({*SHIPPED, *shipped_recordings()}))
def test_shipped_recordings_are_large_enough_and_small_enough(shipped, name):
    recording = shipped(name).task.recording
    assert len(recording.questions) >= 500
    assert recording.manifest["replicates"] >= 2
    assert recording.manifest["name"] == name
    assert shipped_recordings()[name].stat().st_size <= 3_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recordings_are_of_the_shipped_model_and_task(shipped, name):
    recording = shipped(name).task.recording
    manifest = recording.manifest
    assert manifest["model"]["sha256"] == hash_of_files(SHIPPED_MODEL), "the model has changed: make recordings"
    rules = {"decide": "ballot", "rounds": 7} if name in BALLOTS else {}
    live = Game("arithmetic", split=name.rpartition("-")[2], **rules)
    assert (manifest["task"], manifest["split"]) == (live.task.name, live.task.split)
    assert recording.questions == tuple(live.task.question(k) for k in range(len(recording.questions)))
    assert manifest["settings"] == {k: getattr(live.rules, k) for k in manifest["settings"]}
    assert manifest["proposals"] >= 16


@pytest.mark.parametrize("name", BALLOTS)
def test_shipped_ballots_hold_what_their_texts_say(shipped, name):
    game, rng = shipped(name), np.random.default_rng(0)
    recording = game.task.recording
    proposals, reviews = recording.proposals, recording.reviews
    each, per_proposal = recording.manifest["proposals"], recording.manifest["reviews"]
    assert (len(proposals), len(reviews)) == (len(recording.questions) * each, len(proposals) * per_proposal)
    for row in rng.choice(len(proposals), size=300, replace=False).tolist():
        answer = game.task.extract_answer(proposals.utterance(row))
        right = game.task.answers_match(answer, recording.questions[row // each].gold)
        assert (proposals.answer[row], proposals.correct[row]) == (answer, right)
        for review in range(row * per_proposal, (row + 1) * per_proposal):
            verdict = parse_verdict(reviews.utterance(review))
            assert reviews.verdict[review] == {None: -1, Verdict.WRONG: 0, Verdict.RIGHT: 1}[verdict]
            assert reviews.correct[review] == (verdict is not None and (verdict is Verdict.RIGHT) == right)


@pytest.mark.parametrize("name", TREES)
def test_shipped_recordings_hold_what_their_texts_say(shipped, name):
    """Prompts, answers, verdicts and what is right, worked out again on random paths."""
    game, rng = shipped(name), np.random.default_rng(0)
    recording, looked = game.task.recording, 0
    for world in rng.choice(recording.num_worlds, size=60, replace=False):
        state = game.start(game.task.question(int(world)))
        while not state.over:
            for seat in game.acting(state):
                node = game.task.node(state, seat)
                assert recording.prompt_hash[node] == hash_of_prompt(game.prompt(state, seat)), "make recordings"
                for k, utterance in enumerate(game.utterances(state, seat)):
                    check_row(game, state, seat, utterance, recording.tree, node * recording.manifest["candidates"] + k)
                    looked += 1
            controls = {seat: Action(Control(int(rng.integers(2)))) for seat in game.acting(state)}
            state = game.advance(state, controls)
    assert looked >= 300


def test_the_checks_of_shipped_recordings_can_fail(paths):
    game = recorded(paths["default"])
    state = game.start(game.task.question(0))
    said = game.utterances(state, PROPOSER)[0]
    table = replace(game.task.recording.tree, answer=["other"] * len(game.task.recording.tree))
    with pytest.raises(AssertionError):
        check_row(game, state, PROPOSER, said, table, 0)
