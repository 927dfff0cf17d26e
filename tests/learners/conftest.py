from __future__ import annotations

import pytest

from tracer_env import Game, Role, Utterance


@pytest.fixture
def one_thread():
    """Torch on one thread and with its own randomness; both are put back."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_recording(tmp_path_factory):
    """A recording of 60 questions: half of the solutions are right, and the judge is right in 90 %."""
    import numpy as np
    from toy import ToyTask

    from tracer_agents.record import RecordPlan, record

    rng = np.random.default_rng(0)
    game = Game(ToyTask(60), rounds=5)

    def write(asked, temperature):
        said = []
        for state, seat in asked:
            if seat.role is Role.PROPOSER:
                answer = state.question.gold if rng.random() < 0.5 else "-1"
                said.append(Utterance(f"#### {answer}", tokens_out=48))
            else:
                verdict = state.correct == (rng.random() < 0.9)
                said.append(Utterance("RIGHT" if verdict else "WRONG", tokens_out=2 if verdict else 16))
        return said

    plan = RecordPlan(replicates=1, candidates=1, proposals=1)
    questions = [game.task.question(k) for k in range(60)]
    out = tmp_path_factory.mktemp("recording") / "small.npz"
    return record(game, write, questions, out, plan=plan, model={"name": "script"})
