"""The one loop that plays many dialogues at once: used by training, re-fitting and evaluation alike.

All dialogues move in lockstep, so that one generator call serves every seat of every dialogue that must speak now,
counterfactual branches included. Games are branched by keeping a reference to an immutable state.

Randomness: every dialogue has its own stream of controls, candidate indices and probes, drawn before it starts. They
depend on (seed, position of the question) only: never on texts or rewards. A branch shares its dialogue's stream
(common random numbers). Where both controls are played on several times, continuation k > 0 of either goes by the
stream of (seed, position, k), and continuation 0 by the dialogue's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer_agents.interfaces import Candidate, Controller, ControlValues, Generator, Group, Request
from tracer_env import (
    Action,
    Batch,
    Control,
    DialogueState,
    Game,
    Question,
    RewardKind,
    RewardScheme,
    Seat,
    Turn,
    Utterance,
)
from tracer_env.dialogue import advance, play_turn
from tracer_env.errors import ConfigError, RewardError, UnknownNameError, check_integer
from tracer_env.infosets import feature_vector

__all__ = ["Decision", "Episode", "Player", "Probing", "play"]

ESTIMATORS = ("local", "rollout", "exact")
WEIGHTINGS = ("visit", "counterfactual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """Who sits on a seat.

    Attributes:
        policy: name of the policy that writes its texts.
        controller: decides SPEAK or SKIP.
    """

    policy: str
    controller: Controller


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How decisions are probed in training (method.md, section 4).

    Attributes:
        num_candidates: K candidates at every probed decision, at least 1; groups are made when it is at least 2.
        estimator: ``"local"``: one-step values of the reward scheme, v(SPEAK) the mean over the K candidates;
            ``"rollout"``: both controls played on to the end, value U, v(SPEAK) from the candidate that is (or would
            be) played, by the stream of each continuation; ``"exact"``: E[U] after both controls when all go on by
            their current controllers, in recorded and simulated games only. Of the other seats of a simultaneous
            round, ``rollout`` keeps what they did, and ``exact`` the controls of those before the seat, as
            ``tracer_env.exact.control_values`` does.
        rewards: scores the candidates of a group; must be of kind LOCAL.
        probe_rate: share of decisions that are probed, in (0, 1]; their weight is 1 / probe_rate.
        weighting: ``"visit"``: every visit counts alike, as it is drawn under the current strategies;
            ``"counterfactual"``: divided by the probability of the seat's own controls on the way, as CFR needs it
            (method.md, section 4): in recorded and simulated games with the ``history`` key. The average strategy is
            weighted by visits either way, which is a heuristic.
        continuations: M, at least 1: how often ``rollout`` plays both controls on. Values are means over them. Of the
            played control, the first one is the dialogue itself, so that a decision opens 2 M - 1 branches.
    """

    num_candidates: int
    estimator: str
    rewards: RewardScheme
    probe_rate: float = 1.0
    continuations: int = 1
    weighting: str = "visit"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: naming the setting, its value and what is allowed.
        """
        if self.num_candidates < 1:
            raise ConfigError(f"num_candidates must be at least 1, not {self.num_candidates}.")
        if self.estimator not in ESTIMATORS:
            raise ConfigError(f"estimator must be one of {ESTIMATORS}, not {self.estimator!r}.")
        if not 0.0 < self.probe_rate <= 1.0:
            raise ConfigError(f"probe_rate must be in (0, 1], not {self.probe_rate!r}.")
        check_integer("continuations", self.continuations)
        if self.weighting not in WEIGHTINGS:
            raise UnknownNameError("weighting", self.weighting, WEIGHTINGS)
        if self.continuations > 1 and self.estimator != "rollout":
            raise ConfigError(
                f"estimator {self.estimator!r} plays nothing on, so continuations must be 1, not {self.continuations}; "
                "use estimator='rollout', or leave continuations out."
            )
        if self.rewards.kind is not RewardKind.LOCAL:
            raise ConfigError(
                f"reward scheme {self.rewards.name!r} is of kind {self.rewards.kind.value!r} and cannot score the "
                f"candidates of a group; use one of kind 'local', for example 'tracer'."
            )


@dataclass(slots=True)
class Decision:
    """One visited, unmasked decision.

    Attributes:
        seat: who decided.
        round: when, from 0.
        infoset: key of its information set.
        features: float32, shape (number of features,).
        speak_prob: the strategy's probability of SPEAK.
        control: what was played.
        values: what both controls are worth; None when the decision was not probed.
    """

    seat: Seat
    round: int
    infoset: str
    features: NDArray[np.float32]
    speak_prob: float
    control: Control
    values: ControlValues | None = None


@dataclass(slots=True)
class Episode:
    """One finished dialogue and what was learned on the way.

    Attributes:
        state: the finished game.
        seed: (seed of ``play``, position of the question): replays the episode's controls.
        infosets: key of each turn's information set.
        rewards: what the turn's seat was paid from its turn until before its next one.
        decisions: visited, unmasked decisions.
        groups: candidates with their rewards.
        tokens_generated: all tokens generated for the dialogue, probes and branches included (what a scripted game
            would have had to generate; the recursion of ``exact`` reads its texts and generates none).
        prompts_cut: texts whose prompt was shortened to fit the context, probes and branches included.
        truncated: texts that stopped at the length limit, likewise.
        branches: lines that were played beside the dialogue itself.
        branch_turns: turns played in them; the turn of the decision that a branch starts with is one of them, those
            of other seats in the same round are not. With ``exact``: the turns of its recursion.
    """

    state: DialogueState
    seed: tuple[int, int]
    infosets: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    tokens_generated: int = 0
    prompts_cut: int = 0
    truncated: int = 0
    branches: int = 0
    branch_turns: int = 0


@dataclass(slots=True)
class _Line:
    """A dialogue in play: an episode's own line, or a branch off it that plays one control of a decision on."""

    batch: Batch
    number: int  # in the batch
    streams: Sequence[_Draws]  # of an episode's own line: M, the first its own; of a branch: its own
    episode: Episode
    is_branch: bool = False
    first: int = 0  # turns of the state that were not played in this line
    rollouts: list[_Rollouts] = field(default_factory=list)
    visits: list[_Visit] = field(default_factory=list)
    owed: dict[Seat, float] = field(default_factory=dict)  # payments of seats that have not had a turn

    @property
    def state(self) -> DialogueState:
        return self.batch.states[self.number]

    @property
    def draws(self) -> _Draws:
        return self.streams[0]


