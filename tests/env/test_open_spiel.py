"""Our evaluator against OpenSpiel's on the same games, and OpenSpiel's solvers on them."""

import copy
import pickle
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from drawn import draw_recordings

from tracer_env import Game
from tracer_env.errors import ConfigError, MissingExtraError
from tracer_env.exact import best_policy, build_tree, control_values, evaluate
from tracer_env.exact.evaluate import leaf_reach, speak_probs
from tracer_env.open_spiel import from_policy, register_game, to_policy
from tracer_env.rewards import Costs, OutcomeRewards

# shape legend: N nodes, L leaves, I information sets

TEAMS = {
    "rounds=3": {"rounds": 3},
    "rounds=5": {"rounds": 5},
    "costs": {"rounds": 3, "rewards": OutcomeRewards(costs=Costs(per_call=0.05, per_1k_tokens=0.7))},
    "two proposers at once": {"rounds": 3, "proposers": 2, "reviewers": 1, "schedule": "simultaneous"},
    "a seat that never acts": {"rounds": 3, "proposers": 1, "reviewers": 2},
    "one seat": {"rounds": 3, "proposers": 1, "reviewers": 0},
    "stops early": {"rounds": 5, "stop_at_votes": 1, "stop_after_skips": 2},
    "ballot": {"rounds": 5, "decide": "ballot"},
}
RECORDINGS = {
    "recording": {"rounds": 5},
    "recording of two proposers at once": {"rounds": 3, "proposers": 2, "schedule": "simultaneous"},
}


@pytest.fixture(scope="module")
def spiel():
    return pytest.importorskip("pyspiel", reason="needs OpenSpiel: pip install 'tracer-env[interop]'")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return draw_recordings(tmp_path_factory.mktemp("recordings"), RECORDINGS, seed=5)


@pytest.fixture(scope="module")
def tree_of(recordings):
    def build(name, abstraction="history"):
        if name in recordings:
            return build_tree(Game(f"recorded:{recordings[name]}", abstraction=abstraction))
        return build_tree(Game("simulated:default", abstraction=abstraction, **TEAMS[name]))

    return build


every_game = pytest.mark.parametrize("name", [*TEAMS, *RECORDINGS])


def random_policy(tree, seed=0):
    rng = np.random.default_rng(seed)
    return {pair: rng.choice([0.0, 1.0, rng.random()], p=[0.1, 0.1, 0.8]) for pair in tree.infosets}


def value_by_open_spiel(game, policies):
    from open_spiel.python.algorithms.expected_game_score import policy_value

    return policy_value(game.new_initial_state(), policies)


def places(game):
    """Yield every state of a game."""
    open_states = [game.new_initial_state()]
    while open_states:
        state = open_states.pop()
        yield state
        open_states += [state.child(action) for action in state.legal_actions()]


def best_response_gains(tree, policy):
    """Try every deterministic policy of each seat; the sum over seats is what ``nash_conv`` should be."""
    value, gains = evaluate(tree, policy).team_return, []
    choices = {tree.infosets[k] for k in tree.node_infoset[tree.may_skip]}
    for seat in tree.seats:
        own = [pair for pair in choices if pair[0] == seat]
        trials = ({**policy, **dict(zip(own, speaks, strict=True))} for speaks in product((0.0, 1.0), repeat=len(own)))
        gains.append(max(evaluate(tree, trial).team_return for trial in trials) - value)
    return sum(gains)


def best_response_gains_by_recursion(tree, policy):
    """The same of a tree with perfect recall: settle the sets of a seat from the last to the first.

    A seat's own probability of getting to its set is then the same at all nodes of it, so that the mean values of the
    set rank its controls.
    """
    value, gains = evaluate(tree, policy).team_return, []
    depths = np.zeros(len(tree.infosets), dtype=int)
    for depth, nodes in enumerate(tree.depth_slices):
        depths[tree.node_infoset[nodes]] = depth
    for seat in tree.seats:
        own = [k for k in np.argsort(-depths) if tree.infosets[k][0] == seat]
        response = {**policy, **{tree.infosets[k]: 0.5 for k in own}}  # so that the seat itself gets to all its sets
        for k in own:
            response[tree.infosets[k]] = float(np.diff(control_values(tree, response).infoset_values[k])[0] > 0.0)
        gains.append(evaluate(tree, response).team_return - value)
    return sum(gains)


# --- perfect recall -------------------------------------------------------------------------------------------------


