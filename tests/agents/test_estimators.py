"""Value estimators against exact values: bias, variance, cost; what is drawn when, and what a controller cannot see."""

import json
import shutil
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from drawn import draw_recordings
from toy import ToyTask

from benchmarks import estimators as bench
from tracer_agents import cli, estimators, fit, rollout
from tracer_agents.controllers.batch import weights_of
from tracer_agents.controllers.fixed import FixedController
from tracer_agents.controllers.table import TabularController
from tracer_agents.errors import CertificateError
from tracer_agents.fit import policy_of_controllers
from tracer_agents.generators.scripted import ScriptedGenerator
from tracer_agents.rollout import Player, Probing, play
from tracer_env import Action, Costs, Game, OutcomeRewards, Question, Role, TracerRewards
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.exact import build_tree, control_values
from tracer_env.exact.evaluate import speak_probs
from tracer_env.tasks.simulated import SimulatedTask, SimulatedTeam

COSTS = OutcomeRewards(costs=Costs(per_call=0.05))
ALL_SETS = 0.9999  # probability that all intervals of a test hold at once


def probing(**settings):
    return Probing(**{"num_candidates": 1, "estimator": "rollout", "rewards": TracerRewards(), **settings})


class Scene:
    """A scripted game, its tree, and a fixed policy that differs from set to set."""

    def __init__(self, task, **settings):
        self.game = Game(task, rewards=COSTS, **settings)
        self.tree = build_tree(self.game)
        rng = np.random.default_rng(8)
        self.policy = {
            pair: float(p) for pair, p in zip(self.tree.infosets, rng.uniform(0.2, 0.8, 10**3), strict=False)
        }
        self.team = bench.team_of(self.game, self.policy)
        self.at = control_values(self.tree, self.policy)

    def play(self, count, seed=0, **settings):
        """Play and return the episodes, and the position of each one's question in the tree."""
        size = self.game.task.num_questions()
        worlds = [0] * count if size is None else np.random.default_rng(seed).integers(size, size=count).tolist()
        asked = [self.game.task.question(k if size is None else world) for k, world in enumerate(worlds)]
        return play(self.game, self.team, None, asked, seed=seed, probing=probing(**settings)), worlds

    def visits(self, count, **settings):
        return estimators.collect(self.game, self.tree, self.policy, *self.play(count, **settings))

    def against_the_set(self, visits):
        """Compare with the mean value of the information set, and not with that of the node."""
        return replace(visits, exact=np.diff(self.at.infoset_values, axis=1)[visits.infoset, 0])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    drawn = draw_recordings(tmp_path_factory.mktemp("drawn"), {"five": {"rounds": 5}}, seed=5, questions=6)["five"]
    pairs = {"proposers": 2, "reviewers": 2, "schedule": "simultaneous", "rounds": 3}
    return {
        "simulated": Scene("simulated:default"),
        "drawn": Scene(f"recorded:{drawn}"),
        "simultaneous": Scene("simulated:default", **pairs),
    }


# --- bias ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simulated", "drawn", "simultaneous"])
def test_exact_is_the_control_value_of_every_visited_node(scenes, name):
    scene = scenes[name]
    episodes, worlds = scene.play(30, estimator="exact")
    nodes, compared = estimators.Nodes(scene.game, scene.tree), 0
    for episode, world in zip(episodes, worlds, strict=True):
        visited = nodes.of(episode, world)
        for d in episode.decisions:
            expected = scene.at.values[visited[d.round, d.seat]]
            assert (d.values.skip, d.values.speak) == pytest.approx(tuple(expected), abs=1e-12)
            compared += 1
        assert episode.tokens_generated == episode.state.tokens_spent
        assert episode.branches == 0 < episode.branch_turns
    assert compared > 60


