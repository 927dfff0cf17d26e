"""Regret matching as mathematics: by hand, its bound, its limits, and what is played at unseen sets."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer_agents import ControlValues
from tracer_agents.controllers import table
from tracer_agents.controllers.fixed import make_fixed
from tracer_agents.controllers.minimisers import RegretMatching, regret_matching_policy
from tracer_agents.controllers.storage import load_controllers, save_controllers
from tracer_agents.controllers.table import FrozenController, TabularController
from tracer_env.errors import ConfigError, UnknownNameError

NO_FEATURES = np.zeros(0, dtype=np.float32)
FREE, MASKED = (True, True), (False, True)


def values(skip, speak, infoset="I", weight=1.0):
    return ControlValues(infoset=infoset, skip=skip, speak=speak, weight=weight)


def test_uniform_before_any_update():
    learner = TabularController()
    assert learner.speak_prob("anything", NO_FEATURES, FREE) == 0.5
    assert learner.average_strategy("anything").tolist() == [0.5, 0.5]
    assert learner.bound("anything") == 0.0


def test_hand_computed_sequence():
    learner = TabularController()
    learner.update([values(skip=0.0, speak=1.0)])  # s = (1/2, 1/2), value 1/2, r = (-1/2, 1/2)
    assert learner.column("regret").tolist() == [[-0.5, 0.5]]
    assert learner.current_strategy("I").tolist() == [0.0, 1.0]
    learner.update([values(skip=1.0, speak=0.0)])  # s = (0, 1), value 0, r = (1, 0)
    assert learner.column("regret").tolist() == [[0.5, 0.5]]
    learner.update([values(skip=2.0, speak=0.0)])  # s = (1/2, 1/2), value 1, r = (1, -1)
    assert learner.column("regret").tolist() == [[1.5, -0.5]]
    assert learner.current_strategy("I").tolist() == [1.0, 0.0]
    assert learner.average_strategy("I").tolist() == [1 / 3, 2 / 3]
    assert learner.bound("I") == pytest.approx(np.sqrt(0.5 + 1.0 + 2.0))
    assert learner.column("external_regret").tolist() == [[1.5, -0.5]]
    assert (learner.column("updates").tolist(), learner.column("visits").tolist()) == ([3.0], [3.0])


def test_a_batch_under_one_strategy_is_one_update():
    batch, weighted = TabularController(), TabularController()
    batch.update([values(0.0, 1.0), values(0.0, 1.0)])
    weighted.update([values(0.0, 1.0, weight=2.0)])
    assert batch.column("regret").tolist() == weighted.column("regret").tolist() == [[-1.0, 1.0]]
    assert batch.column("updates").tolist() == [1.0]
    assert batch.column("visits").tolist() == [2.0]


@pytest.mark.parametrize("sets", [3, 2**16 + 10])
def test_sums_of_many_sets_are_those_of_each(sets):
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(sets, size=200), np.array([0, sets - 1, 0, sets - 1])])
    values = rng.normal(size=(204, 3))
    found, sums, counts = table._exact_sums(rows, values)
    assert found.tolist() == sorted(set(rows.tolist()))
    for row, total, count in zip(found, sums, counts, strict=True):
        assert count == (rows == row).sum()
        assert total.tolist() == [math.fsum(column) for column in values[rows == row].T]


def test_a_kept_answer_teaches_too():  # flaw C1 of the public code: keep and refresh get one value, so regret is 0
    learner = TabularController()
    learner.update([values(skip=1.0, speak=-1.0)])
    assert learner.current_strategy("I").tolist() == [1.0, 0.0]


@given(st.lists(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=4), max_size=60))
@settings(max_examples=200)
def test_external_regret_never_exceeds_its_bound(updates):
    learner = TabularController()
    total = np.zeros(2)  # by the definition: what each control would have earned, less what was earned
    for batch in updates:
        strategy = learner.current_strategy("I")
        for skip, speak in batch:
            total += np.array([skip, speak]) - strategy @ np.array([skip, speak])
        learner.update([values(skip, speak) for skip, speak in batch])
    if updates:
        assert learner.column("external_regret")[0] == pytest.approx(total, abs=1e-9)
        assert total.max() <= learner.bound("I") + 1e-9
        assert learner.average_strategy("I").sum() == pytest.approx(1.0)


def test_average_regret_vanishes_against_an_adversary():
    learner, rng = TabularController(), np.random.default_rng(0)
    for _ in range(4000):
        speak = learner.current_strategy("I")[1]
        learner.update([values(skip=float(speak > 0.5), speak=float(speak <= 0.5) * rng.random())])
    assert learner.column("external_regret").max() / 4000 < 0.03


def test_learns_the_better_control_of_each_set():
    learner, rng = TabularController(), np.random.default_rng(1)
    for _ in range(200):
        noise = rng.normal(size=4)
        learner.update([values(noise[0], 0.4 + noise[1], "speak here"), values(0.4 + noise[2], noise[3], "skip here")])
    greedy = FrozenController(learner, "greedy")
    assert greedy.speak_prob("speak here", NO_FEATURES, FREE) == 1.0
    assert greedy.speak_prob("skip here", NO_FEATURES, FREE) == 0.0


def test_greedy_play_at_an_unseen_set_is_the_declared_default():  # flaw C17: the public code picks control 0
    assert FrozenController(TabularController(), "greedy").speak_prob("unseen", NO_FEATURES, FREE) == 0.5


def test_masks_are_respected():
    learner = TabularController()
    learner.update([values(skip=1.0, speak=0.0)])
    for controller in (learner, FrozenController(learner), make_fixed("never"), make_fixed("random")):
        assert controller.speak_prob("I", NO_FEATURES, MASKED) == 1.0
    assert make_fixed("never").speak_prob("I", NO_FEATURES, FREE) == 0.0


def test_frozen_controllers_do_not_learn():
    learner = TabularController()
    learner.update([values(skip=1.0, speak=0.0)])
    frozen = FrozenController(learner, "last")
    frozen.update([values(skip=0.0, speak=9.0)])
    assert frozen.speak_prob("I", NO_FEATURES, FREE) == 0.0


def test_save_and_load_are_exact_and_without_pickle(tmp_path):
    one, two, rng = TabularController(), TabularController(), np.random.default_rng(2)
    for k in range(30):
        one.update([values(rng.normal(), rng.normal(), f"set {k % 3}|with/slash")])
    save_controllers(tmp_path / "controllers.npz", {"proposer_0": one, "reviewer_0": two})
    with np.load(tmp_path / "controllers.npz", allow_pickle=False) as file:
        assert set(file) >= {
            "keys", "regret", "strategy_sum", "external_regret", "increment_sq", "visits", "updates"
        }  # fmt: skip
    loaded = load_controllers(tmp_path / "controllers.npz", ["proposer_0", "reviewer_0"])
    assert loaded["proposer_0"].infosets == one.infosets
    assert loaded["reviewer_0"].infosets == ()
    for name in ("regret", "strategy_sum", "external_regret", "increment_sq", "visits", "updates"):
        assert np.array_equal(loaded["proposer_0"].column(name), one.column(name))
    with pytest.raises(ConfigError, match="proposer_0"):
        load_controllers(tmp_path / "controllers.npz", ["reviewer_0"])


@pytest.mark.parametrize("bad", [values(np.nan, 0.0), values(0.0, np.inf), values(0.0, 0.0, weight=0.0)])
def test_values_that_are_not_numbers_are_refused(bad):
    with pytest.raises(ConfigError, match="'I'"):
        TabularController().update([bad])


def test_bad_arguments():
    with pytest.raises(ValueError, match="one entry for each control"):
        regret_matching_policy(np.array([np.nan, 0.0]))
    with pytest.raises(UnknownNameError, match="'always'"):
        make_fixed("allways")
    with pytest.raises(ConfigError, match="mode"):
        FrozenController(TabularController(), "best")


def test_the_history_is_saved_as_it_was(tmp_path):
    one, two, rng = TabularController("hedge"), TabularController("hedge"), np.random.default_rng(3)
    for k in range(5):
        one.update([values(rng.normal(), rng.normal(), f"set {k // 2}")])
    two.update([])
    two.update([values(1.0, 0.0)])
    save_controllers(tmp_path / "c.npz", {"proposer_0": one, "reviewer_0": two})
    loaded = load_controllers(tmp_path / "c.npz", ["reviewer_0", "proposer_0", "reviewer_1"])
    assert loaded["reviewer_1"].infosets == ()
    for seat, saved in {"proposer_0": one, "reviewer_0": two}.items():
        for name, history in saved.history.items():
            assert [row.tolist() for row in loaded[seat].history[name]] == [row.tolist() for row in history]
    assert [len(row) for row in one.history["profiles"]] == [0, 1, 1, 2, 2]
    assert [len(row) for row in one.history["regret"]] == [1, 1, 2, 2, 3]
    assert one.history["regret"][-1] == pytest.approx(one.column("external_regret").max(axis=1))
    assert one.history["bound"][-1] == pytest.approx([one.bound(key) for key in one.infosets])


def test_a_file_holds_one_minimiser_of_ours(tmp_path):
    with pytest.raises(ConfigError, match="one minimiser"):
        save_controllers(tmp_path / "c.npz", {"a": TabularController("hedge"), "b": TabularController()})

    class Own(RegretMatching):
        name = "own"

    with pytest.raises(ConfigError, match="'own' is none of"):
        save_controllers(tmp_path / "c.npz", {"a": TabularController(Own())})
