"""Fitting on recorded and simulated games: parity with OpenSpiel's CFR, bounds, optima, and drawn episodes."""

import numpy as np
import pytest
from drawn import draw_recordings

from tracer_agents.controllers.minimisers import FORGETTING, MINIMISERS, NO_REGRET
from tracer_agents.controllers.table import TabularController
from tracer_agents.fit import best_start, fit_exact, fit_sampled, policy_of_controllers
from tracer_env import Costs, Game, OutcomeRewards
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.exact import best_policy, build_tree, control_values, deviation_gains, evaluate
from tracer_env.exact.evaluate import leaf_reach, speak_probs

COSTS = OutcomeRewards(costs=Costs(per_1k_tokens=1.0))


def simulated(abstraction="round", **rules):
    return build_tree(Game("simulated:default", rewards=COSTS, abstraction=abstraction, **{"rounds": 5, **rules}))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    shapes = {"game": {"rounds": 5}, "two": {"rounds": 3, "proposers": 2, "schedule": "simultaneous"}}
    return draw_recordings(tmp_path_factory.mktemp("recordings"), shapes, seed=8)


def games(recording):
    return {
        "simulated": simulated("history"),
        "simulated two": simulated("history", rounds=3, proposers=2, reviewers=2, schedule="simultaneous"),
        "recording": build_tree(Game(f"recorded:{recording['game']}", rewards=COSTS, abstraction="history")),
        "recording of two": build_tree(Game(f"recorded:{recording['two']}", rewards=COSTS, abstraction="history")),
    }


# --- parity with OpenSpiel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simulated", "simulated two", "recording", "recording of two"])
@pytest.mark.parametrize(
    ("solver", "minimiser"), [("CFRSolver", "regret_matching"), ("CFRPlusSolver", "regret_matching_plus")]
)
def test_counterfactual_weights_and_alternation_are_open_spiels_cfr(recording, name, solver, minimiser):
    pytest.importorskip("pyspiel", reason="needs OpenSpiel: pip install 'tracer-env[interop]'")
    from open_spiel.python.algorithms import cfr

    from tracer_env.open_spiel import from_policy, register_game

    tree = games(recording)[name]
    assert tree.has_perfect_recall()
    game = register_game(tree)
    theirs, iterations = getattr(cfr, solver)(game), 12
    for _ in range(iterations):
        theirs.evaluate_and_update_policy()
    ours = fit_exact(tree, minimiser, iterations=iterations, weighting="counterfactual", alternating=True)
    free = {tree.infosets[s] for s in np.unique(tree.node_infoset[tree.may_skip])}
    for mine, other in ((ours.last, theirs.current_policy()), (ours.average, theirs.average_policy())):
        converted = from_policy(game, other)
        for pair in free:
            assert mine[pair] == pytest.approx(converted.get(pair, 0.5), abs=1e-10), pair


# --- what is learned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimiser", MINIMISERS)
@pytest.mark.parametrize("weighting", ["visit", "counterfactual"])
@pytest.mark.parametrize("start", [None, 3])
def test_bounds_hold_and_profiles_are_the_play(minimiser, weighting, start):
    tree = simulated()
    fit = fit_exact(tree, minimiser, iterations=60, weighting=weighting, start=start)
    bound = fit.table.bound()
    regret = np.zeros((len(tree.infosets), 2))  # by the definition, from the profiles alone
    for profile in fit.profiles:
        speak = np.where(tree.may_skip, profile[tree.node_infoset], 1.0)
        at = control_values(tree, speak)
        if weighting == "visit":
            value = (1 - speak) * at.values[:, 0] + speak * at.values[:, 1]
            for c in (0, 1):
                gain = at.reach * tree.may_skip * (at.values[:, c] - value)
                regret[:, c] += np.bincount(tree.node_infoset, weights=gain, minlength=len(tree.infosets))
    if weighting == "visit":
        assert fit.table.columns["external_regret"] == pytest.approx(regret, abs=1e-10)
    if minimiser == "discounted" or minimiser in FORGETTING:
        assert bound is None
    else:
        assert (fit.table.columns["external_regret"].max(axis=1) <= bound + 1e-12).all()
    assert fit.profiles[0] == pytest.approx(fit.table.columns["default"][:, 1], abs=1e-15)


@pytest.mark.parametrize("minimiser", NO_REGRET)
def test_the_best_of_eight_starts_is_near_the_optimum(minimiser):
    tree = simulated()
    fit, returns = best_start(tree, minimiser, starts=range(8), iterations=300)
    optimum = best_policy(tree).team_return
    assert len(returns) == 8
    assert max(returns) == evaluate(tree, fit.greedy).team_return
    assert optimum - max(returns) <= 0.01
    assert deviation_gains(tree, fit.last).max() <= 0.005


