"""PPO and the regret estimators over features: the clip and regressions by hand, reservoirs by statistics, games."""

import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tracer_agents import Controller, ControlValues
from tracer_agents.controllers.fixed import FixedController
from tracer_agents.controllers.networks import MLP, forward
from tracer_agents.controllers.neural import (
    AdvantageNetwork,
    AdvantageSettings,
    RegretRegression,
    RegretRegressionSettings,
    Reservoir,
    SnapshotAverage,
)
from tracer_agents.controllers.ppo import PPOController, PPOSettings, clipped_surrogate
from tracer_agents.controllers.table import TabularController
from tracer_agents.fit import fit_sampled, policy_of_controllers
from tracer_env import FEATURES, Game
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.exact import best_policy, build_tree, evaluate
from tracer_env.exact.evaluate import speak_probs
from tracer_env.wrappers import scale_features

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

FREE, MASKED = (True, True), (False, True)
COLUMN = {feature.name: k for k, feature in enumerate(FEATURES)}
SMALL = AdvantageSettings(hidden=(16,), steps=20, batch_size=64, learning_rate=0.01)
FRESH = AdvantageSettings(hidden=(32,), steps=60, batch_size=64, learning_rate=0.05, warm_start=False)
MAKE = {
    "ppo": lambda seed=0: PPOController(seed=seed),
    "advantage network": lambda seed=0: AdvantageNetwork(SMALL, seed=seed),
    "advantage network, fresh": lambda seed=0: AdvantageNetwork(FRESH, seed=seed),
    "regression, matching": lambda seed=0: RegretRegression(RegretRegressionSettings(play="matching")),
    "regression, greedy": lambda seed=0: RegretRegression(RegretRegressionSettings(play="greedy")),
}
every_learner = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def features(**given):
    row = np.zeros(len(FEATURES), dtype=np.float32)
    for name, value in given.items():
        row[COLUMN[name]] = value
    return row


def decision(skip=0.0, speak=0.0, control=None, returned=None, weight=1.0, speak_prob=None, **given):
    return ControlValues(
        infoset="I", skip=skip, speak=speak, weight=weight, features=features(**given), speak_prob=speak_prob,
        control=control, returned=returned,
    )  # fmt: skip


@pytest.fixture(scope="module")
def simulated():
    return build_tree(Game("simulated:default", abstraction="paper"))


def bandit(controller, worth, batches=30, size=64, seed=0):
    """A contextual bandit: ``worth`` maps votes to the returns of SKIP and SPEAK; noise on top."""
    rng = np.random.default_rng(seed)
    contexts = list(worth)
    for _ in range(batches):
        batch = []
        for _ in range(size):
            votes = contexts[rng.integers(len(contexts))]
            prob = controller.speak_prob("I", features(votes=votes), FREE)
            control = int(rng.random() < prob)
            skip, speak = np.array(worth[votes]) + rng.normal(scale=0.5, size=2)
            returned = (skip, speak)[control]
            batch.append(decision(skip, speak, control, returned, speak_prob=prob, votes=votes))
        controller.update(batch)
    return {votes: controller.speak_prob("I", features(votes=votes), FREE) for votes in contexts}


WORTH = {-1: (-0.5, 0.5), 0: (0.5, -0.5), 1: (-0.5, 0.5)}  # no line through the votes separates these


# --- what all of them share -----------------------------------------------------------------------------------------


@every_learner
def test_masks_the_protocol_and_the_start(make):
    controller = make()
    assert isinstance(controller, Controller)
    assert controller.speak_prob("I", features(votes=2), MASKED) == 1.0
    assert controller.speak_prob("I", features(votes=2), FREE) == 0.5
    controller.update([])
    assert controller.speak_prob("I", features(votes=2), FREE) == 0.5
    bandit(controller, {2: (1.0, -1.0)}, batches=5)
    assert controller.speak_prob("I", features(votes=2), FREE) < 0.5
    assert controller.speak_prob("I", features(votes=2), MASKED) == 1.0


