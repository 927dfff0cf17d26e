"""Regret minimisers as mathematics: by hand, their bounds, what breaks them, parity with OpenSpiel, and merging."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer_agents.controllers.minimisers import (
    FORGETTING,
    MINIMISERS,
    NO_REGRET,
    DiscountedRegretMatching,
    GeometricRegretMatching,
    Hedge,
    RegretMatching,
    RestartedRegretMatching,
    WindowedRegretMatching,
    make_minimiser,
    regret_matching_policy,
)
from tracer_agents.controllers.table import RegretTable, TabularController
from tracer_env.errors import ConfigError, UnknownNameError

every_minimiser = pytest.mark.parametrize("name", MINIMISERS)
numbers = st.floats(-1, 1).map(lambda x: round(x, 6))
updates = st.lists(st.lists(st.tuples(numbers, numbers, st.floats(0.1, 4)), min_size=1, max_size=4), max_size=40)


def learn(learner, visits):
    """Make one update of the set "I" with (skip, speak, weight) of each visit."""
    columns = np.array(visits, dtype=float).reshape(-1, 3)
    learner.apply([learner.increments_of(["I"] * len(columns), columns[:, :2], columns[:, 2])])


def play(learner, sequence):
    """Learn from the sequence; return by the definition what each control would have earned beyond what was earned."""
    regret = np.zeros(2)
    for visits in sequence:
        strategy = learner.current_strategy("I")
        for skip, speak, weight in visits:
            regret += weight * (np.array([skip, speak]) - strategy @ np.array([skip, speak]))
        learn(learner, visits)
    return regret


# --- by hand ---------------------------------------------------------------------------------------------------------

SEQUENCE = [[(0.0, 1.0, 1.0)], [(1.0, 0.0, 1.0)], [(2.0, 0.0, 1.0)]]
BY_HAND = {
    # r1 = (-1/2, 1/2): s2 = (0, 1), r2 = (1, 0): R = (1/2, 1/2), r3 = (1, -1)
    "regret_matching": ([0.5, 1.0, 0.5, 0.0], [1.5, -0.5]),
    # Q1 = (0, 1/2): s2 = (0, 1), r2 = (1, 0): Q2 = (1, 1/2), s3 = (2/3, 1/3), r3 = (2/3, -4/3): Q3 = (5/3, 0)
    "regret_matching_plus": ([0.5, 1.0, 1 / 3, 0.0], [5 / 3, 0.0]),
    # Q1 + m2 = (0, 1): s2 = (0, 1), r2 = (1, 0): Q2 + m3 = (2, 1/2), s3 = (4/5, 1/5), r3 = (2/5, -8/5): (9/5, 0)
    "predictive": ([0.5, 1.0, 0.2, 0.0], [1.4, 0.0]),
    # d1 = 1/2, 1/2: R1 = (-1/4, 1/4), s2 = (0, 1), r2 = (1, 0): (3/4, 1/4) 2^1.5 / (2^1.5 + 1), s3 = (3/4, 1/4)
    "discounted": ([0.5, 1.0, 0.25, 0.0], None),
    # r1 = (-1/2, 1/2), r2 = (1, 0), r3 = (2, 0) - 2 (1 - s3): fewer than 8 updates are regret matching's
    "windowed": ([0.5, 1.0, 0.5, 0.0], None),
    "restarted": ([0.5, 1.0, 0.5, 0.0], [1.5, -0.5]),
    # R2 = 4/5 (-1/2, 1/2) + (1, 0) = (3/5, 2/5), s3 = (3/5, 2/5), r3 = (4/5, -6/5): R3 = (32/25, -22/25)
    "geometric": ([0.5, 1.0, 0.4, 0.0], None),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_hand_computed_sequences(name):
    learner, speak = TabularController(name), []
    for visits in SEQUENCE:
        speak.append(float(learner.current_strategy("I")[1]))
        learn(learner, visits)
    speak.append(float(learner.current_strategy("I")[1]))
    expected, regret = BY_HAND[name]
    assert speak == pytest.approx(expected, abs=1e-12)
    if regret is not None:
        assert learner.column("regret")[0] == pytest.approx(regret)


def test_hedge_by_hand():
    learner = TabularController("hedge")
    learn(learner, [(0.0, 1.0, 1.0)])  # r = (-1/2, 1/2), range 1, eta = sqrt(8 ln 2)
    rate = math.sqrt(8 * math.log(2))
    assert learner.current_strategy("I")[1] == pytest.approx(1 / (1 + math.exp(-rate)))
    learn(learner, [(0.0, 2.0, 1.0)])  # range 2: eta = sqrt(8 ln 2 / 5), R(SPEAK) - R(SKIP) = 3
    assert learner.current_strategy("I")[1] == pytest.approx(1 / (1 + math.exp(-3 * rate / math.sqrt(5))))
    assert learner.bound("I") == pytest.approx(math.log(2) / rate + rate * (1 + 4) / 8)


def test_discounts_by_hand():
    learner = TabularController(DiscountedRegretMatching(alpha=1.0, beta=1.0, gamma=1.0))
    for _ in range(3):
        learn(learner, [(0.0, 1.0, 1.0)])  # r1 = (-1/2, 1/2), then s = (0, 1) and r = (-1, 0)
    # R1 = r1 / 2, R2 = 2/3 (R1 + r2), R3 = 3/4 (R2 + r3): weights t / (n + 1)
    assert learner.column("regret")[0] == pytest.approx([(-0.5 * 1 - 1 * 2 - 1 * 3) / 4, 0.5 / 4])
    assert learner.column("discounted_regret")[0] == pytest.approx(learner.column("regret")[0])
    assert learner.bound("I") is None
    linear = learner.average_strategy("I")
    assert linear == pytest.approx([0.5 / 6, 5.5 / 6])  # weights 1, 2, 3 of 1/2, 1, 1


@pytest.mark.parametrize(
    ("averaging", "expected"), [("uniform", 1.5 / 3), ("linear", 2.5 / 6), ("quadratic", 4.5 / 14)]
)
def test_weights_of_the_average(averaging, expected):
    learner = TabularController("regret_matching", averaging=averaging)
    for visits in SEQUENCE[:2]:
        learn(learner, visits)
    learn(learner, [(5.0, 0.0, 1.0)])
    speak = [0.5, 1.0, 0.5]
    weights = {"uniform": [1, 1, 1], "linear": [1, 2, 3], "quadratic": [1, 4, 9]}[averaging]
    assert learner.average_strategy("I")[1] == pytest.approx(np.average(speak, weights=weights))


@every_minimiser
def test_usual_averages(name):
    assert RegretTable(name).averaging == {
        "regret_matching": 0, "regret_matching_plus": 1, "discounted": 2, "predictive": 2, "hedge": 0,
        "windowed": 2, "geometric": 2, "restarted": 2,
    }[name]  # fmt: skip


# --- bounds ----------------------------------------------------------------------------------------------------------


@every_minimiser
@pytest.mark.parametrize("default", [0.5, 0.02, 0.9])
@given(sequence=updates)
@settings(max_examples=60, deadline=None)
def test_external_regret_never_exceeds_the_bound(name, default, sequence):
    learner = TabularController(name, default_speak=default)
    regret = play(learner, sequence)
    if not sequence:
        return
    assert learner.column("external_regret")[0] == pytest.approx(regret, abs=1e-9)
    if name in ("discounted", "geometric"):
        bound = learner.table.minimiser.discounted_bound(learner.table.columns)[0]
        assert learner.bound("I") is None
        assert learner.column("discounted_regret").max() <= bound + 1e-9
    elif name in FORGETTING:
        assert learner.bound("I") is None
    else:
        assert regret.max() <= learner.bound("I") + 1e-9
    assert learner.average_strategy("I").sum() == pytest.approx(1.0)
    assert learner.current_strategy("I").min() >= 0.0


@pytest.mark.parametrize("name", NO_REGRET)
def test_average_regret_vanishes_against_an_adversary(name):
    learner, rng = TabularController(name), np.random.default_rng(0)
    sequence, rounds = [], 3000
    regret = np.zeros(2)
    for _ in range(rounds):
        speak = learner.current_strategy("I")[1]
        values = np.array([float(speak > 0.5), float(speak <= 0.5) * rng.random()])
        regret += values - learner.current_strategy("I") @ values
        sequence.append(values)
        learn(learner, [(*values, 1.0)])
    assert regret.max() / rounds < 0.04


@pytest.mark.parametrize(
    "minimiser", [WindowedRegretMatching(window=4), RestartedRegretMatching(period=4)], ids=lambda m: m.name
)
def test_what_is_forgotten_is_as_if_it_had_never_been(minimiser):
    """After a stretch, only updates within reach of the memory matter: the strategy is regret matching's on those."""
    rng = np.random.default_rng(0)
    learner, increments = TabularController(minimiser), []
    for t in range(1, 14):
        strategy, values = learner.current_strategy("I"), rng.normal(size=2)
        learn(learner, [(*values, 1.0)])
        increments.append(values - strategy @ values)
        kept = 4 if minimiser.name == "windowed" else (t - 1) % 4 + 1
        expected = regret_matching_policy(np.sum(increments[-kept:], axis=0))
        assert learner.current_strategy("I") == pytest.approx(expected, abs=1e-12)


