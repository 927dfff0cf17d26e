"""Learned and fixed baselines without torch: updates by hand, gradients, known optima, transcripts, determinism."""

import math
import random
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from toy import SKIP, play_script, speak, toy_game

from tracer_agents import Controller, ControlValues
from tracer_agents.controllers.fixed import (
    FIXED_CONTROLLERS,
    FixedController,
    GreedyController,
    ProposeReviewRevise,
    make_fixed,
)
from tracer_agents.controllers.q_learning import QLearningController, QLearningSettings
from tracer_agents.controllers.reference import ReferenceController, ReferenceGreedy
from tracer_agents.controllers.reinforce import (
    ReinforceController,
    ReinforceSettings,
    log_likelihood,
    policy_gradient,
)
from tracer_agents.controllers.table import TabularController
from tracer_agents.controllers.thresholds import (
    ALWAYS,
    NEVER,
    THRESHOLD_FEATURES,
    ThresholdController,
    ThresholdRule,
    fit_threshold,
)
from tracer_agents.fit import fit_sampled, policy_of_controllers
from tracer_env import FEATURES, Game, Role, Seat
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.exact import best_policy, build_tree, control_values, evaluate
from tracer_env.exact.evaluate import leaf_reach, speak_probs
from tracer_env.infosets import ABSTRACTIONS, feature_vector, infoset_key
from tracer_env.rewards import Costs, OutcomeRewards

FREE, MASKED = (True, True), (False, True)
COLUMN = {feature.name: k for k, feature in enumerate(FEATURES)}
PROPOSER, REVIEWER = "proposer|votes=0|last", "reviewer|votes=0|not_last"


def features(**given):
    row = np.zeros(len(FEATURES), dtype=np.float32)
    for name, value in given.items():
        row[COLUMN[name]] = value
    return row


def decision(control=None, returned=None, infoset="I", weight=1.0, speak_prob=None, skip=0.0, speak=0.0, **given):
    return ControlValues(
        infoset=infoset, skip=skip, speak=speak, weight=weight, features=features(**given), speak_prob=speak_prob,
        control=control, returned=returned,
    )  # fmt: skip


def everywhere(tree, controller):
    return {seat.name: controller for seat in tree.seats}


@pytest.fixture(scope="module")
def simulated():
    return build_tree(Game("simulated:default", abstraction="paper"))


@pytest.fixture(scope="module")
def recorded():
    game = Game("recorded:arithmetic-test", abstraction="paper")
    return build_tree(game, [question for _, question in game.script.worlds()[:25]])


def bandit(controller, worth, batches=40, size=64, seed=0):
    """A contextual bandit: ``worth`` maps features to the returns of SKIP and SPEAK; noise on top."""
    rng = np.random.default_rng(seed)
    contexts = list(worth)
    for _ in range(batches):
        batch = []
        for _ in range(size):
            votes = contexts[rng.integers(len(contexts))]
            row = features(votes=votes)
            prob = controller.speak_prob(f"votes={votes}", row, FREE)
            control = int(rng.random() < prob)
            returned = worth[votes][control] + rng.normal(scale=0.5)
            skip, speak_value = worth[votes]
            batch.append(
                decision(
                    control, returned, f"votes={votes}", speak_prob=prob, skip=skip, speak=speak_value, votes=votes
                )
            )
        controller.update(batch)
    return {v: controller.speak_prob(f"votes={v}", features(votes=v), FREE) for v in contexts}


WORTH = {-1: (-0.5, 0.5), 1: (0.5, -0.5)}  # a wrong answer should be worked on, a right one kept
LEARNERS = {
    "q-learning": QLearningController,
    "reinforce": lambda: ReinforceController(ReinforceSettings(learning_rate=20.0)),
}
every_learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


# --- what all of them share -----------------------------------------------------------------------------------------