@every_learner
def test_a_known_better_control_is_learned(make):
    for worth in (WORTH, {votes: values[::-1] for votes, values in WORTH.items()}):
        learned = bandit(make(), worth)
        for votes, (skip, speak) in worth.items():
            assert (learned[votes] > 0.8) if speak > skip else (learned[votes] < 0.2), (votes, learned)


@every_learner
def test_the_same_seed_gives_the_same_controller_and_no_global_generator_is_touched(make, simulated):
    def states():
        kind, key, place, *_ = np.random.get_state()
        return kind, key.tolist(), place, random.getstate(), torch.get_rng_state().tolist()

    before, played = states(), []
    for seed in (0, 0, 1):
        controllers = {seat.name: make(seed) for seat in simulated.seats}
        fit_sampled(simulated, controllers, updates=2, episodes=32, seed=seed)
        played.append(speak_probs(simulated, policy_of_controllers(controllers)))
    assert states() == before
    assert np.array_equal(played[0], played[1])
    assert not np.array_equal(played[0], played[2])


@every_learner
def test_many_at_once_is_one_after_the_other(make, simulated):
    controllers = {seat.name: make() for seat in simulated.seats}
    fit_sampled(simulated, controllers, updates=2, episodes=32, seed=0)
    rows = simulated.features[simulated.may_skip]
    learned = controllers["proposer_0"]
    single = [learned.speak_prob("I", row, FREE) for row in rows]
    assert learned.speak_probs(rows) == pytest.approx(single, abs=1e-12)


@every_learner
@pytest.mark.parametrize(
    "bad",
    [
        replace(decision(control=1, returned=0.0), features=None),
        decision(control=1, returned=0.0, votes=math.nan),
        decision(control=1, returned=0.0, weight=0.0),
    ],
)
def test_decisions_without_numbers_are_refused(make, bad):
    with pytest.raises(ConfigError, match="'I'"):
        make().update([decision(control=1, returned=0.0), bad])


@every_learner
def test_values_that_are_not_numbers_are_refused(make):
    with pytest.raises(ConfigError, match="'I'"):
        make().update([decision(skip=math.nan, control=1, returned=math.nan)])