def test_memories_of_a_whole_run_are_plain_regret_matching():
    learners = [
        TabularController(m)
        for m in ("regret_matching", WindowedRegretMatching(window=50), RestartedRegretMatching(period=50))
    ]
    for values in np.random.default_rng(1).normal(size=(50, 2)):
        for learner in learners:
            learn(learner, [(*values, 1.0)])
        assert len({tuple(learner.current_strategy("I").round(9)) for learner in learners}) == 1


@pytest.mark.parametrize("name", FORGETTING)
def test_what_forgets_follows_a_change_sooner(name):
    """After 100 updates in favour of SPEAK, SKIP is better for good."""
    late = {}
    for minimiser in ("regret_matching", name):
        learner, late[minimiser] = TabularController(minimiser), 0
        for t in range(250):
            late[minimiser] += t >= 100 and learner.current_strategy("I")[1] > 0.5
            learn(learner, [(*((0.0, 1.0) if t < 60 or (t % 2 and t < 100) else (1.0, 0.0)), 1.0)])
    assert late[name] < late["regret_matching"] / 2


def test_the_predictive_bound_is_small_where_nothing_changes():
    bounds = {}
    for name in ("predictive", "regret_matching_plus"):
        learner = TabularController(name)
        for t in range(400):
            learn(learner, [(math.sin(t / 100), math.cos(t / 70), 1.0)])
        bounds[name] = learner.bound("I")
    assert bounds["predictive"] < 0.5 * bounds["regret_matching_plus"]