@pytest.mark.parametrize("continuations", [1, 3])
@pytest.mark.parametrize("name", ["simulated", "drawn", "simultaneous"])
def test_rollout_is_unbiased(scenes, name, continuations):
    scene = scenes[name]
    visits = scene.visits(2000, continuations=continuations)
    for compared in (visits, scene.against_the_set(visits)):
        errors = bench.errors_of(compared, ALL_SETS, fewest=150)
        assert errors.holds.all(), (errors.bias, errors.half_width)
        assert len(errors.sets) >= 5
        assert errors.half_width.min() < 0.15  # narrow enough to say something


def test_a_sample_of_decisions_is_unbiased_by_its_weights(scenes):
    scene = scenes["drawn"]
    errors = bench.errors_of(scene.visits(3000, probe_rate=0.4), ALL_SETS, fewest=150)
    assert errors.holds.all(), (errors.bias, errors.half_width)


def test_local_is_biased_where_the_answer_can_still_change(scenes):
    """``local`` scores the turn itself, which for a reviewer is its verdict; U is about the answer at the end."""
    scene = scenes["drawn"]
    visits = scene.visits(2000, estimator="local")
    for compared in (visits, scene.against_the_set(visits)):
        errors = bench.errors_of(compared, ALL_SETS, fewest=150)
        reviews = [scene.tree.infosets[row][0].role is Role.REVIEWER for row in errors.sets]
        assert (~errors.holds & reviews).any()


# --- weighting -------------------------------------------------------------------------------------------------------


def test_counterfactual_weights_leave_out_the_seats_own_controls():
    """Summed over episodes, weighted differences are CFR's increments: exact ones of the tree, and no other."""
    scene, count = Scene("simulated:default", abstraction="history", rounds=4), 3000
    speak = speak_probs(scene.tree, scene.policy)
    own, others = fit._split_reach(scene.tree, speak)
    assert own.min() < 0.5  # or there is nothing to tell
    at = scene.tree.node_infoset
    gains = np.diff(scene.at.values, axis=1)[:, 0] * scene.tree.may_skip
    expected = {
        "counterfactual": np.bincount(at, weights=others * gains),
        "visit": np.bincount(at, weights=others * own * gains),
    }
    rows = {pair: k for k, pair in enumerate(scene.tree.infosets)}
    for weighting, told_apart in (("counterfactual", "visit"), ("visit", "counterfactual")):
        episodes, _ = scene.play(count, estimator="exact", weighting=weighting)
        by_episode = np.zeros((count, len(rows)))
        for e, episode in enumerate(episodes):
            for d in episode.decisions:
                by_episode[e, rows[d.seat, d.infoset]] += d.values.weight * (d.values.speak - d.values.skip)
        mean, error = by_episode.mean(axis=0), by_episode.std(axis=0) / np.sqrt(count)
        often = (by_episode != 0.0).sum(axis=0) >= 100
        assert often.sum() >= 6
        assert (np.abs(mean - expected[weighting])[often] <= 4.5 * error[often] + 1e-12).all()
        assert (np.abs(mean - expected[told_apart])[often] > 4.5 * error[often]).any()


def test_the_average_strategy_stays_weighted_by_visits():
    scene = Scene("simulated:default", abstraction="history")
    episodes, _ = scene.play(50, weighting="counterfactual", probe_rate=0.5)
    values = [d.values for e in episodes for d in e.decisions if d.values is not None]
    assert min(v.reach for v in values) < 0.5
    increments = TabularController().increments(values)
    assert increments.weights == pytest.approx(np.full(len(values), 2.0))
    assert weights_of(values) == pytest.approx(np.full(len(values), 2.0))  # other learners follow what is played
    for reach in (0.0, -1.0, 1.5, np.nan):
        with pytest.raises(ConfigError, match="reach must be"):
            TabularController().increments([replace(values[0], reach=reach)])
    assert increments.gains[:, 1] == pytest.approx([v.weight * (v.speak - v.skip) / 2.0 for v in values])


