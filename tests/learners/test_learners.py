"""Third-party learners, really run: each trains for seconds and beats what does not learn."""

import importlib
from pathlib import Path

import pytest
from beats import TASK, check_learned

EXAMPLES = Path(__file__).parents[2] / "examples" / "learners"
LEARNERS = {  # steps that take seconds
    "sb3_ppo": 8_000,
    "sb3_maskable_ppo": 8_000,
    "cleanrl_ppo": 12_000,
    "torchrl_mappo": 4_000,
    "tianshou_ppo": 6_000,
}


@pytest.mark.parametrize(("name", "steps"), LEARNERS.items(), ids=LEARNERS)
@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_a_learner_beats_random_always_and_never_speaking(name, steps, one_thread):
    returns = check_learned(TASK, importlib.import_module(name).train(TASK, 0, steps))
    assert returns["trained"] <= returns["best"] + 1e-9


def test_a_learner_that_does_not_learn_fails_the_check(one_thread, monkeypatch):
    module = importlib.import_module("cleanrl_ppo")
    monkeypatch.setattr(module, "LEARNING_RATE", 0.0)
    with pytest.raises(AssertionError, match="trained"):
        check_learned(TASK, module.train(TASK, 0, 640))


def test_a_recording_is_learned_from_alike(small_recording, one_thread):
    check_learned(
        str(path := f"recorded:{small_recording}"), importlib.import_module("cleanrl_ppo").train(path, 0, 8_000)
    )


def test_the_same_seed_learns_the_same(one_thread):
    train = importlib.import_module("cleanrl_ppo").train
    probs = [_at_start(train(TASK, seed, 640)) for seed in (3, 3, 4)]
    assert probs[0] == probs[1] != probs[2]


def _at_start(policy):
    import numpy as np

    from tracer_env import FEATURES, Role, Seat

    return policy(Seat(Role.PROPOSER, 0), "", np.ones(len(FEATURES), dtype=np.float32), (True, True))


def test_every_example_is_short_and_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"comparison"}
    assert names == {*LEARNERS, "rllib_ppo", "benchmarl_mappo"}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 120, path.name


def test_the_command_line_prints_the_table(one_thread, monkeypatch, capsys):
    comparison = importlib.import_module("comparison")
    monkeypatch.setattr("sys.argv", ["learner", "--task", TASK, "--seed", "5", "--steps", "7"])
    asked = []
    comparison.run(lambda *given: asked.append(given) or comparison.make_policy(lambda features: 0.5), steps=1)
    assert asked == [(TASK, 5, 7)]
    table = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert table["  trained"] == table["  random"]
    assert float(table["  best"]) > float(table["  never speak"])
