"""Exact figures and optima: against plain recursion over the rules, against play, and against trying every policy."""

import math
from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from drawn import draw_recordings

import tracer_env
from tracer_env import Action, Control, Game, Role, Seat, Utterance
from tracer_env.dialogue import advance
from tracer_env.errors import ConfigError
from tracer_env.exact import (
    belief_optimum,
    best_policy,
    build_tree,
    control_values,
    evaluate,
    policy_frontier,
    sample_episodes,
    search,
)
from tracer_env.exact.evaluate import leaf_reach, node_reach, speak_probs
from tracer_env.exact.search import public_optimum
from tracer_env.rewards import Costs, OutcomeRewards
from tracer_env.tasks.simulated import SimulatedTask, SimulatedTeam
from tracer_env.types import Rules, Verdict

# shape legend: N nodes, L leaves, W worlds, I information sets, n episodes

COSTS = OutcomeRewards(costs=Costs(per_call=0.02, per_1k_tokens=1.5))
PROPOSER, REVIEWER = Seat(Role.PROPOSER, 0), Seat(Role.REVIEWER, 0)
GAMES = {
    "simulated, 3 rounds": {"rounds": 3},
    "simulated, 5 rounds, costs": {"rounds": 5, "rewards": COSTS},
    "simulated, two proposers at once": {"rounds": 3, "proposers": 2, "schedule": "simultaneous"},
    "simulated, stops early": {"rounds": 5, "stop_at_votes": 1, "stop_after_skips": 2},
    "simulated, token budget": {"rounds": 5, "token_budget": 90},
    "simulated ballot": {"rounds": 4, "decide": "ballot"},
    "simulated, no reviewer": {"rounds": 3, "reviewers": 0, "on_invalid": "replace"},
    "recording": {},
    "recording, 3 rounds": {},
    "recording with costs": {"rewards": COSTS},
    "recording, stops early": {"stop_after_skips": 1},
    "recording, two and two at once": {"rewards": COSTS},
}
RECORDINGS = {
    "recording": {"rounds": 5},
    "recording, 3 rounds": {"rounds": 3},
    "recording, two and two at once": {"rounds": 3, "proposers": 2, "reviewers": 2, "schedule": "simultaneous"},
}
every_game = pytest.mark.parametrize("name", GAMES)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return draw_recordings(tmp_path_factory.mktemp("recordings"), RECORDINGS, seed=7, questions=5)


@pytest.fixture(scope="module")
def game_of(recordings):
    def make(name, abstraction="paper", **more):
        settings = {**GAMES.get(name, {}), **more, "abstraction": abstraction}
        if name.startswith("recording"):
            path = recordings[name if name in RECORDINGS else "recording"]
            return Game(f"recorded:{path}", **settings)
        return Game("simulated:default", **settings)

    return make


@pytest.fixture(scope="module")
def tree_of(game_of):
    made = {}

    def make(name, abstraction="paper"):
        if (name, abstraction) not in made:
            made[name, abstraction] = build_tree(game_of(name, abstraction))
        return made[name, abstraction]

    return make


def random_policy(tree, seed=0, interior=False):
    rng = np.random.default_rng(seed)
    draw = rng.random if interior else lambda: rng.choice([0.0, 1.0, rng.random()], p=[0.1, 0.1, 0.8])
    return {pair: float(draw()) for pair in tree.infosets}


def choice_sets(tree):
    return sorted({tree.infosets[k] for k in tree.node_infoset[tree.may_skip]}, key=str)


def deterministic_policies(tree):
    sets = choice_sets(tree)
    return [dict(zip(sets, speaks, strict=True)) for speaks in product((0.0, 1.0), repeat=len(sets))]


# --- plain recursion over the rules ---------------------------------------------------------------------------------


