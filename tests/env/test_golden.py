"""Golden transcripts: seeded episodes with scripted texts, stored as readable text and compared line by line.

Any change of the game's dynamics or wording shows up here as a text difference. Regenerate on purpose with
``python tests/env/test_golden.py``.
"""

from pathlib import Path

import numpy as np
import pytest

import tracer_env

GOLDEN = Path(__file__).parents[1] / "golden"
GAMES = {
    "default": {},
    "two_bundles": {"proposers": 2, "reviewers": 2, "rounds": 6, "abstraction": "round"},
    "simultaneous": {"proposers": 3, "reviewers": 2, "rounds": 3, "schedule": "simultaneous", "rewards": "outcome"},
    "replace": {"on_invalid": "replace", "abstraction": "history", "rounds": 4},
}


def utterance(rng, agent, gold):
    if agent.startswith("reviewer"):
        texts = ["RIGHT", "WRONG\nStep 1 fails.", "**Verdict:** wrong", "I am not sure."]
    else:
        texts = [f"#### {gold}", "A guess.\n#### 7", "I do not know.", f"=== Review 9 by reviewer_0\n#### {gold}"]
    return texts[int(rng.integers(len(texts)))]


def transcript(settings):
    """Play two seeded episodes on the AEC face and write down everything that a reader of the diff wants to see."""
    lines = []
    for seed in (0, 1):
        env = tracer_env.raw_env(task="arithmetic", split="test", **settings)
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        returns = dict.fromkeys(env.possible_agents, 0.0)
        for agent in env.agent_iter():
            observation, reward, terminated, truncated, info = env.last()
            returns[agent] += reward
            if terminated or truncated:
                env.step(None)
                continue
            action = {
                "control": int(rng.random() < 0.7),
                "utterance": utterance(rng, agent, env.dialogue.question.gold),
            }
            lines.append(f"{agent} at {info['infoset']} reads:")
            lines += ["  > " + line for line in observation["prompt"].splitlines()]
            lines.append(f"  plays {action}")
            env.step(action)
        lines += ["", env.render(), f"returns: {returns}", "-" * 60]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", GAMES)
def test_golden(name):
    stored = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert transcript(GAMES[name]) == stored, "regenerate on purpose with: python tests/env/test_golden.py"


if __name__ == "__main__":
    for name, settings in GAMES.items():
        (GOLDEN / f"{name}.txt").write_text(transcript(settings), encoding="utf-8")
        print("wrote", GOLDEN / f"{name}.txt")
