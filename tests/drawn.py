"""Recordings whose texts are drawn: right, wrong and unparsable answers, verdicts of all three kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tracer_agents.record import RecordPlan, record
from tracer_env import DialogueState, Game, Role, Seat, Utterance


def draw_recordings(
    folder: Path, shapes: Mapping[str, Mapping[str, object]], seed: int, questions: int = 4
) -> dict[str, Path]:
    """Record arithmetic questions in two replicates under each of the rules; return the file of each."""
    rng = np.random.default_rng(seed)

    def write(asked: Sequence[tuple[DialogueState, Seat]], temperature: float) -> list[Utterance]:
        texts = []
        for state, seat in asked:
            said = [f"#### {state.question.gold}", "#### 1234567", "#### 89", "I give up."]
            if seat.role is Role.REVIEWER:
                said = ["RIGHT", "WRONG\nNo.", "WRONG\nCheck again.", "Perhaps."]
            text = said[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])]
            texts.append(Utterance(text, tokens_in=int(rng.integers(9, 99)), tokens_out=int(rng.integers(1, 40))))
        return texts

    paths = {}
    for name, rules in shapes.items():
        game = Game("arithmetic", **rules)
        asked = [game.task.question(k) for k in range(questions)]
        plan = RecordPlan(replicates=2, candidates=1, proposals=1)
        paths[name] = record(game, write, asked, folder / f"{len(paths)}.npz", plan=plan, model={"name": "drawn"})
    return paths