ALL = {
    **FIXED_CONTROLLERS,
    **LEARNERS,
    "greedy": lambda: GreedyController(QLearningController()),
    "threshold": lambda: ThresholdController("agreement", proposer=NEVER, reviewer=NEVER),
    "reference": ReferenceController,
    "reference, greedy": lambda: ReferenceGreedy(ReferenceController()),
}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_masks_and_the_protocol(make):
    controller = make()
    assert isinstance(controller, Controller)
    for seat in (0.0, 1.0):
        row = features(is_reviewer=seat, answer_stands=1.0, proposals=3.0)
        assert controller.speak_prob("proposer|x", row, MASKED) == 1.0
        assert 0.0 <= controller.speak_prob("proposer|x", row, FREE) <= 1.0
    before = controller.speak_prob("proposer|x", row, FREE)
    controller.update([])
    if not isinstance(controller, QLearningController):  # whose exploration ends with time
        assert controller.speak_prob("proposer|x", row, FREE) == before


@every_learner
def test_a_known_better_control_is_learned(make):
    learned = bandit(make(), WORTH)
    assert learned[-1] > 0.7
    assert learned[1] < 0.3
    mirrored = bandit(make(), {votes: values[::-1] for votes, values in WORTH.items()})
    assert mirrored[-1] < 0.3
    assert mirrored[1] > 0.7


@every_learner
def test_only_what_was_played_teaches(make):
    one, other = make(), make()
    for _ in range(3):
        batch = [decision(1, 1.0, votes=1), decision(0, -1.0, votes=-1), decision(0, 0.3, votes=1)]
        one.update(batch)
        other.update([replace(value, skip=99.0, speak=-99.0) for value in batch])
    for votes in (-1, 1):
        row = features(votes=votes)
        assert one.speak_prob("I", row, FREE) == other.speak_prob("I", row, FREE)
    other.update([decision(1, 5.0, votes=1)])
    assert one.speak_prob("I", features(votes=1), FREE) != other.speak_prob("I", features(votes=1), FREE)


@every_learner
@pytest.mark.parametrize(
    "bad",
    [
        decision(None, 1.0), decision(1, None), decision(1, math.nan), decision(2, 1.0), decision(1, 1.0, weight=0.0),
        decision(1, 1.0, weight=math.inf),
    ],
)  # fmt: skip
def test_decisions_that_were_not_played_are_refused(make, bad):
    with pytest.raises(ConfigError, match="'I'"):
        make().update([decision(1, 1.0), bad])


@every_learner
def test_training_on_a_game_is_deterministic_and_touches_no_global_generator(make, simulated):
    before = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()
    played = []
    for seed in (0, 0, 1):
        controllers = {seat.name: make() for seat in simulated.seats}
        fit_sampled(simulated, controllers, updates=3, episodes=32, seed=seed)
        played.append(speak_probs(simulated, policy_of_controllers(controllers)))
    assert (np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()) == before
    assert np.array_equal(played[0], played[1])
    assert not np.array_equal(played[0], played[2])


def test_learners_gain_on_a_simulated_team(simulated):
    """Against the exact figures of playing at random, always and at best: 0.290, 0.408 and 0.544."""
    best = best_policy(simulated).team_return
    assert evaluate(simulated, 1.0).team_return < best - 0.1
    q = {seat.name: QLearningController() for seat in simulated.seats}
    fit_sampled(simulated, q, updates=80, episodes=64, seed=0)
    greedy = {name: GreedyController(controller) for name, controller in q.items()}
    assert evaluate(simulated, policy_of_controllers(greedy)).team_return > best - 0.05
    gates = {seat.name: ReinforceController() for seat in simulated.seats}
    fit_sampled(simulated, gates, updates=80, episodes=128, seed=0)
    assert evaluate(simulated, policy_of_controllers(gates)).team_return > evaluate(simulated, 1.0).team_return + 0.02


# --- Q-learning -----------------------------------------------------------------------------------------------------