# --- what breaks them: each mutant fails on a named sequence ---------------------------------------------------------


def constant(t, speak):
    """SPEAK is always better by 1."""
    return 0.0, 1.0


def both_pay(t, speak):
    """Both controls pay 1: there is nothing to regret."""
    return 1.0, 1.0


def against_the_likelier(t, speak):
    """The control that is likelier pays nothing."""
    return float(speak > 0.5), float(speak <= 0.5)


def block_by_block(t, speak):
    """One control is better for a while, then the other, in blocks that double."""
    return (1.0, 0.0) if int(math.log2(t + 1)) % 2 else (0.0, 1.0)


def switch_once(t, speak):
    """SPEAK is better for a while, then SKIP for good."""
    return (0.0, 1.0) if t < 100 else (1.0, 0.0)


def mutant(kind):
    """Return a learner whose increments are wrong in one way."""

    class Mutant(TabularController):
        past = np.array([0.5, 0.5])

        def increments_of(self, infosets, values, weights):
            made = super().increments_of(infosets, values, weights)
            strategy = self.current_strategy("I")
            wrong = made.gains.copy()
            if kind == "sign flip":
                wrong = -wrong
            elif kind == "no baseline":
                wrong = values * weights[:, None]
            elif kind == "played control only":
                wrong[:, int(strategy[1] < 0.5)] = 0.0
            elif kind == "stale strategy":
                wrong = (values - values @ Mutant.past[:, None]) * weights[:, None]
            return replace(made, gains=wrong)

        def apply(self, increments, **settings):
            super().apply(increments, **settings)
            if kind == "fixed strategy":
                self.table.strategy[:] = 0.5

    return Mutant