def test_counterfactual_weights_need_perfect_recall_and_a_known_game(scenes):
    with pytest.raises(ConfigError, match="abstraction='history'"):
        scenes["simulated"].play(1, weighting="counterfactual")
    live = Game(ToyTask(), abstraction="history")
    players = {s: Player(policy=s.name, controller=FixedController(0.5)) for s in live.rules.seats}
    with pytest.raises(ConfigError, match="use weighting='visit'"):
        play(live, players, ScriptedGenerator(["7"]), [live.task.question(0)], seed=0,
             probing=probing(weighting="counterfactual"))  # fmt: skip
    with pytest.raises(UnknownNameError, match="counterfactual"):
        probing(weighting="counter")


# --- variance --------------------------------------------------------------------------------------------------------


def test_variance_falls_as_one_over_the_number_of_continuations(scenes):
    """On a recording the continuations differ by controls only, and by independent ones: the noise is sigma² / M."""
    noise = {m: bench.errors_of(scenes["drawn"].visits(1500, continuations=m)).noise for m in (1, 4)}
    assert noise[1] > 0.05
    assert 4 * noise[4] / noise[1] == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("continuations", [1, 3])
def test_common_random_numbers_make_the_difference_steadier_than_independent_draws(scenes, continuations):
    scene = scenes["drawn"]
    worlds = np.arange(scene.game.task.num_questions()).repeat(100)
    asked = [scene.game.task.question(int(world)) for world in worlds]
    runs = [  # the first decision is in the same state whatever the seed: the first turn is a forced SPEAK
        play(scene.game, scene.team, None, asked, seed=s, probing=probing(continuations=continuations)) for s in (1, 2)
    ]
    first = [[e.decisions[0].values if e.decisions[0].round == 1 else None for e in run] for run in runs]
    common = np.array([a.speak - a.skip for a, _ in zip(*first, strict=True)])
    independent = np.array([a.speak - b.skip for a, b in zip(*first, strict=True)])

    def spread(values):  # within a world, as the worlds' own values differ alike for both
        return np.mean([values[worlds == world].var() for world in np.unique(worlds)])

    assert common.mean() == pytest.approx(independent.mean(), abs=0.1)
    assert spread(common) < 0.95 * spread(independent)


def test_continuations_leave_the_dialogue_as_it_is(scenes):
    one, many = (scenes["drawn"].play(50, continuations=m)[0] for m in (1, 4))
    assert [e.state for e in one] == [e.state for e in many]
    assert [e.infosets for e in one] == [e.infosets for e in many]
    values = [[d.values for e in episodes for d in e.decisions] for episodes in (one, many)]
    assert values[0] != values[1]


@pytest.mark.parametrize("played", [0.1, 0.9])
def test_every_continuation_speaks_the_candidate_that_was_drawn_for_it(played):
    """One candidate in four is right, at the last decision: of M continuations Binomial(M, 1/4) end right."""
    k, m, count = 4, 3, 600
    game = Game(ToyTask(), proposers=1, reviewers=0, rounds=2, rewards="outcome")
    generator = Writer(lambda role, r, line, candidate: "7" if candidate == 0 and r else "8")
    players = {s: Player(policy=s.name, controller=FixedController(played)) for s in game.rules.seats}
    episodes = play(game, players, generator, [game.task.question(7)] * count, seed=2,
                    probing=probing(num_candidates=k, continuations=m))  # fmt: skip
    values = [d.values for e in episodes for d in e.decisions]
    assert {v.skip for v in values} == {-1.0}
    right = np.array([(v.speak + 1.0) / 2.0 * m for v in values])
    assert len(right) == count
    assert np.allclose(right, right.round())
    assert right.mean() == pytest.approx(m / k, abs=5 * np.sqrt(m * 3 / 16 / count))
    assert right.var() == pytest.approx(m * 3 / 16, rel=0.25)  # independent indices


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("speak_prob", [0.0, 0.5, 1.0])
def test_branches_turns_and_tokens_are_counted(m, speak_prob):
    team = SimulatedTeam(invalid=0.0, proposal_tokens=7, right_tokens=7, wrong_tokens=7)
    game, rounds = Game(SimulatedTask(team), rewards="outcome"), 5
    players = {s: Player(policy=s.name, controller=FixedController(speak_prob)) for s in game.rules.seats}
    asked = [game.task.question(k) for k in range(20)]
    lines = []
    episodes = play(game, players, None, asked, seed=3, probing=probing(continuations=m),
                    on_round=lambda _, count: lines.append(count))  # fmt: skip
    per_decision = 2 * m - 1
    for e in episodes:  # every turn but the first is a decision: the bounds are reached
        assert e.branches == per_decision * (rounds - 1)
        assert e.branch_turns == per_decision * rounds * (rounds - 1) // 2
        later = per_decision * (rounds - 1) * (rounds - 2) // 2  # turns after a branch's first: whose text was probed
        if speak_prob == 1.0:
            assert e.tokens_generated == 7 * (rounds + later)
        elif speak_prob == 0.0:
            assert e.tokens_generated == 7 * rounds
        else:
            assert 7 * rounds <= e.tokens_generated <= 7 * (rounds + later)
    assert lines == [20 * (1 + per_decision * max(r - 1, 0)) for r in range(rounds)]