def test_q_learning_by_hand():
    learner = QLearningController(QLearningSettings(epsilon=0.5, epsilon_decay=0.5, min_epsilon=0.2))
    assert learner.speak_prob("I", features(), FREE) == 0.5  # nothing is known: both alike
    learner.update([decision(1, 1.0), decision(1, -0.5), decision(1, 0.7), decision(0, -1.0)])
    assert learner.q_values("I") == pytest.approx([-1.0, 1.2 / 3])  # 1/visits: the mean
    assert learner.epsilon == 0.25
    assert learner.speak_prob("I", features(), FREE) == pytest.approx(0.75 + 0.125)
    learner.update([decision(0, 3.0, weight=3.0)])  # counts as three visits
    assert learner.q_values("I")[0] == pytest.approx((-1.0 + 3 * 3.0) / 4)
    assert learner.epsilon == 0.2
    assert learner.speak_prob("I", features(), FREE) == pytest.approx(0.1)
    assert (learner.infosets, learner.q_values("J").tolist()) == (("I",), [0.0, 0.0])


def test_q_learning_with_a_constant_rate():
    learner = QLearningController(QLearningSettings(learning_rate=0.5, initial=1.0))
    learner.update([decision(1, 0.0), decision(1, 2.0)])
    assert learner.q_values("I") == pytest.approx([1.0, (1.0 * 0.5 + 0.0) * 0.5 + 1.0])
    weighted = QLearningController(QLearningSettings(learning_rate=0.5, initial=1.0))
    weighted.update([decision(1, 0.0, weight=2.0)])
    twice = QLearningController(QLearningSettings(learning_rate=0.5, initial=1.0))
    twice.update([decision(1, 0.0), decision(1, 0.0)])
    assert weighted.q_values("I") == pytest.approx(twice.q_values("I"))


def test_q_values_are_expected_returns_of_what_was_visited(simulated):
    """With the others frozen, Q(I, a) is the mean of U after (I, a): against the exact one."""
    learner = QLearningController(QLearningSettings(epsilon_decay=1.0))  # always at random
    controllers = {simulated.seats[0].name: learner, simulated.seats[1].name: FixedController(0.5)}
    fit_sampled(simulated, controllers, updates=20, episodes=2000, seed=0)
    at, off = control_values(simulated, 0.5), []
    for row, (seat, key) in enumerate(simulated.infosets):
        if seat == simulated.seats[0] and key in learner.infosets and at.infoset_reach[row] > 0.05:
            off.append(np.abs(learner.q_values(key) - at.infoset_values[row]).max())
    assert len(off) >= 2
    assert max(off) < 0.06  # 40,000 episodes: five standard errors of a set that one in twenty meets


# --- REINFORCE ------------------------------------------------------------------------------------------------------


def reinforce_batch(seed=0, n=12):
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.ones((n, 1)), rng.normal(size=(n, len(FEATURES)))], axis=1)
    return (
        rng.normal(size=1 + len(FEATURES)), rows, rng.integers(0, 2, n), rng.normal(size=n), rng.uniform(0.5, 2.0, n)
    )  # fmt: skip


def test_policy_gradient_against_finite_differences():
    theta, *batch = reinforce_batch()
    step, eye = 1e-6, np.eye(len(theta))
    slopes = [
        (log_likelihood(theta + step * e, *batch) - log_likelihood(theta - step * e, *batch)) / (2 * step) for e in eye
    ]
    assert policy_gradient(theta, *batch) == pytest.approx(slopes, abs=1e-8)


def test_policy_gradient_is_the_gradient_of_the_expected_return():
    """Summed over both controls with their chances, whatever the baseline."""
    theta, rows, *_ = reinforce_batch(seed=1, n=1)
    returns = np.array([0.3, -1.2])

    def expected(at):
        speak_chance = 1.0 / (1.0 + np.exp(-(rows @ at)[0]))
        return (1.0 - speak_chance) * returns[0] + speak_chance * returns[1]

    step, eye = 1e-6, np.eye(len(theta))
    slopes = [(expected(theta + step * e) - expected(theta - step * e)) / (2 * step) for e in eye]
    speak_chance = 1.0 / (1.0 + np.exp(-(rows @ theta)[0]))
    for baseline in (0.0, 0.7):
        mean = sum(
            chance * policy_gradient(theta, rows, np.array([a]), np.array([returns[a] - baseline]), np.ones(1))
            for a, chance in enumerate([1.0 - speak_chance, speak_chance])
        )
        assert mean == pytest.approx(slopes, abs=1e-8)