ADVERSARIES = {
    "sign flip": constant,
    "fixed strategy": block_by_block,
    "no baseline": both_pay,
    "played control only": switch_once,
    "stale strategy": against_the_likelier,
}


def regret_and_bound(learner, sequence, rounds=600):
    regret = np.zeros(2)
    for t in range(rounds):
        strategy = learner.current_strategy("I")
        values = np.array(sequence(t, float(strategy[1])))
        regret += values - strategy @ values
        learn(learner, [(*values, 1.0)])
    return regret, learner


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_every_mutant_fails_on_its_sequence(kind):
    sequence = ADVERSARIES[kind]
    regret, sound = regret_and_bound(TabularController(), sequence)
    assert regret.max() <= sound.bound("I") + 1e-9
    assert sound.column("external_regret")[0] == pytest.approx(regret, abs=1e-9)
    regret, broken = regret_and_bound(mutant(kind)(), sequence)
    accumulated = broken.column("external_regret")[0]
    assert max(regret.max(), accumulated.max()) > broken.bound("I") + 1e-9


# --- merging over workers --------------------------------------------------------------------------------------------


@st.composite
def epochs(draw):
    """Some epochs of visits of a few sets, each visit with the number of its worker."""
    visit = st.tuples(st.sampled_from("abcde"), numbers, numbers, st.floats(0.1, 4), st.integers(0, 3))
    return draw(st.lists(st.lists(visit, min_size=1, max_size=25), min_size=1, max_size=6))


@every_minimiser
@given(epochs=epochs(), order=st.permutations(range(4)))
@settings(max_examples=30, deadline=None)
def test_any_split_over_workers_gives_the_same_table(name, epochs, order):
    alone, merged = TabularController(name), TabularController(name)
    for visits in epochs:
        keys = [v[0] for v in visits]
        columns = np.array([v[1:4] for v in visits])
        alone.apply([alone.increments_of(keys, columns[:, :2], columns[:, 2])])
        parts = []
        for worker in order:
            mine = [k for k, v in enumerate(visits) if v[4] == worker]
            parts.append(merged.increments_of([keys[k] for k in mine], columns[mine, :2], columns[mine, 2]))
        merged.apply(parts)
    assert set(alone.infosets) == set(merged.infosets)
    place = [merged.infosets.index(key) for key in alone.infosets]
    for column in alone.table.columns:
        assert np.array_equal(alone.column(column), merged.column(column)[place]), column
    assert np.array_equal(alone.table.strategy, merged.table.strategy[place])


def test_a_sum_of_sums_would_not_be_the_same():
    """Why increments travel visit by visit: sums of each worker's own sums are rounded more than once."""
    gains = [0.1, 0.2, 0.3]
    assert sum(gains[:1], sum(gains[1:])) != sum(gains[:2], gains[2]) or 0.1 + (0.2 + 0.3) != (0.1 + 0.2) + 0.3
    assert math.fsum(gains) == math.fsum(gains[::-1])