def entries(tree):
    """Return for every information set the own (set, control) sequences with which its nodes are met."""
    met = defaultdict(set)
    for node in range(tree.num_nodes):
        own, above, control = [], tree.node_parent[node], tree.node_control[node]
        while above >= 0:
            if tree.node_seat[above] == tree.node_seat[node]:
                own.append((int(tree.node_infoset[above]), int(control)))
            above, control = tree.node_parent[above], tree.node_control[above]
        met[int(tree.node_infoset[node])].add(tuple(own))
    return met


@pytest.mark.parametrize("abstraction", ["paper", "round", "history"])
@every_game
def test_perfect_recall_is_that_all_own_sets_and_controls_are_remembered(tree_of, name, abstraction):
    tree = tree_of(name, abstraction)
    by_definition = all(len(sequences) == 1 for sequences in entries(tree).values())
    assert tree.has_perfect_recall() == by_definition
    assert abstraction != "history" or by_definition
    assert not (tree.absent_minded() and by_definition)


def test_both_kinds_of_recall_occur(tree_of):
    assert tree_of("rounds=3", "paper").has_perfect_recall()  # a seat has one choice only
    assert not tree_of("rounds=5", "round").has_perfect_recall()
    assert not tree_of("recording", "paper").has_perfect_recall()


def test_forgetting_ones_own_control_is_imperfect_recall(tree_of):
    tree = tree_of("rounds=5")
    numbers, sets_before = {}, {}
    for k, (sequence,) in entries(tree).items():
        known = tree.infosets[k][0], tuple(infoset for infoset, _ in sequence)
        sets_before[k] = numbers.setdefault(known, len(numbers))
    forgetful = replace(tree, node_infoset=np.array([sets_before[k] for k in tree.node_infoset.tolist()]))
    one_sequence = [{tuple(k for k, _ in s) for s in met} for met in entries(forgetful).values()]
    assert all(len(sets) == 1 for sets in one_sequence)
    assert not forgetful.has_perfect_recall()


# --- what needs no OpenSpiel ----------------------------------------------------------------------------------------