@pytest.mark.parametrize("m", [1, 3])
def test_turns_of_other_seats_in_the_round_of_a_decision_are_not_counted(m):
    team = {"proposers": 2, "reviewers": 2, "schedule": "simultaneous", "rounds": 3}
    game = Game(SimulatedTask(SimulatedTeam(invalid=0.0)), rewards="outcome", **team)
    players = {s: Player(policy=s.name, controller=FixedController(0.5)) for s in game.rules.seats}
    (e,) = play(game, players, None, [game.task.question(0)], seed=0, probing=probing(continuations=m))
    assert [d.round for d in e.decisions] == [1, 1, 2, 2]
    # the decision's own turn, and after those of round 1 both turns of round 2
    assert (e.branches, e.branch_turns) == (4 * (2 * m - 1), (2 * m - 1) * (3 + 3 + 1 + 1))


def test_a_masked_turn_opens_no_branch():
    game = Game(SimulatedTask(SimulatedTeam(invalid=1.0)), rewards="outcome")  # every proposal is masked
    players = {s: Player(policy=s.name, controller=FixedController(0.5)) for s in game.rules.seats}
    (episode,) = play(game, players, None, [game.task.question(0)], seed=0, probing=probing(continuations=2))
    assert (episode.branches, episode.branch_turns) == (3 * 2, 3 * (4 + 2))


def test_local_takes_rewards_and_costs_from_all_candidates():
    task = ToyTask()
    task.extract_answer = lambda text: text.split()[0]
    game = Game(task, proposers=1, reviewers=0, rounds=2, rewards=OutcomeRewards(costs=Costs(per_1k_tokens=100.0)))
    texts = ["8", "7 and more", "8 two"]  # 2, 4 and 3 tokens, the end of the text included
    generator = Writer(lambda role, r, line, candidate: texts[candidate])
    players = {s: Player(policy=s.name, controller=FixedController(0.5)) for s in game.rules.seats}
    (e,) = play(game, players, generator, [game.task.question(7)], seed=0,
                probing=probing(estimator="local", num_candidates=3))  # fmt: skip
    (decision,) = e.decisions
    assert decision.values.speak == pytest.approx((-1 + 1 - 1) / 3 - 0.1 * (2 + 4 + 3) / 3)


def test_local_reads_all_candidates_of_a_recording_and_rollout_only_the_one_that_is_played():
    game = Game("recorded:arithmetic-train", rewards="outcome")
    players = {s: Player(policy=s.name, controller=FixedController(1.0)) for s in game.rules.seats}
    asked = [game.task.question(k) for k in range(5)]
    for e in play(game, players, None, asked, seed=0, probing=probing(estimator="local")):
        state, tokens = game.start(e.state.question), 0
        for turn in e.state.turns:
            tokens += sum(said.tokens_out for said in game.utterances(state, turn.seat))
            state = game.advance(state, {turn.seat: Action(turn.control, turn.utterance)})
        assert e.tokens_generated == tokens > e.state.tokens_spent
        assert (e.branches, e.branch_turns) == (0, 0)