class _Weight(NamedTuple):
    """``weight`` and ``reach`` of ``ControlValues``."""

    weight: float
    reach: float


@dataclass(slots=True)
class _Rollouts:
    """A decision whose controls are both played on, M times each; one of the lines is the episode's own."""

    decision: Decision
    weight: _Weight
    lines: tuple[list[_Line], list[_Line]]  # after SKIP, after SPEAK


@dataclass(slots=True)
class _Visit:
    """A decision that is to be valued exactly."""

    decision: Decision
    weight: _Weight
    state: DialogueState
    before: Mapping[Seat, Control]  # what the seats before it in a simultaneous round have decided


class _Draws:
    """The randomness of one line, drawn beforehand. Arrays of shape (T, number of seats)."""

    __slots__ = ("candidate", "control", "probe")

    def __init__(self, seed: tuple[int, int], k: int, rounds: int, seats: int, num_candidates: int) -> None:
        """Draw stream ``k`` of the episode with this seed; 0 is its own."""
        source = np.random.SeedSequence(seed, spawn_key=(k,)) if k else seed
        rng = np.random.default_rng(source)
        self.control = rng.random((rounds, seats))
        self.candidate = rng.integers(num_candidates, size=(rounds, seats))
        self.probe = rng.random((rounds, seats))


@dataclass(slots=True)
class _Move:
    """What one seat of one line is about to do, and which candidates were asked for."""

    line: _Line
    seat: Seat
    policy: str
    column: int
    mask: tuple[bool, bool]
    control: Control
    probed: bool
    num_candidates: int
    infoset: str
    features: NDArray[np.float32]
    speak_prob: float
    candidates: list[Candidate] = field(default_factory=list)  # as written; a scripted game has none
    said: list[Utterance] = field(default_factory=list)  # what the candidates say

    def action(self, control: Control, draws: _Draws) -> Action:
        if control is Control.SKIP:
            return Action(Control.SKIP)
        # The index was drawn before any candidate existed. Lines that need one candidate only have index 0, and a
        # scripted game is played on with its first candidate.
        index = int(draws.candidate[self.line.state.round, self.column])
        return Action(Control.SPEAK, self.said[index if len(self.candidates) > 1 else 0])


