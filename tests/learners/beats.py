"""What every learner's test asserts."""

from comparison import exact_returns

TASK = "simulated:default"


def check_learned(task, policy, margin=0.03):
    """Check that a policy's exact return beats random, always SPEAK and never SPEAK; nothing is sampled."""
    returns = exact_returns(task, policy)
    baseline = max(returns[name] for name in ("random", "always speak", "never speak"))
    assert returns["trained"] > baseline + margin, returns
    return returns