def test_reinforce_step_and_baseline_by_hand():
    gate = ReinforceController(ReinforceSettings(learning_rate=2.0, baseline_decay=0.5))
    gate.update([decision(1, 1.0, votes=4), decision(0, 0.0, votes=-4)])  # votes are scaled by 4: x = (1, +-1)
    # baseline 1/2; first: 1/2 (1 - 1/2)(1, 1); second: -1/2 (0 - 1/2)(1, -1); mean (1/4, 0); step 2
    assert gate.theta[0] == pytest.approx(0.5)
    assert gate.theta[1 + COLUMN["votes"]] == pytest.approx(0.0)
    assert gate.baseline == 0.5
    speaks = 1.0 / (1.0 + math.exp(-0.5))
    assert gate.speak_prob("anything", features(votes=4), FREE) == pytest.approx(speaks)
    gate.update([decision(1, 2.5, weight=3.0)])  # the old baseline is used, then moved
    assert gate.theta[0] == pytest.approx(0.5 + 2.0 * (2.5 - 0.5) * (1.0 - speaks))
    assert gate.baseline == pytest.approx(0.5 * 0.5 + 0.5 * 2.5)


# --- thresholds -----------------------------------------------------------------------------------------------------


def brute_force(tree, feature):
    """Try every pair of rules, one exact evaluation of the controller each."""
    seen = {role: set() for role in Role}
    for node in np.flatnonzero(tree.may_skip):
        row, role = tree.features[node], tree.seats[tree.node_seat[node]].role
        if row[COLUMN[THRESHOLD_FEATURES[feature]]]:
            seen[role].add(float(row[COLUMN[feature]]))
    rules = {}
    for role, values in seen.items():
        ordered = sorted(values)
        cuts = [-math.inf, *((a + b) / 2 for a, b in pairwise(ordered)), math.inf]
        rules[role] = [ThresholdRule(threshold=t, unknown=u) for t, u in product(cuts, (False, True))]
    best = -math.inf
    for proposer, reviewer in product(rules[Role.PROPOSER], rules[Role.REVIEWER]):
        controller = ThresholdController(feature, proposer=proposer, reviewer=reviewer)
        best = max(best, evaluate(tree, policy_of_controllers(everywhere(tree, controller))).team_return)
    return best


@pytest.mark.parametrize("feature", ["agreement", "p_right"])
def test_the_fitted_threshold_is_the_best_by_brute_force_simulated(simulated, feature):
    found = fit_threshold(simulated, feature)
    assert found.exhaustive
    assert found.team_return == pytest.approx(brute_force(simulated, feature), abs=1e-12)


@pytest.mark.parametrize("feature", ["agreement", "p_right", "mean_logprob"])
def test_the_fitted_threshold_is_the_best_by_brute_force_recorded(feature):
    for first in (0, 4, 40):
        game = Game("recorded:arithmetic-test", rewards=OutcomeRewards(costs=Costs(per_call=0.02)))
        tree = build_tree(game, [question for _, question in game.script.worlds()[first : first + 3]])
        found = fit_threshold(tree, feature)
        assert found.exhaustive
        assert found.team_return == pytest.approx(brute_force(tree, feature), abs=1e-12)
        played = evaluate(tree, policy_of_controllers(everywhere(tree, found.controller))).team_return
        assert played == pytest.approx(found.team_return, abs=1e-12)
        if (feature, first) == ("p_right", 4):  # reviews what was not reviewed, and again what was doubted
            assert found.controller.reviewer.unknown
            assert math.isfinite(found.controller.reviewer.threshold)