def play(
    game: Game,
    team: Mapping[Seat, Player],
    generator: Generator | None,
    questions: Sequence[Question],
    *,
    seed: int,
    probing: Probing | None = None,
    temperature: float = 1.0,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Play one dialogue per question, all in lockstep.

    Args:
        game: rules, rewards and prompts.
        team: a player for every seat.
        generator: writes all texts; None in a recorded or simulated game, which brings them. There the K candidates
            of a probed decision are those of the game, however many it has, and no groups are made.
        questions: one dialogue each.
        seed: all controls, candidate indices and probes derive from it (the generator has its own seed).
        probing: how to probe decisions; None plays only.
        temperature: sampling temperature of every utterance; 0 is greedy.
        on_round: called with (round, number of lines in play) before each generator call.

    Returns:
        One finished episode per question, in order.

    Raises:
        ConfigError: if a seat has no player, a generator is missing, or ``exact`` or counterfactual weights are asked
            of a game that has none.
    """
    if generator is None and not game.scripted:
        raise ConfigError(f"task {game.task.name!r} needs a generator to write its texts.")
    if probing is not None and probing.estimator == "exact" and not game.scripted:
        raise ConfigError(
            f"estimator 'exact' needs a game that brings its texts, and task {game.task.name!r} does not. Use "
            "estimator='rollout', or record the game (tracer record) and play 'recorded:FILE'."
        )
    if probing is not None and probing.weighting == "counterfactual":
        _check_recall(game)
    missing = [seat.name for seat in game.rules.seats if seat not in team]
    if missing:
        raise ConfigError(f"the team has no player for {missing}.")
    num_candidates = 1 if probing is None else probing.num_candidates
    continuations = 1 if probing is None else probing.continuations
    batch = Batch(game, questions)
    lines = []
    for position, state in enumerate(batch.states):
        episode = Episode(state=state, seed=(seed, position))
        shape = (game.rules.rounds, len(game.rules.seats), num_candidates)
        streams = [_Draws(episode.seed, k, *shape) for k in range(continuations)]
        lines.append(_Line(batch, position, streams, episode))
    mains = list(lines)
    while live := [lines[number] for number in batch.live()]:
        plans = [(line, _plan(game, team, line, probing)) for line in live]
        if on_round is not None:
            on_round(live[0].state.round, len(live))
        moves = [move for _, moves in plans for move in moves]
        if game.scripted:
            _look_up(game, moves, probing)
        else:
            assert generator is not None
            _write(game, generator, moves, temperature)
        actions = {line.number: {m.seat: m.action(m.control, line.draws) for m in moves} for line, moves in plans}
        for line, moves in plans:
            if not line.is_branch:
                for move in moves:
                    lines.extend(_record_move(game, line, move, probing, actions[line.number]))
        transitions = batch.step(actions)
        for line, moves in plans:
            if not line.is_branch:
                line.episode.infosets += [move.infoset for move in moves]
                line.episode.rewards += [0.0] * len(moves)
                _credit(line, game.pay(*transitions[line.number]))
    return [_finish(game, team, line) for line in mains]


def _check_recall(game: Game) -> None:
    if not game.scripted or game.abstraction != "history":
        raise ConfigError(
            "counterfactual weights need a recorded or simulated game with abstraction='history' (perfect recall), not "
            f"task {game.task.name!r} with {game.abstraction!r}; use weighting='visit'."
        )


def _plan(game: Game, team: Mapping[Seat, Player], line: _Line, probing: Probing | None) -> list[_Move]:
    """Draw the controls of one line's acting seats, before any text exists."""
    state, moves = line.state, []
    for seat in game.acting(state):
        column = game.rules.seats.index(seat)
        mask = game.mask(state, seat)
        infoset = game.infoset(state, seat)
        features = feature_vector(game.rules, state, seat)
        speak_prob = _speak_prob(team[seat].controller, seat, infoset, features, mask)
        control = Control.SPEAK if line.draws.control[state.round, column] < speak_prob else Control.SKIP
        probed = (
            probing is not None
            and not line.is_branch
            and bool(line.draws.probe[state.round, column] < probing.probe_rate)
        )
        count = int(control is Control.SPEAK)
        if probing is not None and probed and probing.estimator != "exact":
            count = probing.num_candidates
        moves.append(
            _Move(line, seat, team[seat].policy, column, mask, control, probed, count, infoset, features, speak_prob)
        )
    return moves


def _speak_prob(
    controller: Controller, seat: Seat, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]
) -> float:
    """Ask a controller where it has a choice. The mask is the game's: no controller has to know it."""
    if not mask[0]:
        return 1.0
    prob = controller.speak_prob(infoset, features, mask)
    if not 0.0 <= prob <= 1.0:
        raise ConfigError(f"the controller of {seat.name} gave SPEAK the probability {prob!r} at {infoset!r}.")
    return prob