def steps(game, state, policy):
    """Yield (probability, controls by seat, next state) for everything that can happen in a round."""
    seats = game.acting(state)
    speak = {}
    for seat in seats:
        mask = game.mask(state, seat)
        speak[seat] = policy(seat, game.infoset(state, seat), None, mask) if mask[0] else 1.0
    for controls in product(Control, repeat=len(seats)):
        p = math.prod(speak[s] if c is Control.SPEAK else 1.0 - speak[s] for s, c in zip(seats, controls, strict=True))
        if p == 0.0 and any(
            c is Control.SKIP and not game.mask(state, s)[0] for s, c in zip(seats, controls, strict=True)
        ):
            continue  # cannot be played
        said = [
            game.script.outcomes(game.rules, state, seat) if c is Control.SPEAK else [(1.0, Utterance())]
            for seat, c in zip(seats, controls, strict=True)
        ]
        for joint in product(*said):
            actions = {s: Action(c, u) for s, c, (_, u) in zip(seats, controls, joint, strict=True)}
            after = advance(game.rules, game.task, state, actions)
            yield p * math.prod(q for q, _ in joint), dict(zip(seats, controls, strict=True)), after


def endings(game, state, policy, p=1.0):
    """Yield (probability, final state)."""
    if state.over:
        yield p, state
        return
    for q, _, after in steps(game, state, policy):
        if q > 0.0:
            yield from endings(game, after, policy, p * q)


def by_recursion(game, policy):
    """The figures of ``evaluate``, and E[U] of each world."""
    sums, worlds = defaultdict(float), []
    for weight, question in game.script.worlds():
        worlds.append(0.0)
        for p, state in endings(game, game.start(question), policy, weight):
            first = next(t for t in state.turns if t.spoke)
            value = game.team_return(state)
            worlds[-1] += p * value / weight
            sums["team_return"] += p * value
            sums["accuracy"] += p * state.correct
            sums["tokens_per_question"] += p * sum(t.tokens_out for t in state.turns)
            sums["tokens_in_out_per_question"] += p * sum(t.tokens_out + t.tokens_in for t in state.turns)
            sums["calls_per_question"] += p * sum(t.spoke for t in state.turns)
            kind = None if first.answer is None else first.correct
            sums["first", kind] += p
            sums["first", kind, "kept"] += p * state.correct
    sums["preservation"] = sums["first", True, "kept"] / sums["first", True]
    sums["correction"] = sums["first", False, "kept"] / sums["first", False]
    return sums, worlds


@every_game
def test_figures_equal_plain_recursion(game_of, tree_of, name):
    game, tree = game_of(name), tree_of(name)
    policy = random_policy(tree)
    expected, worlds = by_recursion(game, lambda seat, key, features, mask: policy[seat, key])
    figures = evaluate(tree, policy)
    for key in (
        "team_return", "accuracy", "tokens_per_question", "tokens_in_out_per_question", "calls_per_question",
        "correction", "preservation",
    ):  # fmt: skip
        assert getattr(figures, key) == pytest.approx(expected[key], abs=1e-9), key
    assert figures.world_return == pytest.approx(worlds, abs=1e-9)
    assert figures.world_return @ tree.world_prob == pytest.approx(figures.team_return, abs=1e-12)
    assert figures.world_accuracy @ tree.world_prob == pytest.approx(figures.accuracy, abs=1e-12)
    assert figures.world_tokens @ tree.world_prob == pytest.approx(figures.tokens_per_question, abs=1e-9)


def test_some_questions_alone_are_equally_likely(game_of):
    game = game_of("recording")
    everything = evaluate(build_tree(game), 0.5)
    questions = [game.task.question(k) for k in (3, 0)]
    tree = build_tree(game, questions)
    assert tree.world_ids == tuple(q.question_id for q in questions)
    assert evaluate(tree, 0.5).world_return == pytest.approx(everything.world_return[[3, 0]])
    assert evaluate(tree, 0.5).team_return == pytest.approx(everything.world_return[[3, 0]].mean())