def test_stale_increments_are_refused_or_labelled():
    learner = TabularController()
    stale = learner.increments_of(["I"], np.array([[0.0, 1.0]]), np.ones(1))
    learn(learner, [(0.0, 1.0, 1.0)])
    before = learner.column("external_regret")
    with pytest.raises(ConfigError, match="asynchronous=True, which is approximate"):
        learner.apply([stale])
    assert np.array_equal(learner.column("external_regret"), before)
    assert (learner.version, learner.stale) == (1, 0)
    learner.apply([stale], asynchronous=True)
    assert (learner.version, learner.stale, learner.bound("I"), learner.bounds()) == (2, 1, None, None)
    assert np.isnan(learner.history["bound"][-1]).all()
    coming = replace(stale, version=7)
    with pytest.raises(ConfigError, match=r"at updates \[7\]"):
        learner.apply([coming], asynchronous=True)
    learner.apply([learner.increments_of(["I"], np.array([[0.0, 1.0]]), np.ones(1))], asynchronous=True)
    assert learner.stale == 1  # nothing was stale in this one


def test_why_stale_increments_have_no_bound():
    """All workers are always eight updates late, against values that follow the strategy."""
    learner, on_the_way = TabularController(), []
    for _ in range(400):
        speak = learner.current_strategy("I")[1]
        values = np.array([[float(speak > 0.5), float(speak <= 0.5)]])
        on_the_way.append(learner.increments_of(["I"], values, np.ones(1)))
        learner.apply([on_the_way[max(0, len(on_the_way) - 9)]], asynchronous=True)
    assert learner.column("external_regret").max() > learner.table.bound()[0]  # what a fresh table would promise
    assert learner.bound("I") is None


# --- parity --------------------------------------------------------------------------------------------------------


def test_strategies_equal_open_spiels():
    cfr = pytest.importorskip("open_spiel.python.algorithms.cfr", reason="needs OpenSpiel")
    rng = np.random.default_rng(4)
    for regrets in [*rng.normal(size=(200, 2)), np.array([-1.0, -2.0]), np.zeros(2)]:
        theirs = cfr._regret_matching(dict(enumerate(regrets)), [0, 1])
        assert regret_matching_policy(regrets) == pytest.approx([theirs[0], theirs[1]], abs=1e-12)


def test_a_fixed_payoff_sequence_against_open_spiels_update():
    """Their regret matching for normal-form games, played against a fixed sequence of payoffs."""
    regret_matching = pytest.importorskip("open_spiel.python.algorithms.cfr", reason="needs OpenSpiel")._regret_matching
    rng = np.random.default_rng(5)
    learner, theirs = TabularController(), {0: 0.0, 1: 0.0}
    for payoff in rng.normal(size=(500, 2)):
        policy = regret_matching(theirs, [0, 1])
        assert learner.current_strategy("I") == pytest.approx([policy[0], policy[1]], abs=1e-10)
        value = sum(policy[a] * payoff[a] for a in (0, 1))
        for a in (0, 1):
            theirs[a] += payoff[a] - value
        learn(learner, [(*payoff, 1.0)])


# --- settings ------------------------------------------------------------------------------------------------------


def test_settings_are_checked():
    with pytest.raises(UnknownNameError, match="'hedge'"):
        make_minimiser("hedg")
    with pytest.raises(ConfigError, match="a name or an object with strategy"):
        make_minimiser(Hedge)
    with pytest.raises(ConfigError, match="beta <= alpha"):
        DiscountedRegretMatching(alpha=0.0, beta=1.0)
    with pytest.raises(ConfigError, match="gamma"):
        DiscountedRegretMatching(gamma=-1.0)
    for wrong in (lambda: WindowedRegretMatching(window=0), lambda: RestartedRegretMatching(period=True)):
        with pytest.raises(ConfigError, match="integer of at least 1"):
            wrong()
    with pytest.raises(ConfigError, match="below 1"):
        GeometricRegretMatching(factor=1.0)
    with pytest.raises(UnknownNameError, match="'linear'"):
        TabularController(averaging="linar")
    with pytest.raises(ConfigError, match="at least 0"):
        TabularController(averaging=-1.0)
    with pytest.raises(ConfigError, match="default_speak"):
        TabularController(default_speak=1.5)
    assert make_minimiser(RegretMatching()).name == "regret_matching"
