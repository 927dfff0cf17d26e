"""How well drifting values were followed: dynamic and windowed regret by hand and by their definitions."""

import numpy as np
import pytest

from tracer_agents.controllers.storage import load_controllers, save_controllers
from tracer_agents.controllers.table import TabularController
from tracer_agents.drift import cotraining_regret, dynamic_regret, increments_of_history, windowed_regret
from tracer_agents.fit import fit_exact
from tracer_env import Game
from tracer_env.errors import ConfigError
from tracer_env.exact import build_tree


def learn(learner, **values):
    """Make one update with (skip, speak) of some sets."""
    learner.apply([learner.increments_of(list(values), np.array(list(values.values())), np.ones(len(values)))])


def test_by_hand():
    learner = TabularController()
    learn(learner, I=(0.0, 1.0))  # r = (-1/2, 1/2), then SPEAK
    learn(learner, I=(1.0, 0.0), J=(0.0, 2.0))  # r = (1, 0) and, from the default, (-1, 1)
    learn(learner, J=(0.0, 1.0))  # SPEAK in J: r = (-1, 0)
    increments = increments_of_history(learner.history)
    assert increments == pytest.approx(np.array([[[-0.5, 0.5], [0, 0]], [[1, 0], [-1, 1]], [[0, 0], [-1, 0]]]))
    assert dynamic_regret(increments) == pytest.approx([1.5, 1.0])
    assert windowed_regret(increments, 1) == pytest.approx([1.0, 1.0])
    assert windowed_regret(increments, 2) == pytest.approx([1.0, 1.0])
    assert windowed_regret(increments, 3) == pytest.approx([0.5, 1.0])
    assert windowed_regret(increments, 9) == pytest.approx([0.5, 1.0])
    figures = cotraining_regret({"proposer_0": learner}, window=1)
    assert figures == pytest.approx(
        {"external": 1.5 / 4, "dynamic": 2.5 / 4, "windowed": 2.0 / (4 / 3), "window": 1, "updates": 3, "decisions": 4}
    )


@pytest.mark.parametrize("seed", range(5))
def test_definitions_on_random_play(seed):
    rng, learner = np.random.default_rng(seed), TabularController("predictive", default_speak=0.3)
    for _ in range(12):
        learn(learner, **{key: rng.normal(size=2) for key in rng.permutation(list("abcd"))[: rng.integers(1, 5)]})
    increments = increments_of_history(learner.history, 0.3)
    assert increments.sum(axis=0) == pytest.approx(learner.column("external_regret"), abs=1e-12)
    assert windowed_regret(increments, 12) == pytest.approx(increments.sum(axis=0).max(axis=1), abs=1e-12)
    for window in (1, 3, 5):
        stretches = [increments[t : t + window].sum(axis=0).max(axis=1) for t in range(12 - window + 1)]
        assert windowed_regret(increments, window) == pytest.approx(np.max(stretches, axis=0), abs=1e-12)
        assert (windowed_regret(increments, window) <= dynamic_regret(increments) + 1e-12).all()
    assert (dynamic_regret(increments) >= increments.sum(axis=0).max(axis=1) - 1e-12).all()


@pytest.mark.parametrize("alternating", [False, True])
def test_a_fit_keeps_the_same_history(alternating):
    fit = fit_exact(build_tree(Game("simulated:default")), iterations=20, alternating=alternating)
    increments = increments_of_history(fit.history)
    assert increments.sum(axis=0) == pytest.approx(fit.table.columns["external_regret"], abs=1e-12)


def test_history_and_staleness_survive_a_file(tmp_path):
    learner = TabularController("windowed")
    old = learner.increments_of(["I"], np.array([[0.0, 1.0]]), np.ones(1))
    learn(learner, I=(0.0, 1.0))
    learner.apply([old], asynchronous=True)
    save_controllers(tmp_path / "c.npz", {"proposer_0": learner, "reviewer_0": TabularController("windowed")})
    again = load_controllers(tmp_path / "c.npz")
    assert (again["proposer_0"].stale, again["reviewer_0"].stale) == (1, 0)
    assert np.array_equal(again["proposer_0"].column("recent"), learner.column("recent"))
    assert cotraining_regret(again) == cotraining_regret({"proposer_0": learner})


def test_bad_windows_and_no_play():
    with pytest.raises(ConfigError, match="at least 1"):
        windowed_regret(np.zeros((3, 1, 2)), 0)
    figures = cotraining_regret({"proposer_0": TabularController()})
    assert (figures["dynamic"], figures["windowed"], figures["updates"]) == (0.0, 0.0, 0.0)