@every_game
def test_control_values_equal_plain_recursion(game_of, tree_of, name):
    """At every visit of an information set: its probability, and E[U] after each control of this visit."""
    game, tree = game_of(name), tree_of(name)
    policy = random_policy(tree, seed=1)
    reach, values = defaultdict(float), defaultdict(lambda: np.zeros(2))

    def probs(seat, key, features, mask):
        return policy[seat, key]

    def value(state):
        return sum(p * game.team_return(final) for p, final in endings(game, state, probs))

    def walk(state, p):
        if state.over:
            return
        for seat in game.acting(state):
            pair = seat, game.infoset(state, seat)
            reach[pair] += p
            for control in Control if game.mask(state, seat)[0] else (Control.SPEAK,):
                forced = lambda s, k, f, m: float(control) if s == seat else policy[s, k]  # noqa: B023, E731
                worth = sum(q * value(after) for q, _, after in steps(game, state, forced))
                values[pair][[control] if game.mask(state, seat)[0] else [0, 1]] += p * worth
        for q, _, after in steps(game, state, probs):
            if q > 0.0:
                walk(after, p * q)

    for weight, question in game.script.worlds():
        walk(game.start(question), weight)
    ours = control_values(tree, policy)
    for row, pair in enumerate(tree.infosets):
        assert ours.infoset_reach[row] == pytest.approx(reach[pair], abs=1e-9)
        if reach[pair] > 0.0:
            assert ours.infoset_values[row] == pytest.approx(values[pair] / reach[pair], abs=1e-9)
        else:
            assert (ours.infoset_values[row] == 0.0).all()


@every_game
def test_control_values_are_derivatives(tree_of, name):
    """dE[U] / dP(SPEAK in I) is the sum of reach x (v(SPEAK) - v(SKIP)) over I, with absent-mindedness as well."""
    tree = tree_of(name)
    policy = random_policy(tree, seed=2, interior=True)
    ours, step = control_values(tree, policy), 1e-4
    for pair in choice_sets(tree):
        row = tree.infosets.index(pair)
        up, down = ({**policy, pair: policy[pair] + sign * step} for sign in (1, -1))
        slope = (evaluate(tree, up).team_return - evaluate(tree, down).team_return) / (2 * step)
        by_values = ours.infoset_reach[row] * (ours.infoset_values[row, 1] - ours.infoset_values[row, 0])
        assert by_values == pytest.approx(slope, abs=1e-7)
    roots = tree.depth_slices[0]
    speak = speak_probs(tree, policy)[roots]
    start = (1 - speak) * ours.values[roots, 0] + speak * ours.values[roots, 1]
    assert tree.node_prob[roots] @ start == pytest.approx(evaluate(tree, policy).team_return, abs=1e-12)


@every_game
def test_reach(tree_of, name):
    """Every depth is reached as often as the game is still on, and leaves add up to one."""
    tree = tree_of(name)
    speak = speak_probs(tree, random_policy(tree, seed=3))
    nodes, leaves = node_reach(tree, speak), leaf_reach(tree, speak)
    assert leaves.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.bincount(tree.leaf_world, weights=leaves) == pytest.approx(tree.world_prob, abs=1e-12)
    for taken, control in ((speak, 1), (1.0 - speak, 0)):
        onward = np.zeros(tree.num_nodes)
        inner = (tree.node_parent >= 0) & (tree.node_control == control)
        np.add.at(onward, tree.node_parent[inner], nodes[inner])
        ended = tree.leaf_control == control
        np.add.at(onward, tree.leaf_parent[ended], leaves[ended])
        assert onward == pytest.approx(nodes * taken, abs=1e-12)  # what comes in goes out


