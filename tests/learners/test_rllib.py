"""RLlib, in its own environment: make test-rllib."""

import pytest
from beats import TASK, check_learned

pytest.importorskip("ray.rllib", reason="RLlib's pins conflict with the rest: make test-rllib", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")
def test_rllib_beats_random_always_and_never_speaking(one_thread):
    from rllib_ppo import train

    check_learned(TASK, train(TASK, 0, 10_000))