def test_live_tokens_are_those_that_were_generated():
    game = Game(ToyTask(), rewards="outcome")
    generator = Writer(lambda role, *_: "3 words here" if role is Role.PROPOSER else "RIGHT")
    players = {s: Player(policy=s.name, controller=FixedController(0.5)) for s in game.rules.seats}
    asked = [game.task.question(k) for k in range(10)]
    episodes = play(game, players, generator, asked, seed=1, probing=probing(num_candidates=2, continuations=3))
    assert sum(e.tokens_generated for e in episodes) == generator.tokens > 0
    assert max(e.branches for e in episodes) <= 5 * 4
    assert max(e.branch_turns for e in episodes) <= 5 * 10


# --- what is drawn when, and what a controller sees ------------------------------------------------------------------


class Writer:
    """Writes ``text(role, round, line, candidate)``; what it makes up about a text depends on these places only."""

    def __init__(self, text):
        self.text, self.sizes, self.tokens = text, [], 0

    def generate(self, requests):
        texts, line, candidate = [], -1, 0
        for k, request in enumerate(requests):
            line, candidate = (line, candidate + 1) if k and request is requests[k - 1] else (line + 1, 0)
            texts.append(self.text(request.role, len(self.sizes), line, candidate))
        written = ScriptedGenerator(texts, seed=len(self.sizes)).generate(requests)
        self.sizes.append(len(requests))
        self.tokens += sum(len(candidate.token_ids) for candidate in written)
        return written

    def reseed(self, seed):
        raise AssertionError


class _Flipped(TracerRewards):
    def turn_reward(self, before, turn):
        return -super().turn_reward(before, turn)


@pytest.mark.parametrize(("estimator", "m"), [("local", 1), ("rollout", 1), ("rollout", 3)])
def test_the_played_index_and_all_controls_are_independent_of_texts_and_rewards(estimator, m):
    task = ToyTask()
    task.extract_answer = lambda text: text.split()[0]
    game = Game(task, rewards="outcome")
    players = {s: Player(policy=s.name, controller=FixedController(0.6)) for s in game.rules.seats}
    asked = [game.task.question(7)] * 60

    def run(right, rewards):
        """Let the candidates for which ``right(candidate)`` be right, and the others wrong."""

        def text(role, r, line, candidate):
            good = right(candidate)
            said = ("7" if good else "8") if role is Role.PROPOSER else ("RIGHT" if good else "WRONG")
            return f"{said} c{candidate}"

        generator = Writer(text)
        settings = probing(estimator=estimator, continuations=m, num_candidates=4, rewards=rewards)
        episodes = play(game, players, generator, asked, seed=4, probing=settings)
        played = [t.utterance[-1] if t.spoke else "skip" for e in episodes for t in e.state.turns]
        return played, generator.sizes, [e.branch_turns for e in episodes]

    base = run(lambda candidate: candidate == 0, TracerRewards())
    assert run(lambda candidate: candidate == 3, TracerRewards()) == base  # the rewards permuted
    assert run(lambda candidate: candidate != 0, TracerRewards()) == base  # the texts of right and wrong exchanged
    assert run(lambda candidate: candidate == 0, _Flipped()) == base  # other rewards of the same texts
    counts = np.bincount([int(index) for index in base[0] if index != "skip"], minlength=4)
    assert counts.min() > 0.7 * counts.mean()


class _Reader:
    """A controller whose probability depends on everything it is given."""

    def speak_prob(self, infoset, features, mask):
        return 0.2 + 0.6 * float(abs(np.sin(1e3 * features.sum() + len(infoset)))) if mask[0] else 1.0

    def update(self, values):
        pass