# --- play -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["simulated, 5 rounds, costs", "simulated, two proposers at once", "recording with costs"]
)
def test_play_agrees_within_four_standard_errors(game_of, tree_of, recordings, name):
    tree = tree_of(name)
    policy, rng = random_policy(tree, seed=4), np.random.default_rng(4)
    task = f"recorded:{recordings['recording']}" if name.startswith("recording") else "simulated:default"
    env = tracer_env.parallel_env(task=task, **{**GAMES[name], "rewards": GAMES[name].get("rewards", "outcome")})
    seats = {seat.name: seat for seat in env.game.rules.seats}
    returns, tokens = [], []
    env.reset(seed=11)
    for _ in range(1200):
        observations, infos = env.reset()
        paid = 0.0
        while env.agents:
            actions = {
                agent: {"control": int(rng.random() < policy[seats[agent], infos[agent]["infoset"]]), "utterance": ""}
                for agent in env.agents
                if observations[agent]["control_mask"][1]
            }
            observations, rewards, _, _, infos = env.step(actions)
            paid += rewards["proposer_0"]
        returns.append(paid)
        tokens.append(infos["proposer_0"]["tokens_spent"])
    figures = evaluate(tree, policy)
    for values, mean in ((returns, figures.team_return), (tokens, figures.tokens_per_question)):
        error = np.std(values) / math.sqrt(len(values))
        assert 0 < error < 0.1 * max(np.ptp(values), 1.0)
        assert abs(np.mean(values) - mean) < 4 * error


@every_game
def test_sampled_episodes(tree_of, name):
    tree, n = tree_of(name), 3000
    policy = random_policy(tree, seed=5)
    leaves, nodes, controls = sample_episodes(tree, policy, n, np.random.default_rng(0))
    reach = leaf_reach(tree, speak_probs(tree, policy))
    assert (reach[leaves] > 0.0).all()
    error = np.sqrt(reach * (1 - reach) / n)
    seen = np.bincount(leaves, minlength=tree.num_leaves) / n
    assert (np.abs(seen - reach) < 5 * error + 1e-3).all()
    assert abs(tree.leaf_return[leaves].mean() - evaluate(tree, policy).team_return) < 4 * tree.leaf_return[
        leaves
    ].std() / math.sqrt(n)
    assert nodes.shape == controls.shape == (n, len(tree.depth_slices))
    for episode in range(0, n, 50):
        path = nodes[episode][nodes[episode] >= 0]
        played = controls[episode][: len(path)]
        assert tree.node_parent[path[0]] == -1
        assert (tree.node_parent[path[1:]] == path[:-1]).all()
        assert (tree.node_control[path[1:]] == played[:-1]).all()
        assert tree.leaf_parent[leaves[episode]] == path[-1]
        assert tree.leaf_control[leaves[episode]] == played[-1]
        assert (nodes[episode][len(path) :] == -1).all()
    again = sample_episodes(tree, policy, n, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip((leaves, nodes, controls), again, strict=True))


def test_every_way_of_giving_a_policy(tree_of):
    tree = tree_of("simulated, 3 rounds")
    table = random_policy(tree)
    by_node = np.array([table[tree.infosets[k]] for k in tree.node_infoset])
    value = evaluate(tree, table).team_return
    assert evaluate(tree, by_node).team_return == value
    assert evaluate(tree, lambda seat, key, features, mask: table[seat, key]).team_return == value
    assert evaluate(tree, {}).team_return == evaluate(tree, 0.5).team_return
    assert (speak_probs(tree, 0.0)[~tree.may_skip] == 1.0).all()
    seen = []
    evaluate(tree, lambda seat, key, features, mask: seen.append((features, mask)) or 1.0)
    assert len(seen) == tree.may_skip.sum()
    assert all(mask == (True, True) and features.shape == (tree.features.shape[1],) for features, mask in seen)


@pytest.mark.parametrize("policy", [1.5, -0.1, math.nan, np.ones(3), lambda *_: 2.0])
def test_policies_that_are_none(tree_of, policy):
    with pytest.raises(ConfigError, match=r"probability|probabilities"):
        evaluate(tree_of("simulated, 3 rounds"), policy)


