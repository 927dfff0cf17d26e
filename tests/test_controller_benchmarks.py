"""The scripts that compare controllers run, and their arithmetic is right."""

import pytest

from benchmarks import comparison, controllers


def test_the_tables_of_controllers(monkeypatch, capsys):
    monkeypatch.setattr(controllers, "STARTS", 2)
    monkeypatch.setattr(controllers, "ITERATIONS", 5)
    assert controllers.update_time(2)["ratio"] > 0
    result = controllers.on_recordings("simulated:default", "simulated:weak-judge", "paper", 0.5)
    assert len(result["fits"]) == len(result["fits_on_test"]) == 5
    assert all(row["gap"] >= -1e-9 for row in result["fits"])
    assert result["equilibria"][0]["returns"][0] == pytest.approx(result["optimum"][0], abs=1e-4)
    controllers.print_recording(result)
    assert "pure agent-form equilibria" in capsys.readouterr().out
    teams = controllers.on_simulated_teams(1, "round")
    assert all(row["gap_worst"] >= -1e-9 for row in teams["rows"])


def test_matched_tokens_are_interpolated_on_the_envelope():
    points = [{"tokens": 10, "accuracy": 0.5}, {"tokens": 30, "accuracy": 0.7}, {"tokens": 20, "accuracy": 0.4}]
    assert comparison.matched(points, 20) == pytest.approx(0.5)  # a worse point with more tokens is not taken
    assert comparison.matched(points, 25) == pytest.approx(0.6)
    assert comparison.matched(points, 31) is None
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


def test_the_plot(tmp_path):
    points = [{"tokens": 10, "accuracy": 0.5}, {"tokens": 30, "accuracy": 0.7}]
    comparison.plot({"a": points, "b": points[:1]}, points, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 5_000