class _Spy(_Reader):
    """A reader that notes what it was asked about."""

    def __init__(self, seat, asked):
        self.seat, self.asked = seat, asked

    def speak_prob(self, infoset, features, mask):
        self.asked.add((self.seat, infoset, features.tobytes()))
        return super().speak_prob(infoset, features, mask)


@pytest.mark.parametrize(("estimator", "m"), [("local", 1), ("rollout", 1), ("rollout", 2), ("exact", 1)])
@pytest.mark.parametrize("name", ["simulated", "drawn", "simultaneous"])
def test_lines_branches_and_recursion_show_a_controller_what_the_tree_does(scenes, name, estimator, m):
    scene, asked = scenes[name], set()
    tree, readers = scene.tree, {seat.name: _Spy(seat, asked) for seat in scene.game.rules.seats}
    scene = copy(scene)
    scene.team = {seat: Player(policy=seat.name, controller=readers[seat.name]) for seat in scene.game.rules.seats}
    episodes, worlds = scene.play(40, estimator=estimator, continuations=m)
    known = {
        (*tree.infosets[row], features.tobytes())
        for row, features, free in zip(tree.node_infoset, tree.features, tree.may_skip, strict=True)
        if free
    }
    assert len(asked) > 5
    assert asked <= known
    if estimator == "exact":
        at, nodes = control_values(tree, policy_of_controllers(readers)), estimators.Nodes(scene.game, tree)
        for episode, world in zip(episodes, worlds, strict=True):
            visited = nodes.of(episode, world)
            for d in episode.decisions:
                expected = at.values[visited[d.round, d.seat]]
                assert (d.values.skip, d.values.speak) == pytest.approx(tuple(expected), abs=1e-12)


class _Hidden(ToyTask):
    """Asks for a number that its text does not tell."""

    def __init__(self, gold):
        super().__init__()
        self.gold = gold

    def question(self, index):
        return Question(f"hidden/{index}", "Which number?", self.gold)


SETTINGS = [("local", 1), ("rollout", 1), ("rollout", 2)]


def _seen(text, gold="1", *, estimator, m):
    """Play 40 dialogues; return what the controllers saw and did, by dialogue and round, and all values."""
    game = Game(_Hidden(gold), rewards="outcome", abstraction="history")
    players = {s: Player(policy=s.name, controller=_Reader()) for s in game.rules.seats}
    asked = [game.task.question(k % 20) for k in range(40)]
    settings = probing(estimator=estimator, continuations=m, num_candidates=3)
    episodes = play(game, players, Writer(text), asked, seed=6, probing=settings)
    seen = [
        {d.round: (d.infoset, d.features.tobytes(), d.speak_prob, d.control) for d in e.decisions} for e in episodes
    ]
    return seen, [d.values for e in episodes for d in e.decisions], episodes


def _draw(role, r, line, candidate, shift=0):
    number = int(np.random.default_rng((r, line, candidate)).integers(3)) + shift
    return str(number % 3) if role is Role.PROPOSER else ("RIGHT", "WRONG", "Perhaps.")[number % 3]


@pytest.mark.parametrize(("estimator", "m"), SETTINGS)
def test_nothing_a_controller_reads_depends_on_the_gold_answer(estimator, m):
    one, other = (_seen(_draw, gold, estimator=estimator, m=m) for gold in ("1", "2"))
    assert one[0] == other[0]
    assert [e.infosets for e in one[2]] == [e.infosets for e in other[2]]
    assert one[1] != other[1]  # the values are hindsight


