"""BenchMARL, in its own environment: make test-benchmarl."""

import pytest
from beats import TASK, check_learned

pytest.importorskip(
    "benchmarl", reason="BenchMARL's pins conflict with the rest: make test-benchmarl", exc_type=ImportError
)


@pytest.mark.filterwarnings("ignore")
def test_benchmarl_beats_random_always_and_never_speaking(one_thread):
    from benchmarl_mappo import train

    check_learned(TASK, train(TASK, 0, 8_000))