def test_single_starts_end_in_different_equilibria():
    tree = build_tree(Game("simulated:default", abstraction="history"))
    _, returns = best_start(tree, starts=range(8), iterations=300)
    assert np.ptp(returns) > 0.005
    assert max(returns) == pytest.approx(best_policy(tree).team_return)
    worst = fit_exact(tree, start=int(np.argmin(returns)), iterations=300)
    assert deviation_gains(tree, worst.last).max() <= 0.005  # an equilibrium, too


def test_one_seat_after_the_other_is_not_all_at_once():
    tree = simulated()
    together = fit_exact(tree, iterations=3)
    in_turn = fit_exact(tree, iterations=3, alternating=True)
    assert not np.allclose(together.profiles[1], in_turn.profiles[1])
    assert np.array_equal(together.profiles[0], in_turn.profiles[0])


def test_what_was_never_updated_plays_its_default_greedily():
    tree = simulated()
    fit = fit_exact(tree, iterations=1, start=1)
    never = fit.table.columns["updates"] == 0
    for pair, default, unseen in zip(tree.infosets, fit.table.columns["default"][:, 1], never, strict=True):
        if unseen:
            assert fit.greedy[pair] == default
    assert not never.all()


# --- drawn episodes --------------------------------------------------------------------------------------------------


class Spy:
    """Speaks with a probability of its own at every set and keeps what it is told."""

    def __init__(self, probs):
        self.probs, self.told = probs, []

    def speak_prob(self, infoset, features, mask):
        return self.probs[infoset]

    def update(self, values):
        self.told.extend(values)


def spies(tree, seed):
    rng = np.random.default_rng(seed)
    probs = {seat.name: {} for seat in tree.seats}
    for seat, key in tree.infosets:
        probs[seat.name][key] = float(rng.uniform(0.2, 0.8))
    return {name: Spy(mine) for name, mine in probs.items()}


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("rules", [{}, {"rounds": 3, "proposers": 2, "schedule": "simultaneous"}])
def test_drawn_episodes_are_the_games(rules, values):
    tree, episodes = simulated(**rules), 4000
    team = spies(tree, 0)
    policy = policy_of_controllers(team)
    means = []
    fit_sampled(
        tree, team, updates=1, episodes=episodes, seed=1, values=values, on_update=lambda k, mean: means.append(mean)
    )
    figures = evaluate(tree, policy)
    reach = leaf_reach(tree, speak_probs(tree, policy))
    spread = np.sqrt(reach @ (tree.leaf_return - figures.team_return) ** 2 / episodes)
    assert abs(means[0] - figures.team_return) < 4 * spread
    at = control_values(tree, policy)
    for seat, key in tree.infosets:
        told = [v for v in team[seat.name].told if v.infoset == key]
        row = tree.infosets.index((seat, key))
        free = (tree.node_infoset == row) & tree.may_skip
        expected = at.reach[free].sum()
        assert abs(len(told) / episodes - expected) < 4 * np.sqrt(expected / episodes) + 1e-12
        if len(told) > 200:
            spoke = np.mean([v.control for v in told])
            assert abs(spoke - team[seat.name].probs[key]) < 4 * 0.5 / np.sqrt(len(told))
            assert {v.speak_prob for v in told} == {team[seat.name].probs[key]}
            nodes = {(round(float(a), 9), round(float(b), 9)) for a, b in at.values[free]}
            if values:
                assert {(round(v.skip, 9), round(v.speak, 9)) for v in told} <= nodes
            else:
                assert all(np.isnan([v.skip, v.speak]).all() for v in told)
            assert {v.returned for v in told} <= set(tree.leaf_return.tolist())


def test_regret_matching_learns_from_drawn_episodes_and_a_seed_repeats_it():
    tree, returns = simulated(), []
    for _ in range(2):
        team = {seat.name: TabularController() for seat in tree.seats}
        fit_sampled(tree, team, updates=40, episodes=64, seed=5)
        returns.append(evaluate(tree, policy_of_controllers(team)).team_return)
    assert returns[0] == returns[1]
    assert returns[0] > evaluate(tree, 0.5).team_return + 0.1


def test_settings_are_checked():
    tree = simulated(rounds=3)
    with pytest.raises(UnknownNameError, match="'visit'"):
        fit_exact(tree, weighting="visits")
    with pytest.raises(ConfigError, match="iterations"):
        fit_exact(tree, iterations=0)
    with pytest.raises(ConfigError, match=r"no controller for \['reviewer_0'\]"):
        fit_sampled(tree, {"proposer_0": TabularController()}, updates=1, episodes=1, seed=0)
    with pytest.raises(ConfigError, match="must be finite"):  # without values there is nothing to regret
        fit_sampled(
            tree, {s.name: TabularController() for s in tree.seats}, updates=1, episodes=9, seed=0, values=False
        )
    with pytest.raises(ConfigError, match="episodes at least 1"):
        fit_sampled(tree, spies(tree, 0), updates=1, episodes=0, seed=0)