@pytest.mark.parametrize(("estimator", "m"), SETTINGS)
def test_nothing_a_controller_reads_depends_on_candidates_that_are_not_played(estimator, m):
    base, values, episodes = _seen(_draw, estimator=estimator, m=m)
    drawn = {(line, t.round): t for line, e in enumerate(episodes) for t in e.state.turns if t.spoke}

    def same_as_played(role, r, line, candidate):
        turn = drawn.get((line, r))
        return turn is not None and turn.utterance == _draw(role, r, line, candidate)

    def changed(role, r, line, candidate):
        keep = line < 40 and same_as_played(role, r, line, candidate)  # the dialogues themselves come first
        return _draw(role, r, line, candidate, shift=0 if keep else 1)

    after, other_values, others = _seen(changed, estimator=estimator, m=m)
    assert after == base
    assert [e.infosets for e in others] == [e.infosets for e in episodes]
    assert [e.state.turns for e in others] == [e.state.turns for e in episodes]
    assert other_values != values


@pytest.mark.parametrize("changed_from", [1, 2, 4])
def test_nothing_a_controller_reads_depends_on_candidates_that_do_not_exist_yet(changed_from):
    def changed(role, r, line, candidate):
        return _draw(role, r, line, candidate, shift=int(r >= changed_from))

    base, after = (_seen(text, estimator="rollout", m=2) for text in (_draw, changed))
    for one, other in zip(base[0], after[0], strict=True):
        early = [{r: what for r, what in seen.items() if r <= changed_from} for seen in (one, other)]
        assert early[0] == early[1]
    assert changed_from == 4 or base[0] != after[0]


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_that_mean_nothing_are_errors():
    for count in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="continuations must be an integer of at least 1"):
            probing(continuations=count)
    for estimator in ("local", "exact"):
        with pytest.raises(ConfigError, match="estimator='rollout'"):
            probing(estimator=estimator, continuations=2)
    game = Game(ToyTask())
    players = {s: Player(policy=s.name, controller=FixedController(0.5)) for s in game.rules.seats}
    with pytest.raises(ConfigError, match="tracer record"):
        play(game, players, ScriptedGenerator(["7"]), [game.task.question(0)], seed=0,
             probing=probing(estimator="exact"))  # fmt: skip


# --- the certificate -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    drawn = draw_recordings(folder, {"five": {"rounds": 5}}, seed=5, questions=6)["five"]
    options = ["--iterations", "20", "--starts", "1", "--cost-per-1k-tokens", "1"]
    assert cli.main(["fit", "--task", f"recorded:{drawn}", *options, "--out", str(folder / "run")]) == 0
    return folder / "run"


def certified(folder, capsys, dialogues="2000"):
    """Return the exit status and the rows of ``tracer certify --estimators``, by estimator."""
    capsys.readouterr()
    status = cli.main(["certify", str(folder), "--estimators", dialogues, "--json"])
    return status, {row["estimator"]: row for row in json.loads(capsys.readouterr().out)["estimators"]}


def test_estimators_are_certified_apart(fitted, capsys):
    status, rows = certified(fitted, capsys, "3000")
    assert status == 0
    assert list(rows) == ["local", "rollout", "exact"]
    assert [row["promised"] for row in rows.values()] == [False, True, True]
    assert all(row["holds"] for row in rows.values())
    assert [rows[n]["contain_zero"] == rows[n]["sets"] for n in rows] == [False, True, True]
    assert abs(rows["exact"]["bias"]) < 1e-9 == rows["exact"]["half_width"]
    assert rows["rollout"]["sets"] >= 8
    assert cli.main(["certify", str(fitted), "--estimators", "400"]) == 0
    assert "rollout, M = 1" in capsys.readouterr().out


def test_a_biased_estimator_fails_its_certificate(fitted, capsys, monkeypatch):
    """Three bugs: values of the wrong control, SPEAK too good, and twice what it is worth."""
    values = rollout._values
    for wrong in (
        lambda skip, speak: (speak, skip),
        lambda skip, speak: (skip, speak + 0.4),
        lambda skip, speak: (skip, skip + 2.0 * (speak - skip)),
    ):
        monkeypatch.setattr(
            rollout, "_values", lambda d, skip, speak, w, wrong=wrong: values(d, *wrong(skip, speak), w)
        )
        status, rows = certified(fitted, capsys)
        assert status == 1
        assert [rows[name]["holds"] for name in ("local", "rollout", "exact")] == [True, False, False]
    assert cli.main(["certify", str(fitted), "--estimators", "1000"]) == 1
    assert "BROKEN: exact must be unbiased" in " ".join(capsys.readouterr().out.split())