def _look_up(game: Game, moves: Sequence[_Move], probing: Probing | None) -> None:
    """Take what is said from a recorded or simulated game. Only ``local`` needs more than the first candidate."""
    reads_all = probing is not None and probing.estimator == "local"
    for move in moves:
        if move.num_candidates:
            move.said = list(game.utterances(move.line.state, move.seat))
            read = move.said if reads_all and move.probed else move.said[:1]
            move.line.episode.tokens_generated += sum(utterance.tokens_out or 0 for utterance in read)


def _write(game: Game, generator: Generator, moves: Sequence[_Move], temperature: float) -> None:
    """Ask the generator once for all candidates of all moves."""
    requests, owners = [], []
    for move in moves:
        if move.num_candidates:
            prompt = game.prompt(move.line.state, move.seat)
            request = Request(prompt=prompt, policy=move.policy, role=move.seat.role, temperature=temperature)
            requests += [request] * move.num_candidates
            owners += [move] * move.num_candidates
    candidates = generator.generate(requests) if requests else []
    if len(candidates) != len(requests):
        raise ConfigError(f"the generator was asked for {len(requests)} texts and returned {len(candidates)}.")
    for move, candidate in zip(owners, candidates, strict=True):
        move.candidates.append(candidate)
        move.said.append(candidate.utterance)
        episode = move.line.episode
        episode.tokens_generated += len(candidate.token_ids)
        episode.prompts_cut += candidate.num_cut > 0
        episode.truncated += candidate.truncated


def _credit(line: _Line, pay: Mapping[Seat, float]) -> None:
    """Add every seat's payment to its latest turn, so that a seat's rewards add up to its return.

    What a seat is paid before its first turn waits for that turn.
    """
    latest = {turn.seat: turn.index for turn in line.state.turns}
    for seat, value in pay.items():
        line.owed[seat] = line.owed.get(seat, 0.0) + value
        if seat in latest:
            line.episode.rewards[latest[seat]] += line.owed.pop(seat)


def _record_move(
    game: Game, line: _Line, move: _Move, probing: Probing | None, actions: Mapping[Seat, Action]
) -> list[_Line]:
    """Log the decision, score its candidates, and open the branches that play its controls on."""
    state = line.state
    may_skip = move.mask[0]
    decision = Decision(move.seat, state.round, move.infoset, move.features, move.speak_prob, move.control)
    counterfactual = probing is not None and probing.weighting == "counterfactual"
    reach = _own_reach(line.episode.decisions, move.seat) if counterfactual else 1.0
    if may_skip:
        line.episode.decisions.append(decision)
    if probing is None or not move.probed:
        return []
    weight = _Weight(1.0 / probing.probe_rate / reach, reach)
    turns = [
        play_turn(game.rules, game.task, state, move.seat, Action(Control.SPEAK, utterance)) for utterance in move.said
    ]
    rewards = np.array([_finite(probing.rewards, state, turn) for turn in turns])
    if len(move.candidates) > 1:
        meta = {"question_id": state.question.question_id, "round": state.round, "role": move.seat.role.value}
        policy_group = Group(policy=move.policy, candidates=tuple(move.candidates), rewards=rewards, meta=meta)
        line.episode.groups.append(policy_group)
    if not may_skip:
        return []
    if probing.estimator == "local":
        costs = game.rewards.costs
        skip = play_turn(game.rules, game.task, state, move.seat, Action(Control.SKIP))
        speak = float(np.mean(rewards - [costs.of_turn(turn) for turn in turns]))
        decision.values = _values(decision, probing.rewards.turn_reward(state, skip), speak, weight)
        return []
    if probing.estimator == "exact":
        seats = list(actions)
        before = {seat: actions[seat].control for seat in seats[: seats.index(move.seat)]}
        line.visits.append(_Visit(decision, weight, state, before))
        return []
    rollouts = _Rollouts(decision, weight, ([], []))
    rollouts.lines[move.control].append(line)
    line.rollouts.append(rollouts)
    branches = []
    for k, draws in enumerate(line.streams):
        for control in Control:
            if k == 0 and control is move.control:
                continue  # the line itself
            after = game.advance(state, {**actions, move.seat: move.action(control, draws)})
            number = line.batch.branch(after)
            branches.append(_Line(line.batch, number, (draws,), line.episode, True, first=len(after.turns) - 1))
            rollouts.lines[control].append(branches[-1])
    return branches