@pytest.mark.parametrize("feature", THRESHOLD_FEATURES)
def test_the_fitted_return_is_what_the_controller_plays(recorded, feature):
    found = fit_threshold(recorded, feature, max_cuts=8)
    exact = evaluate(recorded, policy_of_controllers(everywhere(recorded, found.controller))).team_return
    assert found.team_return == pytest.approx(exact, abs=1e-12)
    for fixed in (0.0, 1.0):  # never and always are among the rules
        assert found.team_return >= evaluate(recorded, fixed).team_return - 1e-12
    assert fit_threshold(recorded, feature, max_cuts=10_000).team_return >= found.team_return - 1e-12


def test_p_right_pays_on_a_recording(recorded):
    """Where verdicts are informative the fitted rule beats both trivial ones, and the cut lies inside."""
    found = fit_threshold(recorded, "p_right")
    assert found.team_return > max(evaluate(recorded, p).team_return for p in (0.0, 0.5, 1.0)) + 0.02
    assert 0.0 < found.controller.proposer.threshold < 1.0


def test_a_given_rule_is_kept(recorded):
    for rule in (ALWAYS, NEVER):
        found = fit_threshold(recorded, "agreement", reviewer=rule)
        assert found.controller.reviewer == rule
        assert found.pairs < fit_threshold(recorded, "agreement").pairs
        assert found.team_return <= fit_threshold(recorded, "agreement").team_return + 1e-12
    both = fit_threshold(recorded, "agreement", proposer=ALWAYS, reviewer=ALWAYS)
    assert both.team_return == pytest.approx(evaluate(recorded, 1.0).team_return, abs=1e-12)


def test_quantile_cuts_are_said_to_be_incomplete(recorded):
    few = fit_threshold(recorded, "p_right", max_cuts=3)
    assert not few.exhaustive
    assert fit_threshold(recorded, "agreement").exhaustive


def test_threshold_rules_and_flags():
    controller = ThresholdController(
        "p_right",
        proposer=ThresholdRule(threshold=0.5, unknown=True),
        reviewer=ThresholdRule(threshold=0.25, unknown=False),
    )

    def plays(**given):
        return controller.speak_prob("I", features(**given), FREE)

    assert plays(p_right=0.4, p_right_known=1) == 1.0
    assert plays(p_right=0.5, p_right_known=1) == 0.0  # below, not at
    assert plays(p_right=0.9, p_right_known=0) == 1.0  # unknown: the value is meaningless
    assert plays(p_right=0.4, p_right_known=1, is_reviewer=1) == 0.0
    assert plays(p_right=0.2, p_right_known=1, is_reviewer=1) == 1.0
    assert plays(is_reviewer=1) == 0.0
    confident = ThresholdController("mean_logprob", proposer=ThresholdRule(threshold=-0.5, unknown=False))
    assert confident.speak_prob("I", features(mean_logprob=-0.6, logprob_known=1), FREE) == 1.0
    assert confident.speak_prob("I", features(mean_logprob=-0.6), FREE) == 0.0
    with pytest.raises(UnknownNameError, match="'agreement'"):
        ThresholdController("agreements", proposer=ALWAYS)
    with pytest.raises(ConfigError, match="nan"):
        ThresholdRule(threshold=math.nan, unknown=True)


# --- propose, review, revise ----------------------------------------------------------------------------------------


def transcript(*rounds, controller=None, **settings):
    """Let the protocol decide on a toy game of scripted texts; return who spoke, a dot for a silent turn."""
    controller = controller or make_fixed("propose_review_revise")
    game = toy_game(**settings)
    state, out = game.start(game.task.question(7)), []
    for texts in rounds:
        actions, said = {}, ""
        for seat, text in zip(game.acting(state), (texts,) if isinstance(texts, str) else texts, strict=True):
            row = feature_vector(game.rules, state, seat)
            speaks = controller.speak_prob(game.infoset(state, seat), row, game.mask(state, seat))
            actions[seat] = speak(text) if speaks else SKIP
            said += seat.role.value[0].upper() if speaks else "."
        state = game.advance(state, actions)
        out.append(said)
    assert state.over
    return " ".join(out), state.answer