def test_a_live_game_has_no_tree():
    with pytest.raises(ConfigError, match="needs a generator"):
        build_tree(Game("arithmetic"))
    with pytest.raises(ConfigError, match="at least one question"):
        build_tree(Game("simulated:default"), [])


# --- absent-mindedness ----------------------------------------------------------------------------------------------


def met_twice(game):
    """The information sets with a choice that one path meets twice, found by walking all paths."""
    found = set()

    def walk(state, met):
        if state.over:
            return
        now = {(s, game.infoset(state, s)) for s in game.acting(state) if game.mask(state, s)[0]}
        found.update(now & met)
        for _, _, after in steps(game, state, lambda *_: 0.5):
            walk(after, met | now)

    for _, question in game.script.worlds():
        walk(game.start(question), frozenset())
    return found


@pytest.mark.parametrize("abstraction", ["paper", "round", "history"])
@every_game
def test_absent_mindedness_is_that_a_path_meets_a_set_twice(game_of, tree_of, name, abstraction):
    game, tree = game_of(name, abstraction), tree_of(name, abstraction)
    found = met_twice(game)
    assert set(tree.absent_minded()) == found
    assert abstraction == "paper" or not found


def test_the_papers_key_is_absent_minded_from_five_rounds_on(tree_of):
    """Reviewer SKIPs, proposer keeps, and the reviewer sees the same key again: neither review is the last."""
    for rounds in (1, 2, 3, 4):
        assert not build_tree(Game("simulated:default", rounds=rounds)).absent_minded()
    tree = build_tree(Game("simulated:default", rounds=5))
    sets = set(tree.absent_minded())
    assert (REVIEWER, "reviewer|votes=0|not_last") in sets
    assert {seat for seat, _ in sets} == {REVIEWER}


# --- the best policy ------------------------------------------------------------------------------------------------

SMALL = [
    ("simulated, 3 rounds", "paper"),
    ("simulated, 3 rounds", "round"),
    ("simulated, 3 rounds", "history"),
    ("simulated, two proposers at once", "paper"),
    ("simulated, two proposers at once", "round"),
    ("simulated, stops early", "round"),
    ("simulated, no reviewer", "history"),
    ("recording, two and two at once", "paper"),
    ("recording, two and two at once", "round"),
    ("recording, 3 rounds", "history"),
    ("recording, stops early", "round"),
]


def highest_return(tree, policies):
    return max(evaluate(tree, policy).team_return for policy in policies)


@pytest.mark.parametrize("by_bound", [False, True], ids=["exhaustive", "branch and bound"])
@pytest.mark.parametrize(("name", "abstraction"), SMALL)
def test_the_best_policy_beats_every_deterministic_policy(tree_of, monkeypatch, name, abstraction, by_bound):
    tree = tree_of(name, abstraction)
    assert len(choice_sets(tree)) <= 12
    if by_bound:
        monkeypatch.setattr(search, "EXHAUSTIVE_SETS", 0)
    found = best_policy(tree)
    assert found.team_return == pytest.approx(highest_return(tree, deterministic_policies(tree)), abs=1e-9)
    assert found.proven
    assert found.upper_bound == pytest.approx(found.team_return, abs=1e-9)
    assert set(found.policy) == set(choice_sets(tree))
    assert set(found.policy.values()) <= {0.0, 1.0}
    assert found.figures.team_return == evaluate(tree, found.policy).team_return == found.team_return
    assert (found.method == "exhaustive") != by_bound
    assert found.is_optimum == (not tree.absent_minded())