def _own_reach(decisions: Sequence[Decision], seat: Seat) -> float:
    """Return the probability of what a seat has decided so far."""
    own = (d for d in decisions if d.seat is seat)
    return math.prod(d.speak_prob if d.control is Control.SPEAK else 1.0 - d.speak_prob for d in own)


def _finite(rewards: RewardScheme, state: DialogueState, turn: Turn) -> float:
    value = rewards.turn_reward(state, turn)
    if not np.isfinite(value):
        raise RewardError(
            f"reward scheme {rewards.name!r} scored a candidate of {turn.seat.name} in turn {turn.index} with "
            f"{value!r}; rewards must be finite numbers."
        )
    return value


def _finish(game: Game, team: Mapping[Seat, Player], line: _Line) -> Episode:
    """Store the final state, and value both controls of every decision that was left to the end by the team return."""
    episode = line.episode
    episode.state = line.state
    for rollouts in line.rollouts:
        skip, speak = (sum(game.team_return(one.state) for one in lines) / len(lines) for lines in rollouts.lines)
        rollouts.decision.values = _values(rollouts.decision, skip, speak, rollouts.weight)
        branches = [branch for lines in rollouts.lines for branch in lines if branch.is_branch]
        episode.branches += len(branches)
        episode.branch_turns += sum(len(branch.state.turns) - branch.first for branch in branches)
    expected = _Expected(game, team)
    for visit in line.visits:
        seat = visit.decision.seat
        skip, speak = (expected.given(visit.state, {**visit.before, seat: control}) for control in Control)
        visit.decision.values = _values(visit.decision, skip, speak, visit.weight)
    episode.branch_turns += expected.turns
    returned = game.team_return(line.state)
    for decision in episode.decisions:
        if decision.values is not None:
            decision.values = replace(decision.values, returned=returned)
    return episode


class _Expected:
    """E[U] in a scripted game when all seats go on by their controllers; remembers the states of one dialogue.

    Attributes:
        turns: how many turns the recursion has played.
    """

    def __init__(self, game: Game, team: Mapping[Seat, Player]) -> None:
        self.turns = 0
        self._game = game
        self._team = team
        self._known: dict[tuple[DialogueState, tuple[object, ...]], float] = {}

    def __call__(self, state: DialogueState) -> float:
        if state.over:
            return self._game.team_return(state)
        # Texts compare equal whatever is known about them, and controllers may read that.
        facts = tuple([(u.mean_logprob, u.min_logprob, u.p_right) for u in (turn.utterance for turn in state.turns)])
        value = self._known.get((state, facts))
        if value is None:
            value = self._known[state, facts] = self.given(state, {})
        return value

    def given(self, state: DialogueState, controls: Mapping[Seat, Control]) -> float:
        """Return E[U] from a state that is not over, given the controls of some of the seats that act in it."""
        game, script = self._game, self._game.script
        assert script is not None  # play has seen to it
        seats = game.acting(state)
        choices: list[list[tuple[float, Action]]] = []  # of each seat: what it may do, with its probability
        for seat in seats:
            speak = float(controls[seat]) if seat in controls else self._speak_prob(state, seat)
            moves = [(1.0 - speak, Action(Control.SKIP))] if speak < 1.0 else []
            if speak > 0.0:
                said = script.outcomes(game.rules, state, seat)
                moves += [(speak * p, Action(Control.SPEAK, utterance)) for p, utterance in said]
            choices.append(moves)
        total = 0.0
        for joint in product(*choices):
            actions = {seat: action for seat, (_, action) in zip(seats, joint, strict=True)}
            self.turns += len(seats)
            chance = math.prod(p for p, _ in joint)
            total += chance * self(advance(game.rules, game.task, state, actions))
        return total

    def _speak_prob(self, state: DialogueState, seat: Seat) -> float:
        game = self._game
        features = feature_vector(game.rules, state, seat)
        controller = self._team[seat].controller
        return _speak_prob(controller, seat, game.infoset(state, seat), features, game.mask(state, seat))


def _values(decision: Decision, skip: float, speak: float, weight: _Weight) -> ControlValues:
    return ControlValues(
        infoset=decision.infoset,
        skip=skip,
        speak=speak,
        weight=weight.weight,
        reach=weight.reach,
        features=decision.features,
        speak_prob=decision.speak_prob,
        control=int(decision.control),
    )
