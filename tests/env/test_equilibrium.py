"""Deviations, pure equilibria and the coarse gap against brute force over policies."""

from itertools import product

import numpy as np
import pytest
from drawn import draw_recordings

from tracer_env import Costs, Game, OutcomeRewards
from tracer_env.errors import ConfigError
from tracer_env.exact import best_policy, build_tree, coarse_gaps, deviation_gains, evaluate, pure_equilibria
from tracer_env.exact.search import choice_sets

COSTS = OutcomeRewards(costs=Costs(per_1k_tokens=3.0))
RECORDINGS = {"one": {"rounds": 5}, "two": {"rounds": 3, "proposers": 2, "reviewers": 2, "schedule": "simultaneous"}}
GAMES = {
    "simulated": {"rounds": 3},
    "simulated, absent-minded": {"rounds": 5},
    "two at once": {"rounds": 3, "proposers": 2, "schedule": "simultaneous"},
    "one": {},
    "two": {},
}
every_game = pytest.mark.parametrize("name", GAMES)


@pytest.fixture(scope="module")
def tree_of(tmp_path_factory):
    paths, made = draw_recordings(tmp_path_factory.mktemp("recordings"), RECORDINGS, seed=2), {}

    def make(name, abstraction="paper"):
        if (name, abstraction) not in made:
            task = f"recorded:{paths[name]}" if name in paths else "simulated:default"
            made[name, abstraction] = build_tree(Game(task, rewards=COSTS, abstraction=abstraction, **GAMES[name]))
        return made[name, abstraction]

    return make


def drawn_policy(tree, seed):
    rng = np.random.default_rng(seed)
    return {pair: float(rng.choice([0.0, 1.0, rng.random()])) for pair in tree.infosets}


def value(tree, policy):
    return evaluate(tree, policy).team_return


@every_game
@pytest.mark.parametrize("seed", range(4))
def test_deviations_are_what_a_changed_policy_earns(tree_of, name, seed):
    tree = tree_of(name)
    policy = drawn_policy(tree, seed)
    gains, base = deviation_gains(tree, policy), value(tree, policy)
    for row, pair in enumerate(tree.infosets):
        for control in (0, 1):
            assert gains[row, control] == pytest.approx(value(tree, {**policy, pair: control}) - base, abs=1e-12)
    assert gains.max() >= -1e-12


def test_the_absent_minded_game_is_one(tree_of):
    assert tree_of("simulated, absent-minded").absent_minded()


@every_game
def test_an_optimum_has_no_deviation(tree_of, name):
    tree = tree_of(name)
    best = best_policy(tree)
    assert best.proven
    assert deviation_gains(tree, best.policy).max() <= 1e-9
    assert max(gap.gain for gap in coarse_gaps(tree, [best.policy])) <= 1e-9


@pytest.mark.parametrize("name", ["simulated", "two at once", "one"])
def test_pure_equilibria_by_trying_everything(tree_of, name):
    tree = tree_of(name)
    sets = choice_sets(tree)
    assert len(sets) <= 11
    found = []
    for controls in product((0.0, 1.0), repeat=len(sets)):
        policy = dict(zip([tree.infosets[s] for s in sets], controls, strict=True))
        if deviation_gains(tree, policy).max() <= 1e-9:
            found.append(value(tree, policy))
    equilibria = pure_equilibria(tree)
    assert equilibria.returns == pytest.approx(sorted(found, reverse=True), abs=1e-12)
    assert equilibria.optimum == pytest.approx(best_policy(tree).team_return, abs=1e-12)
    assert equilibria.returns[0] == pytest.approx(equilibria.optimum, abs=1e-12)
    assert set(np.round(equilibria.distinct, 8)) == set(np.round(found, 8))
    assert (np.diff(equilibria.distinct) < 0).all()


@pytest.mark.parametrize("name", ["simulated", "two at once", "one", "two"])
@pytest.mark.parametrize("abstraction", ["paper", "history"])
def test_the_coarse_gap_by_trying_every_policy_of_a_seat(tree_of, name, abstraction, monkeypatch):
    tree = tree_of(name, abstraction)
    profiles = [drawn_policy(tree, seed) for seed in range(3)]
    played = np.mean([value(tree, profile) for profile in profiles])
    for gap in coarse_gaps(tree, profiles):
        sets = [s for s in choice_sets(tree) if tree.infosets[s][0].name == gap.seat]
        if len(sets) > 11:
            continue
        best = max(
            np.mean(
                [value(tree, {**p, **dict(zip([tree.infosets[s] for s in sets], own, strict=True))}) for p in profiles]
            )
            for own in product((0.0, 1.0), repeat=len(sets))
        )
        assert gap.exact
        assert gap.gain == pytest.approx(best - played, abs=1e-12)
    monkeypatch.setattr("tracer_env.exact.equilibrium.EXHAUSTIVE_SETS", 0)
    for ours, other in zip(coarse_gaps(tree, profiles), _exhaustive(tree, profiles, monkeypatch), strict=True):
        assert ours.exact == tree.has_perfect_recall()
        if ours.exact and other.exact:
            assert ours.gain == pytest.approx(other.gain, abs=1e-12)
        else:
            assert ours.gain <= other.gain + 1e-12 or not other.exact


def _exhaustive(tree, profiles, monkeypatch):
    monkeypatch.setattr("tracer_env.exact.equilibrium.EXHAUSTIVE_SETS", 18)
    gaps = coarse_gaps(tree, profiles)
    monkeypatch.setattr("tracer_env.exact.equilibrium.EXHAUSTIVE_SETS", 0)
    return gaps


def test_the_gap_is_of_the_joint_play_and_not_of_its_average(tree_of):
    """Two seats that always agree, on one thing or the other: their average does not agree with itself."""
    tree = tree_of("simulated")
    always, never = dict.fromkeys(tree.infosets, 1.0), dict.fromkeys(tree.infosets, 0.0)
    joint = {gap.seat: gap.gain for gap in coarse_gaps(tree, [always, never])}
    average = {gap.seat: gap.gain for gap in coarse_gaps(tree, [dict.fromkeys(tree.infosets, 0.5)])}
    assert any(abs(joint[seat] - average[seat]) > 1e-3 for seat in joint)


def test_what_cannot_be_asked(tree_of):
    with pytest.raises(ConfigError, match="at least one profile"):
        coarse_gaps(tree_of("simulated"), [])
    with pytest.raises(ConfigError, match="Use 'paper' or 'round'"):
        pure_equilibria(tree_of("simulated, absent-minded", "history"))