def test_propose_review_revise():
    assert transcript("1", "WRONG", "7", "WRONG", "2", rounds=5) == ("P R P . .", "7")
    assert transcript("7", "RIGHT", "1", "WRONG", "2", rounds=5) == ("P R . . .", "7")
    assert transcript("1", "WRONG", "1", "WRONG", "2", rounds=5) == ("P R P . .", "1")  # one revision, the same answer
    assert transcript("1", "WRONG", rounds=2) == ("P .", "1")  # nobody could revise
    assert transcript("?", "WRONG", "1", "WRONG", "7", rounds=5) == ("P . P R P", "7")  # nothing valid to review yet
    assert transcript("1", "WRONG", "?", "WRONG", "7", rounds=5) == ("P R P . P", "7")  # an unparsable revision
    assert transcript("1", "hm", "7", "WRONG", "7", rounds=5) == ("P R . R P", "7")  # an unparsable verdict
    assert transcript("1", "2", "3", rounds=3, reviewers=0) == ("P . .", "1")


def test_propose_review_revise_with_several_seats():
    team = {"proposers": 2, "reviewers": 2, "rounds": 5}
    assert transcript("1", "WRONG", "7", "WRONG", "2", **team) == ("P R P . .", "7")
    at_once = ("1", "1"), ("WRONG", "WRONG"), ("7", "7"), ("WRONG", "WRONG"), ("2", "2")
    told = ProposeReviewRevise(first_proposals=2)
    assert transcript(*at_once, controller=told, schedule="simultaneous", **team) == ("PP RR PP .. ..", "7")
    assert transcript(*at_once, schedule="simultaneous", **team) == ("PP .. .. .. ..", "1")  # takes them for a revision


def test_propose_review_revise_on_a_recording(recorded):
    """At most three utterances a question, and the exact leaves are those of the rule as it is written."""
    figures = evaluate(recorded, policy_of_controllers(everywhere(recorded, make_fixed("propose_review_revise"))))
    assert 2.0 <= figures.calls_per_question <= 3.0
    assert figures.team_return > evaluate(recorded, 0.0).team_return


def test_fixed_controllers_by_name():
    row = features(answer_stands=1)
    for name, prob in {"always": 1.0, "never": 0.0, "random": 0.5}.items():
        assert make_fixed(name).speak_prob("I", row, FREE) == prob
    assert isinstance(make_fixed("propose_review_revise"), ProposeReviewRevise)
    with pytest.raises(UnknownNameError, match="'propose_review_revise'"):
        make_fixed("propose-review-revise")
    with pytest.raises(ConfigError, match="features"):
        make_fixed("propose_review_revise").speak_prob("I", np.zeros(0, dtype=np.float32), FREE)
    with pytest.raises(ConfigError, match="first_proposals"):
        ProposeReviewRevise(0)


def test_greedy_plays_the_likelier_control_and_speaks_in_a_tie():
    for prob, plays in ((0.49, 0.0), (0.5, 1.0), (0.51, 1.0)):
        assert GreedyController(FixedController(prob)).speak_prob("I", features(), FREE) == plays


# --- the reference --------------------------------------------------------------------------------------------------


def test_reference_a_keep_never_teaches_but_counts():  # C1
    learner, ours = ReferenceController(), TabularController()
    keep = decision(0, skip=-1.0, speak=1.0, infoset=PROPOSER)
    for controller in (learner, ours):
        controller.update([keep])
    assert learner.regret(PROPOSER).tolist() == [0.0, 0.0]
    assert learner.strategy_sum(PROPOSER).tolist() == [0.5, 0.5]
    assert ours.current_strategy(PROPOSER).tolist() == [0.0, 1.0]
    learner.update([replace(keep, control=1)])  # after a refresh both answers are looked at
    assert learner.regret(PROPOSER).tolist() == [-1.0, 1.0]
    assert learner.strategy_sum(PROPOSER).tolist() == [1.0, 1.0]
    assert learner.current_strategy(PROPOSER).tolist() == [0.0, 1.0]