def test_modules_load_no_torch():
    code = (
        "import sys, tracer_agents.controllers.ppo, tracer_agents.controllers.neural as n; n.RegretRegression();"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# --- networks -------------------------------------------------------------------------------------------------------


def test_playing_in_numpy_is_the_network():
    network = MLP(5, (7, 3), 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.layers[-1][0].normal_(generator=torch.Generator().manual_seed(1))
    rows = np.random.default_rng(0).normal(size=(11, 5)).astype(np.float32)
    expected = network(torch.tensor(rows)).detach().numpy()
    assert np.abs(expected).max() > 0.1
    assert forward(network.freeze(), rows) == pytest.approx(expected, abs=1e-5)
    assert forward(network.freeze(), rows[3]) == pytest.approx(expected[3], abs=1e-5)


def test_frozen_weights_are_a_copy():
    network = MLP(3, (), 1, torch.Generator().manual_seed(0))
    frozen = network.freeze()
    with torch.no_grad():
        network.layers[0][0].fill_(9.0)
    assert forward(frozen, np.ones(3)).tolist() == [0.0]


# --- PPO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "moves"),
    [
        (1.0, 2.0, 2.0, True),
        (1.1, 2.0, 2.2, True),
        (1.5, 2.0, 2.4, False),  # clipped at 1.2: nothing more to gain
        (0.5, 2.0, 1.0, True),  # a good control that became rarer is not clipped
        (0.5, -2.0, -1.6, False),  # clipped at 0.8
        (1.5, -2.0, -3.0, True),  # a bad control that became likelier is not clipped
    ],
)
def test_the_clip_by_hand(ratio, advantage, gain, moves):
    old = torch.tensor([math.log(0.4)])
    log_prob = torch.tensor([math.log(0.4 * ratio)], requires_grad=True)
    result = clipped_surrogate(log_prob, old, torch.tensor([advantage]), torch.ones(1), clip=0.2)
    assert result.item() == pytest.approx(gain, abs=1e-6)
    (gradient,) = torch.autograd.grad(result, log_prob)
    assert gradient.item() == pytest.approx(ratio * advantage if moves else 0.0, abs=1e-6)


def test_the_clip_weighs_decisions():
    old, ratios = torch.zeros(2), torch.tensor([1.1, 0.9])
    weights, advantages = torch.tensor([0.75, 0.25]), torch.tensor([1.0, -2.0])
    result = clipped_surrogate(ratios.log(), old, advantages, weights, clip=0.2)
    assert result.item() == pytest.approx(0.75 * 1.1 - 0.25 * 2.0 * 0.9, abs=1e-6)


def test_ppo_stops_near_the_strategy_that_played():
    """Many epochs on one batch: the ratio ends little beyond the clip; without the clip it would run away."""
    batch = [decision(control=1, returned=1.0, speak_prob=0.5)] * 8 + [
        decision(control=0, returned=-1.0, speak_prob=0.5)
    ] * 8
    ends = {}
    for clip in (0.1, 0.99):
        learner = PPOController(PPOSettings(hidden=(8,), clip=clip, epochs=200, entropy_coef=0.0), seed=0)
        learner.update(batch)
        ends[clip] = learner.speak_prob("I", features(), FREE) / 0.5
    assert 1.05 < ends[0.1] < 1.3
    assert ends[0.99] > 1.6


def test_ppo_ratios_are_taken_against_the_strategy_that_played():
    """A control that was played with 0.9 is already far beyond the clip when the present strategy has 0.5."""
    settings = PPOSettings(hidden=(8,), entropy_coef=0.0, epochs=1)

    def moved(speak_prob):
        learner = PPOController(settings, seed=0)
        batch = [decision(control=1, returned=r, speak_prob=speak_prob, votes=v) for r, v in ((1.0, 4), (-1.0, -4))]
        learner.update(batch)
        return [learner.speak_prob("I", features(votes=v), FREE) - 0.5 for v in (4, -4)]

    kept = moved(0.5)
    assert kept == moved(None)  # where nobody kept it, the present strategy has played
    assert kept[0] > 1e-4
    assert kept[1] < -1e-4
    assert kept != moved(0.9)  # rho = 5/9: the bad control is clipped already


def test_a_control_that_could_not_be_played_is_refused():
    with pytest.raises(ConfigError, match="cannot have been played"):
        PPOController(seed=0).update([decision(control=1, returned=0.0, speak_prob=0.0)])


def test_entropy_bonus_keeps_both_controls_alive():
    worth = {0: (-0.05, 0.05)}
    plain = bandit(PPOController(PPOSettings(hidden=(8,), entropy_coef=0.0), seed=0), worth, batches=30)
    mixed = bandit(PPOController(PPOSettings(hidden=(8,), entropy_coef=1.0), seed=0), worth, batches=30)
    assert abs(mixed[0] - 0.5) < abs(plain[0] - 0.5) - 0.1


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_gains_on_a_simulated_team(simulated, shared):
    one = PPOController(seed=0)
    controllers = {
        seat.name: one if shared or not k else PPOController(seed=k) for k, seat in enumerate(simulated.seats)
    }
    fit_sampled(simulated, controllers, updates=100, episodes=64, seed=0)
    assert one.updates == (200 if shared else 100)  # one update a call, one call a seat
    assert (
        evaluate(simulated, policy_of_controllers(controllers)).team_return
        > evaluate(simulated, 1.0).team_return + 0.05
    )


# --- reservoirs -----------------------------------------------------------------------------------------------------


def kept_counts(add, items=60, capacity=12, trials=4000):
    rng, counts = np.random.default_rng(0), Counter()
    for _ in range(trials):
        reservoir = Reservoir(capacity, rng)
        add(reservoir, np.arange(items, dtype=np.float64)[:, None])
        kept = reservoir.rows[:, 0].tolist()
        assert len(set(kept)) == capacity  # without replacement
        counts.update(kept)
    return np.array([counts[float(k)] for k in range(items)])


def one_by_one(reservoir, rows):
    for row in rows:
        reservoir.add(row[None])


def in_pieces(reservoir, rows):
    for part in np.array_split(rows, 7):
        reservoir.add(part)


@pytest.mark.parametrize("add", [one_by_one, in_pieces, Reservoir.add])
def test_the_reservoir_is_uniform(add):
    """Every item is kept with 12/60, the first as the last: chi-square over 60 items and each within 5 deviations."""
    trials = 300 if add is one_by_one else 4000
    counts, p = kept_counts(add, trials=trials), 12 / 60
    deviations = (counts - trials * p) / math.sqrt(trials * p * (1 - p))
    assert np.abs(deviations).max() < 5.0
    # sum of squares: mean 59 or 60 items with one constraint, standard deviation about sqrt(2 x 60)
    assert abs((deviations**2).sum() - 60) < 5 * math.sqrt(2 * 60)
    assert abs(counts[:30].sum() / counts.sum() - 0.5) < 0.02  # neither the old nor the new are preferred


def test_a_reservoir_keeps_all_until_it_is_full():
    reservoir, rng = Reservoir(100, np.random.default_rng(0)), np.random.default_rng(1)
    offered = rng.normal(size=(73, 4))
    in_pieces(reservoir, offered)
    assert np.array_equal(reservoir.rows, offered)
    assert reservoir.seen == 73


# --- advantage networks ---------------------------------------------------------------------------------------------


def test_what_the_memory_holds_by_hand():
    learner = AdvantageNetwork(SMALL, seed=0)
    learner.update([decision(skip=1.0, speak=3.0, speak_prob=0.25, votes=4)])  # worth 1.5
    learner.update([decision(skip=0.0, speak=-2.0, speak_prob=1.0, weight=2.0)])  # worth -2
    first, second = learner.memory.rows
    assert first[:-3] == pytest.approx(scale_features(features(votes=4)))
    assert first[-3:].tolist() == [-0.5, 1.5, 1.0]
    assert second[-3:].tolist() == [2.0, 0.0, 4.0]  # iteration 2, weight 2


def test_regrets_without_a_kept_probability_are_against_the_present_strategy():
    learner = AdvantageNetwork(SMALL, seed=0)
    learner.update([decision(skip=0.0, speak=1.0)])
    assert learner.memory.rows[0, -3:].tolist() == [-0.5, 0.5, 1.0]


@pytest.mark.parametrize("warm_start", [True, False])
def test_the_network_learns_the_weighted_mean_of_its_memory(warm_start):
    settings = AdvantageSettings(hidden=(), steps=400, learning_rate=0.05, warm_start=warm_start)
    learner = AdvantageNetwork(settings, seed=0)
    learner.update([decision(skip=0.0, speak=2.0, speak_prob=0.5)])  # (-1, 1), weight 1
    learner.update([decision(skip=1.0, speak=0.0, speak_prob=0.5)])  # (1/2, -1/2), weight 2
    # one context: the best constant is the weighted mean, (-1 + 2/2) / 3 = 0
    assert learner.advantages(features()) == pytest.approx([0.0, 0.0], abs=0.15)
    learner.update([decision(skip=3.0, speak=0.0, speak_prob=0.5)])  # (3/2, -3/2), weight 3: mean 4.5 / 6
    assert learner.advantages(features()) == pytest.approx([0.75, -0.75], abs=0.15)
    assert learner.speak_prob("I", features(), FREE) == 0.0


def test_where_no_advantage_is_positive_the_larger_one_is_played():
    learner = AdvantageNetwork(AdvantageSettings(hidden=()), seed=0)
    for skip, speak, plays in ((-1.0, -2.0, 0.0), (-2.0, -1.0, 1.0), (-1.0, -1.0, 0.5), (1.0, 3.0, 0.75)):
        learner._weights = ((np.zeros((len(FEATURES), 2)), np.array([skip, speak])),)
        assert learner.speak_prob("I", features(votes=1), FREE) == plays


def test_the_average_is_over_kept_networks_by_their_iteration():
    learner = AdvantageNetwork(replace(SMALL, snapshots=4), seed=0)
    assert SnapshotAverage(learner).speak_prob("I", features(), FREE) == 0.5
    for value in (1.0, -1.0, 1.0):
        learner.update([decision(skip=-9 * value, speak=9 * value, votes=1)])
    assert [t for t, _ in learner._snapshots] == [1, 2, 3]
    constant = np.zeros((len(FEATURES), 2))
    plays = ((1, (0.0, 2.0)), (3, (2.0, 0.0)), (4, (1.0, 3.0)))  # P(SPEAK) = 1, 0 and 3/4
    kept, learner._snapshots = learner._snapshots, [(t, ((constant, np.array(b)),)) for t, b in plays]
    average = SnapshotAverage(learner).speak_prob("I", features(votes=1), FREE)
    assert SnapshotAverage(learner).speak_probs(features(votes=1)[None]).tolist() == [average]
    assert average == pytest.approx((1 * 1.0 + 3 * 0.0 + 4 * 0.75) / 8)
    learner._snapshots = kept
    for _ in range(30):
        learner.update([decision(skip=0.0, speak=1.0, votes=1)])
    assert len(learner._snapshots) == 4
    assert SnapshotAverage(learner).speak_prob("I", features(votes=1), MASKED) == 1.0


def test_snapshots_are_a_uniform_sample_of_the_iterates():
    learner = AdvantageNetwork(replace(SMALL, snapshots=5), seed=0)
    counts = Counter()
    for _ in range(2000):
        learner._snapshots, learner.updates = [], 0
        for learner.updates in range(1, 21):
            learner._keep(())
        counts.update(t for t, _ in learner._snapshots)
    deviations = [(counts[t] - 500) / math.sqrt(2000 * 0.25 * 0.75) for t in range(1, 21)]
    assert max(map(abs, deviations)) < 5.0


def test_the_advantage_network_is_near_the_table_where_a_table_is_feasible(simulated):
    """On the simulated team, exact control values: within 0.02 of the best policy of the table's abstraction."""
    learners = {
        seat.name: AdvantageNetwork(AdvantageSettings(hidden=(32,), steps=50, learning_rate=0.01), seed=k)
        for k, seat in enumerate(simulated.seats)
    }
    fit_sampled(simulated, learners, updates=30, episodes=64, seed=0)
    table = {seat.name: TabularController() for seat in simulated.seats}
    fit_sampled(simulated, table, updates=30, episodes=64, seed=0)
    best = best_policy(simulated).team_return
    assert evaluate(simulated, policy_of_controllers(table)).team_return > best - 0.02
    assert evaluate(simulated, policy_of_controllers(learners)).team_return > best - 0.02
    average = {name: SnapshotAverage(learner) for name, learner in learners.items()}
    assert evaluate(simulated, policy_of_controllers(average)).team_return > best - 0.03


# --- regression -----------------------------------------------------------------------------------------------------


def test_the_fit_is_weighted_ridge_regression():
    rng = np.random.default_rng(0)
    batch = [
        decision(*rng.normal(size=2), weight=rng.uniform(0.5, 3.0), votes=rng.integers(-2, 3), agreement=rng.random())
        for _ in range(30)
    ]
    learner = RegretRegression(RegretRegressionSettings(basis="linear", ridge=0.3))
    learner.update(batch)
    rows = np.array([[1.0, *scale_features(value.features)] for value in batch])
    root = np.sqrt([value.weight for value in batch])[:, None]
    size = rows.shape[1]
    stacked = np.concatenate([root * rows, math.sqrt(0.3) * np.eye(size)])  # the same problem as least squares
    targets = np.concatenate([root[:, 0] * [value.speak - value.skip for value in batch], np.zeros(size)])
    assert learner.coefficients[0] == pytest.approx(np.linalg.lstsq(stacked, targets, rcond=None)[0])


def test_matching_is_regret_matching_where_nothing_is_shrunk():
    """One context and a vanishing ridge: the table, update by update."""
    learner = RegretRegression(RegretRegressionSettings(basis="linear", ridge=1e-9))
    table, rng = TabularController(), np.random.default_rng(1)
    for _ in range(40):
        value = decision(*rng.normal(size=2), agreement=1)
        learner.update([value])
        table.update([value])
        expected = table.speak_prob("I", features(), FREE)
        assert learner.speak_prob("I", features(agreement=1), FREE) == pytest.approx(expected, abs=1e-6)


def test_greedy_follows_the_sum_of_the_fits():
    learner = RegretRegression(RegretRegressionSettings(play="greedy", basis="linear", ridge=1e-9, default_speak=0.3))
    assert learner.speak_prob("I", features(), FREE) == 0.3
    for difference, plays in ((1.0, 1.0), (-3.0, 0.0), (1.5, 0.0), (1.0, 1.0)):
        learner.update([decision(skip=0.0, speak=difference)])
        assert learner.speak_prob("I", features(), FREE) == plays
    assert learner.coefficients.shape == (4, 1 + len(FEATURES))


def test_a_linear_basis_cannot_learn_what_a_quadratic_one_can():
    for basis, right in (("linear", False), ("quadratic", True)):
        learned = bandit(RegretRegression(RegretRegressionSettings(basis=basis)), WORTH)
        assert (learned[0] < 0.5 < min(learned[-1], learned[1])) is right


def test_the_regression_gains_on_a_simulated_team(simulated):
    for play in ("matching", "greedy"):
        learners = {s.name: RegretRegression(RegretRegressionSettings(play=play)) for s in simulated.seats}
        fit_sampled(simulated, learners, updates=15, episodes=64, seed=0)
        assert (
            evaluate(simulated, policy_of_controllers(learners)).team_return > best_policy(simulated).team_return - 0.03
        )
    silent = {seat.name: FixedController(0.0) for seat in simulated.seats}
    assert evaluate(simulated, policy_of_controllers(silent)).team_return < best_policy(simulated).team_return - 0.2


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "bad", "error"),
    [
        (PPOSettings, {"clip": 1.0}, ConfigError),
        (PPOSettings, {"epochs": 0}, ConfigError),
        (PPOSettings, {"hidden": (0,)}, ConfigError),
        (PPOSettings, {"entropy_coef": -1.0}, ConfigError),
        (PPOSettings, {"learning_rate": math.inf}, ConfigError),
        (AdvantageSettings, {"capacity": 0}, ConfigError),
        (AdvantageSettings, {"learning_rate": 0.0}, ConfigError),
        (AdvantageSettings, {"default_speak": 2.0}, ConfigError),
        (RegretRegressionSettings, {"play": "greed"}, UnknownNameError),
        (RegretRegressionSettings, {"basis": "cubic"}, UnknownNameError),
        (RegretRegressionSettings, {"ridge": 0.0}, ConfigError),
    ],
)
def test_settings_out_of_range(settings, bad, error):
    with pytest.raises(error, match=next(iter(bad))):
        settings(**bad)


@pytest.mark.parametrize("seed", [-1, True, 0.5, None])
def test_bad_seeds(seed):
    for make in (PPOController, AdvantageNetwork):
        with pytest.raises(ConfigError, match="seed"):
            make(seed=seed)