def test_a_missing_package_names_its_extra(tree_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspiel", None)
    with pytest.raises(MissingExtraError, match=r"open_spiel.*tracer-env\[interop\]"):
        register_game(tree_of("rounds=3"))


# --- the game -------------------------------------------------------------------------------------------------------


@every_game
def test_open_spiels_own_tests_pass(spiel, tree_of, name, capfd):
    spiel.random_sim_test(register_game(tree_of(name)), 20, True, False)


def test_open_spiels_own_tests_pass_without_chance_and_with_one_return(spiel, recordings):
    game = Game(f"recorded:{recordings['recording']}", abstraction="history")
    tree = build_tree(game, [game.task.question(0)])
    unused = np.where(tree.node_parent < 0, 1, tree.node_control)  # what led to a first decision is nothing
    flat = replace(tree, leaf_return=np.ones(tree.num_leaves), node_control=unused)
    for one_world in map(register_game, (tree, flat)):
        assert one_world.get_type().chance_mode == spiel.GameType.ChanceMode.DETERMINISTIC
        assert one_world.max_chance_outcomes() == 0
        spiel.random_sim_test(one_world, 20, True, False)


@every_game
def test_every_state_fits_the_tree_and_the_stated_limits(spiel, tree_of, name):
    tree = tree_of(name)
    game = register_game(tree)
    assert game.get_type().utility == spiel.GameType.Utility.IDENTICAL
    assert (game.num_players(), game.num_distinct_actions()) == (len(tree.seats), 2)
    assert (game.min_utility(), game.max_utility()) == (tree.leaf_return.min(), tree.leaf_return.max())
    owners, masks, seen, returns, outcomes, chance_moves = {}, defaultdict(set), [], [], [], []
    for state in places(game):
        assert state.is_terminal() or state.returns() == [0.0] * len(tree.seats)
        if state.is_chance_node():
            assert sum(p for _, p in state.chance_outcomes()) == pytest.approx(1.0, abs=1e-12)
            assert all(p > 0.0 for _, p in state.chance_outcomes())
            outcomes.append(len(state.chance_outcomes()))
        elif state.is_terminal():
            assert len(set(state.returns())) == 1
            returns.append(state.returns()[0])
            leaf = state.place - tree.num_nodes
            assert returns[-1] == tree.leaf_return[leaf]
            assert tree.leaf_world[leaf] == (state.history()[0] if len(tree.world_ids) > 1 else 0)
            players = [move.player for move in state.full_history()]
            assert len(players) - players.count(-1) <= game.max_game_length()
            chance_moves.append(players.count(-1))
        else:
            player, node = state.current_player(), state.place
            assert player == tree.node_seat[node]
            assert state.legal_actions() == ([0, 1] if tree.may_skip[node] else [1])
            key = state.information_state_string()
            assert owners.setdefault(key, player) == player
            masks[key].add(tuple(state.legal_actions()))
            seen.append(node)
    assert sorted(seen) == list(range(tree.num_nodes))
    assert sorted(returns) == sorted(tree.leaf_return)
    assert len(owners) == len(tree.infosets)
    assert all(len(kinds) == 1 for kinds in masks.values())
    assert game.max_chance_outcomes() == max(outcomes)
    assert max(chance_moves) <= game.max_chance_nodes_in_history()
    longest = max(len([m for m in s.full_history() if m.player >= 0]) for s in places(game))
    assert game.max_game_length() == longest


@pytest.mark.parametrize("scope", ["team", "seat"])
def test_every_player_pays_for_all_that_is_said(spiel, scope):
    costs = OutcomeRewards(costs=Costs(per_call=0.25, scope=scope))
    tree = build_tree(Game("simulated:default", rounds=3, rewards=costs, abstraction="history"))
    for state in places(register_game(tree)):
        if state.is_terminal():
            signed = 1.0 if tree.leaf_correct[state.place - tree.num_nodes] else -1.0
            assert state.returns() == [signed - 0.25 * str(state).count("SPEAK")] * 2


def test_information_states_are_the_keys_and_hide_the_others_controls_of_a_round(spiel, tree_of):
    start = register_game(tree_of("rounds=3")).new_initial_state()
    assert start.information_state_string() == "proposer_0|start"
    assert start.information_state_string(1) == "reviewer_0 before its first turn"
    assert start.child(1).information_state_string(0) == "proposer_0|start SPEAK"
    with pytest.raises(ValueError, match="player 2 is none of the 2 seats"):
        start.information_state_string(2)
    paper = register_game(tree_of("two proposers at once", "paper"), imperfect_recall=True).new_initial_state()
    assert paper.information_state_string() == "proposer_0: proposer|no_pending|not_last"  # both have this key
    game = register_game(tree_of("two proposers at once"))
    second = defaultdict(set)
    for state in places(game):
        if not state.is_terminal() and state.current_player() == 1:
            second[state.information_state_string()].add(state.history()[-1])
    assert {0, 1} in second.values()


def test_states_read_as_what_happened(spiel, tree_of):
    tree = tree_of("recording")
    start = register_game(tree).new_initial_state()
    assert str(start) == "start"
    assert str(start.child(3).child(1).child(0)) == f"world {tree.world_ids[3]}, proposer_0 SPEAK, reviewer_0 SKIP"
    assert (
        str(register_game(tree_of("rounds=3")).new_initial_state().child(1).child(2)) == "proposer_0 SPEAK, outcome 2"
    )


def test_states_are_copied_and_stored(spiel, tree_of):
    game = register_game(tree_of("rounds=3"))
    for state in places(game):
        stored = pickle.dumps(state)
        for other in (
            state.clone(),
            copy.deepcopy(state),
            pickle.loads(stored),
            game.deserialize_state(state.serialize()),
            spiel.deserialize_game_and_state(spiel.serialize_game_and_state(game, state))[1],
        ):
            assert (other.history(), other.place, str(other)) == (state.history(), state.place, str(state))
        branch = state.clone()
        for action in state.legal_actions()[:1]:
            branch.apply_action(action)
            assert branch.place != state.place
    assert len(stored) < 300  # the tree is not in it


def test_an_illegal_action_is_refused(spiel, tree_of):
    state = register_game(tree_of("rounds=3")).new_initial_state()
    for action in (0, 2):
        with pytest.raises(ValueError, match="not legal"):
            state.apply_action(action)


# --- names ----------------------------------------------------------------------------------------------------------


def test_games_live_side_by_side_under_their_names(spiel, tree_of):
    three, five = tree_of("rounds=3"), tree_of("rounds=5")
    first, second = register_game(three), register_game(five, "tracer_test_five")
    assert register_game(three).to_string() == first.to_string() != second.to_string() == "tracer_test_five()"
    assert spiel.load_game("tracer_test_five").tree is five
    assert first.tree.num_nodes == three.num_nodes
    assert pickle.loads(pickle.dumps(second)).tree is five
    assert second.new_initial_state().get_game().tree is five
    register_game(tree_of("rounds=5"), "tracer_test_five")  # the same tree, built again
    changed = replace(five, leaf_return=five.leaf_return + 0.5)
    assert register_game(changed).to_string() != register_game(five).to_string()
    for taken in ("tracer_test_five", "kuhn_poker"):
        with pytest.raises(ConfigError, match="already"):
            register_game(changed, taken)
    for bad in ("", "two words", "f(x=1)"):
        with pytest.raises(ConfigError, match="letters"):
            register_game(five, bad)


def test_a_process_ends_well_and_another_one_asks_for_the_tree(spiel, tree_of, tmp_path):
    stored = tmp_path / "game.pickle"
    stored.write_bytes(pickle.dumps(register_game(tree_of("rounds=3"))))
    program = """if True:
        import pickle, sys, tracer_env
        from tracer_env.exact import build_tree
        from tracer_env.open_spiel import register_game
        try: pickle.load(open(sys.argv[1], "rb"))
        except tracer_env.errors.ConfigError as error: print(error)
        tree = build_tree(tracer_env.Game("simulated:default", rounds=3, abstraction="history"))
        register_game(tree, "another")
        register_game(tree)
        print(pickle.load(open(sys.argv[1], "rb")))
        state = register_game(tree, "another").new_initial_state()
    """
    ended = subprocess.run([sys.executable, "-c", program, str(stored)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "is not registered in this process" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("tracer_")


# --- policies and their values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstraction", ["paper", "history"])
@every_game
def test_both_evaluators_agree(spiel, tree_of, name, abstraction):
    tree = tree_of(name, abstraction)
    game = register_game(tree, imperfect_recall=True)
    for seed in range(3):
        ours, other = random_policy(tree, seed), random_policy(tree, seed + 100)
        policies = [to_policy(game, ours), to_policy(game, other)]
        for seat, mover in enumerate(tree.seats):  # one seat plays the one policy, the others the other
            mixed = {pair: (ours if pair[0] == mover else other)[pair] for pair in tree.infosets}
            theirs = value_by_open_spiel(game, [policies[k != seat] for k in range(len(tree.seats))])
            assert theirs == pytest.approx(evaluate(tree, mixed).team_return, abs=1e-9, rel=0)
    for constant in (0.0, 0.5, 1.0):
        theirs = value_by_open_spiel(game, [to_policy(game, constant)] * len(tree.seats))
        assert theirs == pytest.approx(evaluate(tree, constant).team_return, abs=1e-9, rel=0)


@pytest.mark.parametrize("name", ["rounds=5", "recording"])
def test_the_comparison_of_evaluators_can_fail(spiel, tree_of, name):
    tree = tree_of(name)
    policy = {pair: 0.2 + 0.6 * p for pair, p in random_policy(tree).items()}  # reaches every leaf
    value = evaluate(tree, policy).team_return
    leaf_return = tree.leaf_return.copy()
    leaf_return[np.argmax(leaf_reach(tree, speak_probs(tree, policy)))] += 1e-6
    broken = register_game(replace(tree, leaf_return=leaf_return))
    assert np.abs(value_by_open_spiel(broken, [to_policy(broken, policy)] * 2) - value).min() > 1e-9
    pair = tree.infosets[tree.node_infoset[tree.may_skip][0]]
    game, other = register_game(tree), {**policy, pair: policy[pair] + 1e-5}
    assert np.abs(value_by_open_spiel(game, [to_policy(game, other)] * 2) - value).min() > 1e-9


@every_game
def test_policies_come_back_as_they_went(spiel, tree_of, name):
    tree = tree_of(name)
    game, policy = register_game(tree), random_policy(tree)
    table = to_policy(game, policy)
    choices = {tree.infosets[k] for k in tree.node_infoset[tree.may_skip]}
    assert from_policy(game, table) == {pair: policy[pair] for pair in choices}
    assert (table.action_probability_array[table.legal_actions_mask == 0] == 0.0).all()
    assert table.action_probability_array.sum(axis=1) == pytest.approx(1.0)
    silent = SimpleNamespace(action_probabilities=lambda state: {0: 1.0})  # some leave out what they never play
    assert from_policy(game, silent) == dict.fromkeys(choices, 0.0)


def test_a_policy_without_one_probability_for_each_set_is_refused(spiel, tree_of):
    tree = tree_of("rounds=5", "round")
    game = register_game(tree, imperfect_recall=True)
    for by_tokens in (np.greater, np.less):
        with pytest.raises(ConfigError, match="several probabilities"):
            to_policy(game, lambda seat, key, features, mask, by=by_tokens: float(by(features[-1], 60)))
    by_key = to_policy(game, lambda seat, key, features, mask: 0.25 * ("votes=0" in key))
    assert from_policy(game, by_key) == {
        pair: 0.25 * ("votes=0" in pair[1]) for pair in {tree.infosets[k] for k in tree.node_infoset[tree.may_skip]}
    }


def test_a_game_of_others_is_refused(spiel, tree_of):
    kuhn = spiel.load_game("kuhn_poker")
    with pytest.raises(ConfigError, match="not a game of"):
        to_policy(kuhn, 0.5)
    with pytest.raises(ConfigError, match="not a game of"):
        from_policy(kuhn, None)


# --- OpenSpiel's solvers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["CFRSolver", "CFRPlusSolver"])
@pytest.mark.parametrize("name", ["rounds=3", "two proposers at once", "recording"])
def test_cfr_runs_and_nears_an_equilibrium_and_the_optimum(spiel, tree_of, name, solver):
    from open_spiel.python.algorithms import cfr, exploitability

    tree = tree_of(name)
    game = register_game(tree)
    running, optimum, gaps, missing = getattr(cfr, solver)(game), best_policy(tree), [], []
    for iterations in (1, 4, 15):
        for _ in range(iterations):
            running.evaluate_and_update_policy()
        average = running.average_policy()
        gaps.append(exploitability.nash_conv(game, average))
        ours = evaluate(tree, from_policy(game, average)).team_return
        assert value_by_open_spiel(game, [average] * len(tree.seats)) == pytest.approx(ours, abs=1e-9, rel=0)
        missing.append(optimum.team_return - ours)
    for series in (gaps, missing):
        assert series[0] > series[1] > series[2] > -1e-9
        assert series[2] < 0.2 * series[0]
    best = to_policy(game, optimum.policy)  # a team optimum is an equilibrium of the common payoff
    assert optimum.is_optimum
    assert exploitability.nash_conv(game, best) == pytest.approx(0.0, abs=1e-9)


def test_open_spiels_compiled_cfr_runs_as_well(spiel, tree_of):
    tree = tree_of("rounds=5")
    game = register_game(tree)
    solver = spiel.CFRPlusSolver(game)
    for _ in range(30):
        solver.evaluate_and_update_policy()
    average = solver.average_policy()
    ours = evaluate(tree, from_policy(game, average)).team_return
    assert value_by_open_spiel(game, [average] * 2) == pytest.approx(ours, abs=1e-9, rel=0)
    assert spiel.nash_conv(game, average) < 0.02


@pytest.mark.parametrize("name", ["rounds=3", "recording"])
def test_exploitability_refuses_a_common_payoff(spiel, tree_of, name, capfd):
    from open_spiel.python.algorithms import exploitability

    game = register_game(tree_of(name))
    with pytest.raises(ValueError, match="constant- or zero-sum"):
        exploitability.exploitability(game, to_policy(game, 0.5))
    with pytest.raises(spiel.SpielError, match="zero- or constant-sum"):
        spiel.exploitability(game, spiel.UniformRandomPolicy(game))


# --- why perfect recall is asked for --------------------------------------------------------------------------------


@every_game
def test_nash_conv_is_right_with_perfect_recall(spiel, tree_of, name):
    from open_spiel.python.algorithms import exploitability

    tree = tree_of(name)
    game = register_game(tree)
    for seed in range(3):
        policy = random_policy(tree, seed)
        theirs = exploitability.nash_conv(game, to_policy(game, policy))
        assert theirs == pytest.approx(best_response_gains_by_recursion(tree, policy), abs=1e-9, rel=0)
        if name == "rounds=3":  # the recursion itself
            assert theirs == pytest.approx(best_response_gains(tree, policy), abs=1e-9, rel=0)


def test_nash_conv_is_wrong_without_perfect_recall(spiel, tree_of):
    from open_spiel.python.algorithms import exploitability

    tree = tree_of("rounds=5", "round")
    game, missed = register_game(tree, imperfect_recall=True), []
    for policy in (random_policy(tree, seed) for seed in range(6)):
        missed.append(best_response_gains(tree, policy) - exploitability.nash_conv(game, to_policy(game, policy)))
    assert min(missed) > -1e-9
    assert max(missed) > 1e-3  # its best response is none


def test_imperfect_recall_is_refused_unless_asked_for(spiel, tree_of):
    for abstraction in ("paper", "round"):
        tree = tree_of("rounds=5", abstraction)
        with pytest.raises(ConfigError, match="abstraction='history'"):
            register_game(tree)
        register_game(tree, imperfect_recall=True)
    register_game(tree_of("rounds=3", "paper"))  # too short to forget anything
