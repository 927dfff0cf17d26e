"""The script that measures speed runs; no test here looks at a time."""

import pytest

from benchmarks import performance

TINY = 0.002


def test_every_table_is_made():
    lines = performance.speed_table(TINY, 1)
    for row in ("AEC, ready texts", "recorded game, AEC", "recorded game, parallel", "evaluate", "sample_episodes"):
        assert any(line.startswith(f"| {row}") for line in lines)
    assert any(line.startswith("`import tracer_env`") for line in lines)
    assert any(line.startswith("| 8 |") for line in performance.rounds_table(TINY, 1, (5, 8, 16)))
    assert performance.parts_table(TINY, 1)[-1].startswith("| together |")


def test_libraries_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(performance, "find_spec", lambda name: None)
    lines = performance.speed_table(TINY, 1)
    skipped = [line for line in lines if line.startswith("Skipped")]
    assert len(skipped) == 2
    assert all("[bench]" in line for line in skipped)
    assert not any(line.startswith(("| tic-tac-toe", "| Iterated")) for line in lines)


def test_steps_of_ended_agents_are_told_apart():
    env = performance.tracer_env.raw_env(performance.ListTask(3))
    speed = performance.play_aec(env, performance.ready_actions(8), 7)
    assert speed.live_per_s / speed.per_s == pytest.approx(5 / 7)  # five rounds, two agents