@pytest.mark.parametrize("name", ["simulated, 5 rounds, costs", "recording with costs", "simulated ballot"])
@pytest.mark.parametrize("abstraction", ["paper", "round"])
def test_branch_and_bound_finds_what_trying_all_finds(tree_of, monkeypatch, name, abstraction):
    tree = tree_of(name, abstraction)
    tried = best_policy(tree)
    assert tried.method == "exhaustive"
    monkeypatch.setattr(search, "EXHAUSTIVE_SETS", 0)
    found = best_policy(tree)
    assert found.team_return == pytest.approx(tried.team_return, abs=1e-9)
    assert found.proven
    assert found.is_optimum == tried.is_optimum == (not tree.absent_minded())


def random_team(seed):
    """A team without structure, so that information sets disagree about what is best."""
    rng = np.random.default_rng(seed)
    rates = rng.random(12)
    keys = [(right, verdict) for right in (True, False) for verdict in (None, *Verdict)]
    return SimulatedTeam(
        first_right=rates[0], says_right_if_right=rates[1], says_wrong_if_wrong=rates[2], persistence=rates[3],
        common_wrong=rates[4], invalid=0.3 * rates[5], unparsable=0.2 * rates[0],
        revised_right=dict(zip(keys, rates[6:], strict=True)),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_the_bound_holds_whatever_the_budget(seed, monkeypatch):
    monkeypatch.setattr(
        search, "_local_search", lambda public, sets, start, rng: (0 * start, public.solve(0 * start)[0])
    )
    for abstraction in ("paper", "round"):
        tree = build_tree(Game(SimulatedTask(random_team(seed)), rounds=5, rewards=COSTS, abstraction=abstraction))
        tried, bounds = best_policy(tree).team_return, []
        with monkeypatch.context() as patch:
            patch.setattr(search, "EXHAUSTIVE_SETS", 0)
            for budget in (0, 1, 3, 10, 2000):
                found = best_policy(tree, node_budget=budget)
                assert found.team_return <= tried + 1e-9
                assert found.upper_bound >= tried - 1e-9
                assert found.proven == (found.upper_bound - found.team_return <= 1e-9)
                assert found.is_optimum == (found.proven and not tree.absent_minded())
                bounds.append(found.upper_bound)
        assert bounds == sorted(bounds, reverse=True)
        assert found.proven
        assert found.team_return == pytest.approx(tried, abs=1e-9)


def test_a_budget_that_runs_out_is_told():
    tree = build_tree(Game("simulated:default", rounds=7, abstraction="round"))
    found = best_policy(tree, node_budget=0)
    assert len(choice_sets(tree)) > 18
    assert found.method == "branch and bound"
    assert not found.proven
    assert not found.is_optimum
    assert found.upper_bound == pytest.approx(public_optimum(tree)[0], abs=1e-12)
    assert found.upper_bound > found.team_return + 0.01
    proven = best_policy(tree)
    assert proven.is_optimum
    assert found.team_return - 1e-9 <= proven.team_return <= found.upper_bound + 1e-9


def test_no_mixed_policy_beats_what_is_called_an_optimum(tree_of):
    tree = tree_of("simulated, 5 rounds, costs", "round")
    optimum, rng = best_policy(tree), np.random.default_rng(0)
    assert optimum.is_optimum
    for _ in range(300):
        policy = {p: float(np.clip(x + rng.normal(scale=0.3), 0, 1)) for p, x in optimum.policy.items()}
        assert evaluate(tree, policy).team_return <= optimum.team_return + 1e-12


def test_where_a_path_meets_a_set_twice_a_mixed_policy_can_beat_all_deterministic_ones():
    """The absent-minded driver (Piccione and Rubinstein, 1997): go on at the first exit, leave at the second.

    So what is proven to be the best deterministic policy of such a key is not called the optimum.
    """
    tree = build_tree(Game("simulated:default", rounds=5))
    pair = REVIEWER, "reviewer|votes=0|not_last"
    crossing, pays = tree.infosets.index(pair), np.zeros(tree.num_leaves)
    for leaf in range(tree.num_leaves):
        node, control, met = tree.leaf_parent[leaf], tree.leaf_control[leaf], []
        while node >= 0:
            if tree.node_infoset[node] == crossing:
                met.append(int(control))
            node, control = tree.node_parent[node], tree.node_control[node]
        pays[leaf] = met[::-1] == [Control.SKIP, Control.SPEAK]
    driver = replace(tree, leaf_return=pays)
    found = best_policy(driver)
    assert (found.team_return, found.proven, found.is_optimum) == (0.0, True, False)
    assert highest_return(driver, [{**found.policy, pair: p} for p in np.linspace(0, 1, 11)]) > 0.2


def test_finer_keys_are_worth_more(tree_of):
    for name in ("simulated, 5 rounds, costs", "recording with costs"):
        values = [best_policy(tree_of(name, a)).team_return for a in ("round", "history")]
        assert values[0] <= values[1] + 1e-9
        assert best_policy(tree_of(name, "paper")).team_return <= values[0] + 1e-9


# --- what tokens buy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "abstraction"), [*SMALL, ("recording with costs", "paper")])
def test_the_frontier_is_the_upper_convex_hull(tree_of, name, abstraction):
    tree = tree_of(name, abstraction)
    frontier = policy_frontier(tree)
    tokens, accuracy = (np.array([getattr(p, what) for p in frontier]) for what in ("tokens", "accuracy"))
    for point in frontier:
        figures = evaluate(tree, point.policy)
        assert (figures.tokens_per_question, figures.accuracy) == pytest.approx((point.tokens, point.accuracy))
    assert (np.diff(tokens) > 0).all()
    assert (np.diff(accuracy) > 0).all()
    slopes = np.diff(accuracy) / np.diff(tokens)
    assert (np.diff(slopes) < 0).all()
    policies = deterministic_policies(tree)
    figures = [evaluate(tree, policy) for policy in policies[:: max(1, len(policies) // 512)]]
    for f in figures:
        assert f.tokens_per_question >= tokens[0] - 1e-9
        assert f.accuracy <= np.interp(f.tokens_per_question, tokens, accuracy) + 1e-9


def test_the_frontier_ends_at_the_most_accurate_policy(tree_of):
    tree = tree_of("simulated, 3 rounds", "paper")
    frontier = policy_frontier(tree)
    figures = [evaluate(tree, policy) for policy in deterministic_policies(tree)]
    assert frontier[0].tokens == pytest.approx(min(f.tokens_per_question for f in figures))
    assert frontier[-1].accuracy == pytest.approx(max(f.accuracy for f in figures))
    assert len(frontier) >= 2
    with pytest.raises(ConfigError, match="'history' has 68 information sets"):
        policy_frontier(build_tree(Game("simulated:default", rounds=5, abstraction="history")))


# --- coordinators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simulated, 3 rounds", "simulated, no reviewer", "recording, 3 rounds"])
def test_the_coordinator_is_the_best_policy_of_all_public_events(tree_of, name):
    tree = tree_of(name, "history")
    value, control = public_optimum(tree)
    assert value == pytest.approx(highest_return(tree, deterministic_policies(tree)), abs=1e-9)
    assert evaluate(tree, control.astype(float)).team_return == pytest.approx(value, abs=1e-12)
    groups = defaultdict(set)
    for public, chosen in zip(tree.node_public, control, strict=True):
        groups[public].add(chosen)
    assert all(len(chosen) == 1 for chosen in groups.values())  # it cannot tell apart what looks alike


@pytest.mark.parametrize(("name", "abstraction"), SMALL)
def test_the_coordinator_with_fixed_controls_bounds_all_policies_that_have_them(tree_of, name, abstraction):
    tree, rng = tree_of(name, abstraction), np.random.default_rng(0)
    sets = choice_sets(tree)
    for _ in range(10):
        fixed = {pair: int(rng.integers(2)) for pair in sets if rng.random() < 0.6}
        rows = {tree.infosets.index(pair): control for pair, control in fixed.items()}
        bound, _ = public_optimum(tree, rows)
        free = [pair for pair in sets if pair not in fixed]
        trials = [{**fixed, **dict(zip(free, speaks, strict=True))} for speaks in product((0, 1), repeat=len(free))]
        values = [evaluate(tree, trial).team_return for trial in trials[:64]]
        assert bound >= max(values) - 1e-9
        if not free:
            assert bound == pytest.approx(values[0], abs=1e-9)
    everything = {tree.infosets.index(pair): 0 for pair in sets}
    silent = evaluate(tree, 0.0).team_return
    assert public_optimum(tree, everything)[0] == pytest.approx(silent, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_the_belief_optimum_is_the_coordinators(seed):
    """Two ways to the same number: a recursion over beliefs, and the tree of all histories."""
    team = random_team(seed) if seed else SimulatedTeam()
    for rounds in (1, 2, 3, 4, 5):
        game = Game(SimulatedTask(team), rounds=rounds, rewards=COSTS, abstraction="history")
        tree = build_tree(game)
        believed = belief_optimum(team, game.rules, COSTS.costs)
        assert believed == pytest.approx(public_optimum(tree)[0], abs=1e-9)
        assert believed == pytest.approx(best_policy(tree).team_return, abs=1e-9)
    for abstraction in ("paper", "round"):
        tree = build_tree(Game(SimulatedTask(team), rounds=5, rewards=COSTS, abstraction=abstraction))
        assert best_policy(tree).team_return <= believed + 1e-9


def test_the_belief_optimum_of_other_teams_and_without_costs():
    for rules in ({"reviewers": 0, "rounds": 4}, {"proposers": 2, "reviewers": 2, "schedule": "reference"}):
        game = Game("simulated:weak-judge", abstraction="history", **rules)
        assert belief_optimum(game.task.team, game.rules) == pytest.approx(public_optimum(build_tree(game))[0])
    dear = Costs(per_call=2.0)  # nobody would speak who may be silent
    game = Game("simulated:default", rounds=3, rewards=OutcomeRewards(costs=dear), abstraction="history")
    assert belief_optimum(SimulatedTeam(), game.rules, dear) == pytest.approx(public_optimum(build_tree(game))[0])
    one = Rules(rounds=1)
    assert belief_optimum(SimulatedTeam(first_right=0.7, invalid=0.0), one) == pytest.approx(2 * 0.7 - 1)
    knows = SimulatedTeam(says_right_if_right=1.0, says_wrong_if_wrong=1.0, first_right=0.5, invalid=0.0)
    # asked, the judge tells a wrong answer; a new one is right with 0.45
    assert belief_optimum(knows, Rules(rounds=3)) == pytest.approx(2 * (0.5 + 0.5 * 0.45) - 1)


@pytest.mark.parametrize(
    "rules",
    [
        {"decide": "ballot"},
        {"on_invalid": "replace"},
        {"stop_after_skips": 2},
        {"stop_at_votes": 1},
        {"token_budget": 50},
        {"proposers": 2, "schedule": "simultaneous"},
        {"schedule": lambda rules, state: (PROPOSER,)},
    ],
)
def test_the_belief_optimum_refuses_other_rules(rules):
    with pytest.raises(ConfigError, match="belief-state optimum"):
        belief_optimum(SimulatedTeam(), Rules(**rules))


def test_a_policy_that_is_none_says_what_one_is():
    tree = build_tree(Game("simulated:default", rounds=3))
    for wrong in (best_policy(tree), "always"):
        with pytest.raises(ConfigError, match="a policy is a probability"):
            evaluate(tree, wrong)
    for key in ("reviewer_0", ("reviewer_0", "key")):
        with pytest.raises(ConfigError, match="keys \\(Seat, key\\)"):
            evaluate(tree, {key: 1.0})
    with pytest.raises(ConfigError, match="not the shape \\(3,\\)"):
        evaluate(tree, np.zeros(3))