def test_reference_keep_absorbs():  # C1
    learner, ours = ReferenceController(), TabularController()
    unlucky = decision(1, skip=1.0, speak=-1.0, infoset=PROPOSER)
    for controller in (learner, ours):
        controller.update([unlucky])  # from here on it keeps
        for _ in range(50):  # and would have to learn that a refresh is better
            controller.update([decision(0, skip=-1.0, speak=1.0, infoset=PROPOSER)])
    assert learner.speak_prob(PROPOSER, features(), FREE) == 0.0
    assert learner.average_strategy(PROPOSER)[0] > 0.98
    assert ours.speak_prob(PROPOSER, features(), FREE) > 0.9


def test_reference_values_a_reviewer_as_it_is_told():  # C2 lies in the values
    learner = ReferenceController()
    learner.update([decision(0, skip=-1.0, speak=1.0, infoset=REVIEWER)])  # "WRONG" on a wrong answer, unheard
    assert learner.regret(REVIEWER).tolist() == [-1.0, 1.0]
    assert learner.speak_prob(REVIEWER, features(), FREE) == 1.0


def test_reference_updates_visit_by_visit():
    learner = ReferenceController()
    learner.update([decision(1, skip=0.0, speak=1.0, infoset=PROPOSER)] * 2)
    assert learner.regret(PROPOSER).tolist() == [-1.5, 0.5]  # (-1/2, 1/2), then (0, 1) played: (-1, 0)
    assert learner.strategy_sum(PROPOSER).tolist() == [0.5, 1.5]


def test_reference_greedy_plays_index_0_where_it_has_seen_nothing():  # C17
    learner = ReferenceController()
    greedy = ReferenceGreedy(learner)
    assert learner.speak_prob(PROPOSER, features(), FREE) == 0.5
    assert greedy.speak_prob(PROPOSER, features(), FREE) == 0.0
    learner.update([decision(1, skip=0.0, speak=1.0, infoset=PROPOSER)] * 2)
    assert greedy.speak_prob(PROPOSER, features(), FREE) == 1.0


@pytest.mark.parametrize("abstraction", ABSTRACTIONS)
def test_reference_reads_the_role_off_every_key(abstraction):
    states = play_script(toy_game(rounds=3), 1, speak("2"), speak("WRONG"))
    rules = toy_game(rounds=3).rules
    for seat, regret in ((Seat(Role.PROPOSER, 0), 0.0), (Seat(Role.REVIEWER, 0), 1.0)):
        learner, key = ReferenceController(), infoset_key(rules, states[-1], seat, abstraction)
        learner.update([decision(0, skip=0.0, speak=2.0, infoset=key)])
        assert learner.regret(key)[1] == regret
    with pytest.raises(ConfigError, match="role"):
        ReferenceController().update([decision(0)])
    with pytest.raises(ConfigError, match="played"):
        ReferenceController().update([decision(None, infoset=PROPOSER)])


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "bad"),
    [
        (QLearningSettings, {"learning_rate": 0.0}),
        (QLearningSettings, {"epsilon": 1.5}),
        (QLearningSettings, {"epsilon": 0.01}),
        (QLearningSettings, {"epsilon_decay": 0.0}),
        (QLearningSettings, {"initial": math.nan}),
        (ReinforceSettings, {"learning_rate": -1.0}),
        (ReinforceSettings, {"baseline_decay": 1.0}),
    ],
)
def test_settings_out_of_range(settings, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        settings(**bad)


def test_leaf_reach_of_a_deterministic_policy_is_what_thresholds_count(recorded):
    """The shortcut of the search (kept leaves) against the general forward pass, for one rule."""
    controller = ThresholdController("p_right", proposer=ThresholdRule(threshold=0.3, unknown=True), reviewer=ALWAYS)
    reach = leaf_reach(recorded, speak_probs(recorded, policy_of_controllers(everywhere(recorded, controller))))
    given = fit_threshold(recorded, "p_right", proposer=controller.proposer, reviewer=ALWAYS)
    assert given.team_return == pytest.approx(float(reach @ recorded.leaf_return), abs=1e-12)