def test_rare_outcomes_do_not_break_the_certificate_of_a_good_estimator():
    """One dialogue in a thousand is off by one: often none is seen, and a normal interval has no width."""
    tree = build_tree(Game("simulated:default", rounds=2, rewards="outcome"))
    row, m, p = int(tree.node_infoset[np.flatnonzero(tree.may_skip)[0]]), 1500, 0.001
    holds = {"normal": 0, "bernstein": 0}
    for seed in range(200):
        value = (np.random.default_rng(seed).random(m) < p).astype(np.float64)
        visits = estimators.Visits(dialogue=np.arange(m), infoset=np.full(m, row), value=value, exact=np.full(m, p))
        holds["normal"] += bench.errors_of(visits, 0.999).holds.all()
        (found,) = estimators.biases_of(visits, tree, miss=0.001)
        holds["bernstein"] += found.contains_zero
        assert found.half_width < 0.4
    assert holds["bernstein"] == 200
    assert holds["normal"] < 180


def test_bernstein_intervals_by_hand():
    """Two dialogues with errors 0.1 and 0.3 in one visit each: mean 0.2, V = 0.02, m = 2; U is from -1 to 1."""
    tree = build_tree(Game("simulated:default", rounds=2, rewards="outcome"))
    row = int(tree.node_infoset[np.flatnonzero(tree.may_skip)[0]])
    visits = estimators.Visits(
        dialogue=np.array([0, 1]), infoset=np.array([row, row]), value=np.array([0.6, 0.8]), exact=np.array([0.5, 0.5])
    )
    (found,) = estimators.biases_of(visits, tree, miss=0.04)
    factor = np.log(100.0)
    assert found.bias == pytest.approx(0.2)
    assert found.half_width == pytest.approx(np.sqrt(2 * 0.02 * factor / 2) + 7 * 8.0 * factor / 3)
    assert found.contains_zero


def test_estimators_need_a_game_with_choices(fitted, tmp_path, capsys):
    for dialogues, message in (("1", "two dialogues"), ("0", "dialogues must be")):
        assert cli.main(["certify", str(fitted), "--estimators", dialogues]) == 1
        assert message in capsys.readouterr().err
    game = Game("simulated:default", rounds=1)
    with pytest.raises(CertificateError, match="no seat has a choice"):
        estimators.certify_estimators(game, build_tree(game), {})
    live = tmp_path / "live"
    shutil.copytree(fitted, live)
    (live / "config.json").write_text(json.dumps({"task": "arithmetic"}))
    assert cli.main(["certify", str(live), "--estimators"]) == 1
    assert "--on" in capsys.readouterr().err


def test_the_table_of_the_benchmark(tmp_path, monkeypatch, capsys):
    drawn = draw_recordings(tmp_path, {"five": {"rounds": 5}}, seed=5)["five"]
    tables = []
    for name in ("a.md", "b.md"):
        options = ["--task", f"recorded:{drawn}", "--dialogues", "100", "--continuations", "1"]
        monkeypatch.setattr("sys.argv", ["estimators.py", *options, "--out", str(tmp_path / name)])
        bench.main()
        lines = [line.split(" | ") for line in (tmp_path / name).read_text().splitlines()]
        tables.append([line[:-1] for line in lines])  # but for the seconds
    assert tables[0] == tables[1]
    rows = [line for line in tables[0] if len(line) > 5][1:]
    assert [row[1] for row in rows] == ["local", "rollout, M = 1", "exact"] * 2
    assert [row[2] == "0" for row in rows] == [False, False, True] * 2
    assert capsys.readouterr().out.count("| exact |") == 4
