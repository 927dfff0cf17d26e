"""The scripts that compare controllers run, and their arithmetic is right."""

import numpy as np
import pytest

from benchmarks import comparison, controllers, voting
from tracer_env import Costs, Game, OutcomeRewards
from tracer_env.exact import build_tree
from tracer_env.types import Ballot


def test_the_tables_of_controllers(monkeypatch, capsys):
    monkeypatch.setattr(controllers, "STARTS", 2)
    monkeypatch.setattr(controllers, "ITERATIONS", 5)
    assert controllers.update_time(2)["ratio"] > 0
    result = controllers.on_recordings("simulated:default", "simulated:weak-judge", "paper", 0.5)
    assert len(result["fits"]) == len(result["fits_on_test"]) == 5
    assert all(row["gap"] >= -1e-9 for row in result["fits"])
    assert result["equilibria"][0]["returns"][0] == pytest.approx(result["optimum"][0], abs=1e-4)
    controllers.print_recording(result)
    printed = capsys.readouterr().out
    assert "pure agent-form equilibria" in printed
    assert "the best fixed protocol of 4, chosen on train: propose_review_revise" in printed
    assert max(on_train for on_train, _ in result["fixed"].values()) <= result["optimum"][0] + 1e-9
    teams = controllers.on_simulated_teams(1, "round")
    assert all(row["gap_worst"] >= -1e-9 for row in teams["rows"])


def test_how_many_starts_are_needed(monkeypatch):
    gaps = np.full((2, 20), 0.5)
    gaps[0, 3], gaps[0, 9], gaps[1, 12] = 0.2, 0.0, 0.005  # of team, start
    teams = iter(gaps)
    monkeypatch.setattr(controllers, "best_start", lambda tree, **_: (None, (1.0 - next(teams)).tolist()))
    monkeypatch.setattr(controllers, "best_policy", lambda tree: type("Best", (), {"team_return": 1.0}))
    few, many = controllers.starts_needed(2, "paper", most=20)
    assert (few["starts"], few["groups"], many["starts"], many["groups"]) == (8, 2, 16, 1)
    assert few["gap_mean"] == pytest.approx((0.2 + 0.5 + 0.0 + 0.005) / 4)
    assert (few["gap_worst"], many["gap_worst"]) == (0.5, pytest.approx(0.005))
    assert few["within_0.01"] == [0.0, 1.0]
    assert many["gap_mean"] == pytest.approx(0.0025)


def test_matched_tokens_are_interpolated_on_the_envelope():
    points = [{"tokens": 10, "accuracy": 0.5}, {"tokens": 30, "accuracy": 0.7}, {"tokens": 20, "accuracy": 0.4}]
    assert comparison.matched(points, 20) == pytest.approx(0.5)  # a worse point with more tokens is not taken
    assert comparison.matched(points, 25) == pytest.approx(0.6)
    assert comparison.matched(points, 31) == pytest.approx(0.7)  # a budget may be left unspent
    assert comparison.matched(points, 9) is None


def test_voting_on_the_pool():
    one, three = comparison.self_consistency("recorded:arithmetic-test", (1, 3))
    assert one["accuracy"] < three["accuracy"] < 0.65
    assert three["tokens"] == pytest.approx(3 * one["tokens"])


@pytest.mark.parametrize("name", ["best policy (paper)", "regret_matching", "Q-learning", "threshold on p_right"])
def test_learners_fit_and_play_elsewhere(name, monkeypatch):
    from tracer_env import Game
    from tracer_env.exact import build_tree, evaluate

    monkeypatch.setattr(comparison, "UPDATES", 3)
    monkeypatch.setattr(comparison, "EPISODES", 16)
    abstraction, fit = comparison.LEARNERS[name]
    fitted, other = (
        build_tree(Game(f"simulated:{team}", abstraction=abstraction)) for team in ("default", "good-judge")
    )
    assert -1.0 <= evaluate(other, fit(fitted, 0)(other)).team_return <= 1.0


def test_q_learning_is_deployed_greedily(monkeypatch):
    monkeypatch.setattr(comparison, "UPDATES", 3)
    monkeypatch.setattr(comparison, "EPISODES", 16)
    tree = controllers.tree_of("simulated:default", 0.5, "paper")
    assert set(comparison.LEARNERS["Q-learning"][1](tree, 0)(tree)) == {0.0, 1.0}


@pytest.fixture(scope="module")
def ballots():
    """The first two questions of the ballot's test recording, four worlds each: (game, weights, trees by weights)."""
    game = Game(voting.TEST, abstraction="ballot")
    fitted, trees = Ballot(), {}
    for method in controllers.voting_methods(game.rules, fitted):
        rewards = OutcomeRewards(costs=Costs(per_1k_tokens=voting.COST))
        if method.ballot not in trees:
            other = Game(game.task, abstraction="ballot", ballot=method.ballot, rewards=rewards)
            trees[method.ballot] = build_tree(other, [other.task.question(w) for w in range(8)])
    return game, fitted, trees


def test_voting_methods_on_two_questions_by_hand(ballots):
    game, fitted, trees = ballots
    figures = voting.measure_methods(voting.TEST, voting.COST, game.rules, fitted, dict(trees))
    pool, each = game.task.recording.proposals, game.task.recording.manifest["proposals"]
    rows = [q * each + 4 * replicate for q in range(2) for replicate in range(4)]  # the first of each world's four
    one = figures["self_consistency_1"]
    assert all(pool.answer[row] is not None for row in rows)
    assert one.world_accuracy.tolist() == [float(pool.correct[row] == 1) for row in rows]
    assert one.world_tokens.tolist() == [float(pool.tokens_out[row]) for row in rows]
    assert one.team_return == pytest.approx(2 * one.accuracy - 1 - voting.COST * one.tokens_per_question / 1000)
    assert len(figures) == 31


def test_intervals_of_voting_draw_questions_and_pair_them(ballots, monkeypatch, capsys):
    game, fitted, trees = ballots
    assert voting.with_interval(np.repeat([0.0, 1.0], 4), 4) == (0.5, 0.0, 1.0)  # both draws are the same in 1 of 4
    assert voting.with_interval(np.repeat([0.0, 1.0], 4), 1)[1] > 0.0
    monkeypatch.setattr(voting, "STARTS", 2)
    monkeypatch.setattr(voting, "ITERATIONS", 5)
    tree = trees[fitted]
    figures = voting.measure_methods(voting.TEST, voting.COST, game.rules, fitted, dict(trees))
    figures |= voting.fitted_policies({0.5: tree}, tree)
    best = figures["policy_0.5"]
    rows = [voting.row(name, mine, best, 4) for name, mine in figures.items()]
    assert rows[-1]["accuracy_behind"] == rows[-1]["return_behind"] == (0.0, 0.0, 0.0)
    assert rows[0]["return_behind"][0] == pytest.approx(best.team_return - figures["self_consistency_1"].team_return)
    curve = voting.curve_of("adaptive_self_consistency", rows)
    assert curve[0]["tokens"] == rows[0]["tokens"][0]
    assert [len(voting.curve_of(family, rows)) for family in voting.FAMILIES] == [4, 7, 4, 19, 1]
    voting.print_rows(rows, "policy_0.5")
    voting.print_matched(rows)
    assert capsys.readouterr().out.count("policy") >= 3


def test_the_plot(tmp_path):
    points = [{"tokens": 10, "accuracy": 0.5}, {"tokens": 30, "accuracy": 0.7}]
    comparison.plot({"a": points, "b": points[:1]}, points, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 5_000
