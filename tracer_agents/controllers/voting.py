"""Voting methods as fixed policies of the ballot game: a pair of weights (``Ballot``) and a controller for all seats.

With j the number of the turn among those of its role, m the leader's margin and n the samples, all are one rule::

    a proposer SPEAKs iff no answer stands, or j < n and not stopped        (n samples, and more while none is valid)
    a reviewer SPEAKs iff it reviews, j < n and not stopped                 (one review of each sample)
    stopped = an answer stands and m >= lead,  or  m >= n - j               (cannot be caught; proposers only)

=========================  ===================  ========  ==================================================
method                     weights              reviewer  stops
=========================  ===================  ========  ==================================================
self-consistency           a proposal weighs 1  silent    after n samples
adaptive self-consistency  a proposal weighs 1  silent    once the leader cannot be caught, or leads by k
best-of-n                  logit P(RIGHT)       speaks    after n samples
verdict-weighted voting    ``fit_ballot``       speaks    after n samples, or once the leader leads by k log-odds
=========================  ===================  ========  ==================================================

What a policy reads: the key of the ``ballot`` abstraction, and nothing else (no feature, not the seat). So each is a
deterministic policy of that abstraction, and of the games with its weights none has an optimum below it. The key
shows margins in whole log-odds from 0 to 5; where votes weigh 1 it is exact up to 5 votes, which bounds n and k.

Where the game differs from the textbook, and what equals it then:

* A tie is won by the answer that led before. With votes of weight 1 that is the one that reached the count first, so a
  leader that cannot be overtaken has won: adaptive and plain self-consistency give the same answers.
* SKIP is masked while no valid answer stands: when all n samples are unparsable, more are drawn until one is not.
* A ballot adds up the verdicts on proposals of the same answer, so best-of-n is its weighted form (the answer with the
  highest sum over its samples); with n <= 2 it is the sample with the highest P(RIGHT) as well.
* The verdicts in a ballot weigh by their P(RIGHT) where it is known, and by the word where it is not.

Sources: Wang et al. 2022 (self-consistency); Aggarwal et al. 2023 (adaptive); Cobbe et al. 2021 and Li et al. 2023
(best-of-n and its weighted form, with verifiers); as policies of one game: method.md, section 8 (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.interfaces import ControlValues
from tracer_env import Role, Rules, Seat
from tracer_env.dialogue import check_ballot
from tracer_env.errors import ConfigError, check_type
from tracer_env.types import Ballot

__all__ = [
    "MAX_LEAD",
    "VotingController",
    "VotingMethod",
    "make_adaptive_self_consistency",
    "make_best_of_n",
    "make_self_consistency",
    "make_verdict_weighted",
    "voting_methods",
]

MAX_LEAD = 5
"""The largest margin that the key of the ``ballot`` abstraction tells from smaller ones."""

_MAX_CAUGHT = 11
"""Up to here a margin that is shown as 5 at most decides m >= n - j; after 6 equal ones of 12 it would not."""

_VOTES = Ballot(prior=1.0, intercept=0.0, slope=0.0, verdict=0.0)
_VERDICTS = Ballot(prior=0.0, intercept=0.0, slope=1.0, verdict=1.0)


class VotingController:
    """Plays one voting rule; one object sits on every seat, and is a policy for ``tracer_env.exact.evaluate`` as well.

    Attributes:
        samples: n.
        reviews: reviewers speak.
        lead: stop at this margin; None never does.
        uncatchable: stop once the samples that are left cannot change the leader.
    """

    def __init__(
        self, rules: Rules, *, samples: int, reviews: bool, lead: int | None = None, uncatchable: bool = False
    ) -> None:
        """Store the rule.

        Args:
            rules: of the ballot game; one seat acts in a round.
            samples: n, at least 1 and at most the game's proposal rounds (with reviews: its review rounds).
            reviews: reviewers speak.
            lead: stop at this margin, from 1 to ``MAX_LEAD``; None never does.
            uncatchable: stop once the leader cannot be caught; without reviews, and n at most 11.

        Raises:
            ConfigError: if the rules are of another game or do not have as many rounds, or a number is out of range.
        """
        check_type(rules, Rules, "take game.rules, or make tracer_env.Rules(decide='ballot', rounds=...).")
        if rules.decide != "ballot" or rules.schedule not in ("round_robin", "reference"):
            raise ConfigError(
                "voting methods are policies of a game with decide='ballot' in which one seat acts in a round "
                f"(schedule='round_robin'), not of decide={rules.decide!r} with schedule={rules.schedule!r}."
            )
        self._rounds = {role: rules.rounds_left[role][0] for role in Role}  # after the first round, which proposes
        self._rounds[Role.PROPOSER] += 1
        role = Role.REVIEWER if reviews else Role.PROPOSER
        if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= self._rounds[role]:
            raise ConfigError(
                f"the samples must be an integer from 1 to the {self._rounds[role]} {role} rounds of this game of "
                f"{rules.rounds} rounds, not {samples!r}. Play more rounds for more samples."
            )
        if lead is not None and (isinstance(lead, bool) or not isinstance(lead, int) or not 1 <= lead <= MAX_LEAD):
            raise ConfigError(f"lead must be None or an integer from 1 to {MAX_LEAD}, not {lead!r}.")
        if uncatchable and (reviews or samples > _MAX_CAUGHT):
            raise ConfigError(
                f"whether a leader can be caught is known without reviews and for up to {_MAX_CAUGHT} samples (the key "
                f"shows margins up to {MAX_LEAD}), not with reviews={reviews} and {samples} samples. Use lead."
            )
        self.samples, self.reviews, self.lead, self.uncatchable = samples, reviews, lead, uncatchable

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return 0 or 1; 1 when SKIP is masked.

        Raises:
            ConfigError: if the key is not one of the ``ballot`` abstraction, or of a game with more rounds.
        """
        if not mask[0]:
            return 1.0
        role, margin, left = _read(infoset)
        number = self._rounds[role] - 1 - left
        if number < 0:
            raise ConfigError(f"{infoset!r} is of a game with more rounds; make the method with that game's rules.")
        stopped = margin is not None and (
            (self.lead is not None and margin >= self.lead)
            or (self.uncatchable and role is Role.PROPOSER and margin >= self.samples - number)
        )
        speaks = number < self.samples and not stopped
        if role is Role.REVIEWER:
            return float(self.reviews and speaks)
        return float(margin is None or speaks)

    def __call__(self, seat: Seat, key: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the same as a policy of a control tree."""
        return self.speak_prob(key, features, mask)

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


def _read(infoset: str) -> tuple[Role, int | None, int]:
    """Return a ballot key's role, margin in whole log-odds (None while no valid answer stands) and own rounds left."""
    try:
        role, stands, cast, verdict, left = infoset.split("|")
        if not (cast.startswith("ballots=") and verdict.startswith("verdict=") and left.startswith("left=")):
            raise ValueError(infoset)
        name, _, margin = stands.partition("=")
        return Role(role), int(margin) if name == "margin" else None, int(left.removeprefix("left="))
    except ValueError:
        raise ConfigError(
            f"voting methods read keys of the 'ballot' abstraction, not {infoset!r}. Make the game with "
            "decide='ballot', abstraction='ballot'."
        ) from None


@dataclass(frozen=True, kw_only=True)
class VotingMethod:
    """A voting method as a policy: play ``controller`` on every seat of ``Game(..., ballot=method.ballot)``.

    Attributes:
        name: what it is called in tables.
        ballot: the weights it needs.
        controller: the policy, in the ``ballot`` abstraction.
    """

    name: str
    ballot: Ballot
    controller: VotingController


def make_self_consistency(rules: Rules, samples: int) -> VotingMethod:
    """Return self-consistency: n samples, the answer given most often wins.

    Raises:
        ConfigError: if the game does not have n proposal rounds.
    """
    controller = VotingController(rules, samples=samples, reviews=False)
    return VotingMethod(name=f"self_consistency_{samples}", ballot=_VOTES, controller=controller)


def make_adaptive_self_consistency(rules: Rules, samples: int, lead: int | None = None) -> VotingMethod:
    """Return adaptive self-consistency: it stops early, with fewer tokens.

    Args:
        rules: of the ballot game.
        samples: n at most.
        lead: stop once the leader is this many votes ahead. None: once it cannot be caught; then the answers are those
            of self-consistency.

    Raises:
        ConfigError: if the game does not have n proposal rounds, or the key cannot show the margin.
    """
    controller = VotingController(rules, samples=samples, reviews=False, lead=lead, uncatchable=lead is None)
    name = f"adaptive_self_consistency_{samples}" + ("" if lead is None else f"_lead_{lead}")
    return VotingMethod(name=name, ballot=_VOTES, controller=controller)


def make_best_of_n(rules: Rules, samples: int) -> VotingMethod:
    """Return weighted best-of-n: n samples, each reviewed once; the highest sum of log-odds of P(RIGHT) wins.

    Verdicts without P(RIGHT) count as votes for and against.

    Raises:
        ConfigError: if the game does not have n review rounds.
    """
    controller = VotingController(rules, samples=samples, reviews=True)
    return VotingMethod(name=f"best_of_{samples}", ballot=_VERDICTS, controller=controller)


def make_verdict_weighted(rules: Rules, samples: int, ballot: Ballot, lead: int | None = None) -> VotingMethod:
    """Return verdict-weighted voting: n samples, each reviewed once; a sample weighs its calibrated log-odds.

    Args:
        rules: of the ballot game.
        samples: n at most.
        ballot: calibrated weights, of ``tracer_agents.calibration.fit_ballot``.
        lead: stop once the leader is this many log-odds ahead; None never does.

    Raises:
        ConfigError: if the game does not have n review rounds, or a weight is out of range.
    """
    check_type(ballot, Ballot, "fit one with tracer_agents.calibration.fit_ballot(recording).")
    check_ballot(ballot)
    controller = VotingController(rules, samples=samples, reviews=True, lead=lead)
    name = f"verdict_weighted_{samples}" + ("" if lead is None else f"_lead_{lead}")
    return VotingMethod(name=name, ballot=ballot, controller=controller)


def voting_methods(rules: Rules, ballot: Ballot) -> list[VotingMethod]:
    """Return every method with every number of samples and every lead that a game has room for.

    Args:
        rules: of the ballot game.
        ballot: calibrated weights, for verdict-weighted voting.

    Raises:
        ConfigError: if the rules are of another game.
    """
    single = make_self_consistency(rules, 1)
    proposals = rules.rounds_left[Role.PROPOSER][0] + 1
    reviews = rules.rounds_left[Role.REVIEWER][0]
    methods = [single]
    for n in range(2, proposals + 1):
        methods += [make_self_consistency(rules, n)]
        methods += [make_adaptive_self_consistency(rules, n)] if n <= _MAX_CAUGHT else []
        methods += [make_adaptive_self_consistency(rules, n, lead) for lead in range(2, min(n - 1, MAX_LEAD) + 1)]
    for n in range(1, reviews + 1):
        methods += [make_best_of_n(rules, n), make_verdict_weighted(rules, n, ballot)]
        methods += [make_verdict_weighted(rules, n, ballot, lead) for lead in range(1, MAX_LEAD + 1)]
    return methods
