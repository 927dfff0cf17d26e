"""Rewards that compare with what would have happened (method.md, section 3), by hand and by brute force."""

import math
from hashlib import blake2b
from itertools import pairwise, product

import numpy as np
import pytest
from drawn import draw_recordings
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import SKIP, ToyTask, play_script, speak, toy_game

import tracer_env
from tracer_env import (
    Action,
    Control,
    Costs,
    DifferenceRewards,
    Game,
    OutcomeRewards,
    PotentialRewards,
    RewardKind,
    Role,
    Seat,
    Utterance,
)
from tracer_env.errors import ConfigError
from tracer_env.prompts import Prompt
from tracer_env.tasks.simulated import SimulatedTask, SimulatedTeam

P0, P1 = Seat(Role.PROPOSER, 0), Seat(Role.PROPOSER, 1)
R0, R1 = Seat(Role.REVIEWER, 0), Seat(Role.REVIEWER, 1)
WRONG = speak("WRONG\nno")


def always(text):
    return lambda prompt, seat: Utterance(text, tokens_out=1)


def payments(game, states):
    pays = [game.pay(a, b) for a, b in pairwise(states)]
    return [[round(pay[seat], 10) for seat in game.rules.seats] for pay in pays]


def sign(state):
    return 1.0 if state.correct else -1.0


# --- potential -------------------------------------------------------------------------------------------------------


def hashed(prompt, seat):
    """Say something that depends on all of the prompt."""
    texts = ["0", "1", "2", "?"] if seat.role is Role.PROPOSER else ["RIGHT", "WRONG\nno", "maybe"]
    number = int.from_bytes(blake2b(f"{seat.name}{prompt}".encode(), digest_size=4).digest(), "big")
    return Utterance(texts[number % len(texts)], tokens_out=1)


def open_reviews_by_hand(game, joint, states):
    """Return what each seat gets for critiques in each round: the game played again, up to each replacement."""
    paid, since = [], 0
    for r, after in enumerate(states[1:]):
        paid.append(dict.fromkeys(game.rules.seats, 0.0))
        stands = after.standing
        if stands is None or stands.turn not in {t.index for t in after.turns if t.round == r}:
            continue
        critiques = [
            t for t in after.turns if since <= t.round < r and t.seat.role is Role.REVIEWER and t.control == 1
        ]  # those of earlier replacements are settled
        since = r
        if not critiques:
            continue
        first = min(t.round for t in critiques)
        branch = states[first]
        for q in range(first, r + 1):
            if branch.over:
                break
            controls = [action.control for action in joint[q].values()]
            actions = {}
            for k, seat in enumerate(game.acting(branch)):
                speaks = k < len(controls) and controls[k] == 1 and seat.role is Role.PROPOSER
                if seat.role is Role.PROPOSER and branch.answer is None:
                    speaks = True
                actions[seat] = Action(Control.SPEAK, hashed(game.prompt(branch, seat), seat)) if speaks else SKIP
            branch = game.advance(branch, actions)
        for turn in critiques:
            paid[-1][turn.seat] += (sign(after) - sign(branch)) / len(critiques)
    return paid


@st.composite
def potential_games(draw):
    proposers, reviewers = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    decide = draw(st.sampled_from(["last", "last", "ballot"]))
    limit = st.none() | st.integers(1, 4)
    names = ["round_robin", "simultaneous"] + ["reference"] * (proposers == reviewers)
    shape = {
        "proposers": proposers,
        "reviewers": reviewers,
        "rounds": draw(st.integers(1, 7)),
        "decide": decide,
        "schedule": draw(st.sampled_from(names)),
        "on_invalid": "keep" if decide == "ballot" else draw(st.sampled_from(["keep", "replace"])),
        "stop_after_skips": draw(limit),
        "stop_at_votes": draw(limit),
        "token_budget": draw(st.none() | st.integers(1, 12)),
    }
    moves = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 11)), min_size=30, max_size=30))
    return shape, moves, draw(st.booleans())


@settings(max_examples=500, deadline=None)
@given(potential_games())
def test_increments_add_up_and_reviews_are_paid_their_difference(drawn):
    shape, moves, silent = drawn
    game = toy_game(rewards=PotentialRewards(continuation=hashed), **shape)
    states, joint = [game.start(game.task.question(1))], []
    while not states[-1].over:
        actions = {}
        for k, seat in enumerate(game.acting(states[-1])):
            speaks, number = moves[(4 * len(joint) + k) % len(moves)]
            texts = ["0", "1", "2", "?"] if seat.role is Role.PROPOSER else ["RIGHT", "WRONG\nno", "maybe"]
            speaks &= not (silent and seat.role is Role.REVIEWER)
            actions[seat] = speak(texts[number % len(texts)]) if speaks else SKIP
        joint.append(actions)
        states.append(game.advance(states[-1], actions))
    pays = [game.pay(a, b) for a, b in pairwise(states)]
    reviews = open_reviews_by_hand(game, joint, states)
    total = 0.0
    for (before, after), pay, credit in zip(pairwise(states), pays, reviews, strict=True):
        rest = {seat: pay[seat] - credit[seat] for seat in pay}
        phi = [-1.0 if s.standing is None else sign(s) for s in (before, after)]
        assert sum(rest.values()) == pytest.approx(phi[1] - phi[0], abs=1e-9)
        total += sum(rest.values())
        turns = [t for t in after.turns if t.round == before.round and t.spoke]
        winners = [t.seat for t in turns if t.seat.role is Role.PROPOSER and t.answer == after.answer]
        winners = winners or [t.seat for t in turns]
        for seat, value in rest.items():
            share = (phi[1] - phi[0]) / len(winners) if seat in winners else 0.0
            assert value == pytest.approx(share, abs=1e-9)
    assert total == pytest.approx(sign(states[-1]) + 1)
    if silent:
        assert sum(map(sum, (p.values() for p in pays))) == pytest.approx(sign(states[-1]) + 1)


@pytest.mark.parametrize(
    ("script", "without", "expected"),
    [
        (("5", "7"), "5", [[0, 0], [0, 0], [2, 2]]),  # it took the critique to see it
        (("5", "7"), "7", [[0, 0], [0, 0], [2, 0]]),  # it would have been seen anyway
        (("7", "5"), "7", [[2, 0], [0, 0], [-2, -2]]),  # a right answer was talked down
        (("5", "6"), "7", [[0, 0], [0, 0], [0, -2]]),  # the critique stood in the way
        (("7", "7"), "5", [[2, 0], [0, 0], [0, 2]]),  # the critique held a right answer
        (("5", "?"), "7", [[0, 0], [0, 0], [0, 0]]),  # nothing was replaced: open at the end
        (("5", None), "7", [[0, 0], [0, 0], [0, 0]]),
    ],
)
def test_a_critique_by_hand(script, without, expected):
    game = toy_game(rewards=PotentialRewards(continuation=always(without)), rounds=3)
    first, last = (SKIP if text is None else speak(text) for text in script)
    assert payments(game, play_script(game, 7, first, WRONG, last)) == expected


def test_open_critiques_share_and_are_settled_once():
    game = toy_game(rewards=PotentialRewards(continuation=always("5")), rounds=9, reviewers=2, schedule="simultaneous")
    states = play_script(
        game, 7, speak("5"), (WRONG, WRONG), SKIP, (WRONG, SKIP), speak("7"), (SKIP, WRONG), speak("?"),
        (WRONG, SKIP), SKIP,
    )  # fmt: skip
    pay = payments(game, states)
    assert pay[4] == pytest.approx([2, 4 / 3, 2 / 3])  # three critiques of one answer, two of them reviewer_0's
    assert not np.any(pay[:4] + pay[5:])  # "?" replaces nothing, and the end pays nothing
    later = play_script(game, 7, speak("5"), (WRONG, SKIP), speak("7"), (SKIP, WRONG), speak("7"))
    assert payments(game, later)[2:] == [[2, 2, 0], [0, 0, 0], [0, 0, 2]]  # the settled one has no part in the second


def test_the_branch_begins_at_the_first_open_critique_and_may_stop_early():
    def write(prompt, seat):
        return Utterance("5" if "WRONG\nno" in prompt else "7")

    game = toy_game(rewards=PotentialRewards(continuation=write))
    assert payments(game, play_script(game, 7, speak("5"), WRONG, speak("?"), WRONG, speak("5")))[4] == [0, -2]
    game = toy_game(rewards=PotentialRewards(continuation=write), stop_after_skips=2)
    assert payments(game, play_script(game, 7, speak("5"), WRONG, SKIP, WRONG, speak("7")))[4] == [2, 2]


@pytest.mark.parametrize("together", [0, -1])
def test_other_seats_may_act_in_the_branch(together):
    """An own schedule lets both proposers act at one vote score, which the branch has and the episode not, or not."""
    writers = []

    def write(prompt, seat):
        writers.append(seat.name)
        return Utterance("3", tokens_out=1)

    def schedule(rules, state):
        return (R0,) if state.round == 1 else (P0, P1) if state.round and state.votes == together else (P0,)

    game = toy_game(proposers=2, rounds=3, schedule=schedule, rewards=PotentialRewards(continuation=write))
    last = (speak("7"), speak("7")) if together == -1 else speak("7")
    *_, (_, _, reviewer) = payments(game, play_script(game, 7, speak("5"), WRONG, last))
    assert reviewer == 2.0  # "3" would have been wrong
    assert writers == ["proposer_0"]  # a seat with no part in the episode is silent in the branch


def test_reviews_that_move_a_ballot_are_paid_its_increment():
    game = toy_game(
        rewards=PotentialRewards(continuation=always("5")), rounds=5, decide="ballot", reviewers=2,
        schedule="simultaneous",
    )  # fmt: skip
    right = speak("RIGHT")
    states = play_script(game, 7, speak("5"), (SKIP, SKIP), speak("7"), (right, right), SKIP)
    assert payments(game, states) == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_costs_are_charged_beside_the_potential():
    costs = Costs(per_call=0.25, scope="seat")
    game = toy_game(rewards=PotentialRewards(costs=costs, continuation=always("5")), rounds=3)
    states = play_script(game, 7, speak("5"), WRONG, speak("7"))
    assert payments(game, states) == [[-0.25, 0], [0, -0.25], [1.75, 2]]


@pytest.mark.parametrize("rounds", [3, 5])
def test_both_faces_hand_the_reviewer_its_credit_at_the_next_chance(rounds):
    scheme = PotentialRewards(continuation=always("5"))
    said = {0: (1, "5"), 1: (1, "WRONG"), 2: (1, "7")}

    def act(r):
        return dict(zip(("control", "utterance"), said.get(r, (0, "")), strict=True))

    env = tracer_env.parallel_env(ToyTask(), rewards=scheme, rounds=rounds)
    env.reset(seed=0, options={"index": 7})
    pays = []
    while env.agents:
        pays.append(env.step(dict.fromkeys(env.agents, act(env.dialogue.round)))[1])
    assert [pay["reviewer_0"] for pay in pays] == [0, 0, 2, 0, 0][:rounds]
    assert [pay["proposer_0"] for pay in pays] == [0, 0, 2, 0, 0][:rounds]

    env = tracer_env.raw_env(ToyTask(), rewards=scheme, rounds=rounds)
    env.reset(seed=0, options={"index": 7})
    collected = []
    for agent in env.agent_iter():
        r = env.dialogue.round
        _, reward, dead, _, _ = env.last()
        if agent == "reviewer_0":
            collected.append((r, reward, dead))
        env.step(None if dead else act(r))
        if r == 2 and not dead:
            assert env.rewards == {"proposer_0": 2, "reviewer_0": 2}
    expected = {3: [(1, 0, False), (3, 2, True)], 5: [(1, 0, False), (3, 2, False), (5, 0, True)]}
    assert collected == expected[rounds]


def test_a_live_game_needs_a_continuation_where_branches_are_played():
    for rewards in ("potential", PotentialRewards(), "difference", DifferenceRewards()):
        with pytest.raises(ConfigError, match="continuation"):
            toy_game(rewards=rewards)
    with pytest.raises(ConfigError, match="continuation"):
        toy_game(rewards="difference", reviewers=0)
    game = toy_game(rewards="potential", reviewers=0, rounds=2)  # nothing to branch on
    assert payments(game, play_script(game, 7, speak("5"), speak("7"))) == [[0], [2]]


def test_the_continuation_reads_the_branch():
    asked = []

    def write(prompt, seat):
        asked.append((prompt, seat))
        return Utterance("5")

    game = toy_game(rewards=PotentialRewards(continuation=write), rounds=3)
    states = play_script(game, 7, speak("5"), WRONG, speak("7"))
    payments(game, states)
    ((prompt, seat),) = asked
    silent = play_script(game, 7, speak("5"), SKIP)[-1]
    assert isinstance(prompt, Prompt)
    assert seat is P0
    assert prompt == game.prompt(silent, P0) != game.prompt(states[2], P0)
    assert "WRONG" not in prompt.partition("Task for")[0]


def test_potential_of_a_simulated_game_asks_the_simulated_team():
    """By hand: without the critique the team says what ``utterances`` says after a SKIP."""
    game, seen = Game("simulated:default", rewards="potential", rounds=3), set()
    for index in range(60):
        states = [game.start(game.task.question(index))]
        for controls in (1, 1, 1):
            (seat,) = game.acting(states[-1])
            states.append(game.advance(states[-1], {seat: Action(Control(controls))}))
        other = game.advance(states[1], {R0: SKIP})
        other = game.advance(other, {P0: Action(Control.SPEAK)})
        worth = sign(states[-1]) - sign(other) if states[-1].standing.turn == 2 else 0.0
        assert game.pay(states[2], states[3])[R0] == worth
        seen.add(worth)
    assert len(seen) > 1


# --- difference ------------------------------------------------------------------------------------------------------


def uniform(seat, infoset, features, mask):
    return 0.5


def by_key(seat, infoset, features, mask):
    """Some probability that depends on all that a policy is told."""
    assert (mask, len(features)) == ((True, True), len(tracer_env.FEATURES))
    number = int.from_bytes(blake2b(f"{seat.name}{infoset}{features[0]:.3f}".encode(), digest_size=2).digest(), "big")
    return (0.0, 0.2, 0.5, 0.9, 1.0)[number % 5]


def reviews_only(seat, infoset, features, mask):
    return float(seat.role is Role.REVIEWER)


POLICIES = (uniform, by_key, reviews_only)


def brute_force(game, state, policy, costs):
    """E[U] from a state on: a list of (probability, state) is played forward until all are over."""
    open_, total = [(1.0, state)], 0.0
    while open_:
        p, now = open_.pop()
        if now.over:
            price = costs.per_call * sum(t.spoke for t in now.turns)
            price += costs.per_1k_tokens * sum(t.tokens_out for t in now.turns) / 1000
            total += p * (sign(now) - price)
            continue
        moves = []
        for seat in game.acting(now):
            must = seat.role is Role.PROPOSER and now.answer is None
            features = game.observe(now, seat, True)["features"]
            q = 1.0 if must else policy(seat, game.infoset(now, seat), features, (True, True))
            mine = [] if must else [(1.0 - q, seat, SKIP)]
            if q > 0.0:
                said = game.script.outcomes(game.rules, now, seat)
                mine += [(q * c, seat, Action(Control.SPEAK, utterance)) for c, utterance in said]
            moves.append([move for move in mine if move[0] > 0.0])
        for combination in product(*moves):
            chance = math.prod(c for c, _, _ in combination)
            after = tracer_env.dialogue.advance(
                game.rules, game.task, now, {seat: action for _, seat, action in combination}
            )
            open_.append((p * chance, after))
    return total


def pay_by_brute_force(game, states, policy, costs):
    pay = dict.fromkeys(game.rules.seats, 0.0)
    for before, after in pairwise(states):
        turns = after.turns[len(before.turns) :]
        for mine in turns:
            if mine.control == 0 or (mine.seat.role is Role.PROPOSER and before.answer is None):
                continue
            actions = {t.seat: SKIP if t is mine else Action(t.control, t.utterance) for t in turns}
            silent = tracer_env.dialogue.advance(game.rules, game.task, before, actions)
            pay[mine.seat] += brute_force(game, after, policy, costs) - brute_force(game, silent, policy, costs)
    return pay


def check_difference(game, policy, costs, episodes, seed=0):
    """Play random controls and compare the pay; return the payments at the end."""
    rng, ends = np.random.default_rng(seed), []
    for _ in range(episodes):
        states = [game.start(game.draw_question(rng))]
        while not states[-1].over:
            assert game.rewards.costs == costs
            actions = {seat: Action(Control(int(rng.random() < 0.6))) for seat in game.acting(states[-1])}
            states.append(game.advance(states[-1], actions))
            pay = game.pay(states[-2], states[-1])
            if not states[-1].over:
                assert set(pay.values()) == {0.0}
        assert pay == pytest.approx(pay_by_brute_force(game, states, policy, costs), abs=1e-9)
        for turn, value in game.rewards.turn_values(states[-1]):
            if not turn.spoke or turn.index == 0:  # a SKIP, and the masked first proposal
                assert value == 0.0
        ends.append(list(pay.values()))
    return np.array(ends)


COSTS = Costs(per_call=0.02, per_1k_tokens=1.5)
TEAM = SimulatedTeam(first_right=0.4, invalid=0.2, unparsable=0.2, persistence=0.0, common_wrong=1.0)
SHAPES = {
    "three rounds": {"rounds": 3},
    "history": {"rounds": 4, "abstraction": "history"},
    "two proposers at once": {"rounds": 3, "proposers": 2, "schedule": "simultaneous"},
    "two reviewers at once": {"rounds": 3, "reviewers": 2, "schedule": "simultaneous"},
    "bundles": {"rounds": 4, "proposers": 2, "reviewers": 2, "schedule": "reference"},
    "round robin of two": {"rounds": 4, "proposers": 2, "reviewers": 2},
    "no reviewer": {"rounds": 3, "reviewers": 0, "on_invalid": "replace"},
    "early ends": {"rounds": 4, "stop_at_votes": 1, "stop_after_skips": 2},
    "budget": {"rounds": 4, "token_budget": 90},
    "ballot": {"rounds": 3, "proposers": 2, "decide": "ballot"},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", SHAPES)
def test_difference_equals_brute_force_on_simulated_teams(name, policy):
    game = Game(SimulatedTask(TEAM), rewards=DifferenceRewards(costs=COSTS, policy=policy), **SHAPES[name])
    paid = check_difference(game, policy, COSTS, episodes=3)
    if policy is uniform:
        assert np.any(paid)


RECORDINGS = {"one": {"rounds": 5}, "two": {"rounds": 3, "proposers": 2, "schedule": "simultaneous"}}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return draw_recordings(tmp_path_factory.mktemp("recordings"), RECORDINGS, seed=3)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("name", "more"), [("one", {}), ("one", {"stop_after_skips": 1}), ("two", {})])
def test_difference_equals_brute_force_on_recordings(recordings, name, more, policy):
    scheme = DifferenceRewards(costs=COSTS, policy=policy)
    game = Game(f"recorded:{recordings[name]}", rewards=scheme, abstraction="round", **more)
    assert np.any(check_difference(game, policy, COSTS, episodes=8))


def test_potential_plays_recordings(recordings):
    """The branch without a critique is in the recording: pay is what both recorded paths say."""
    game, seen = Game(f"recorded:{recordings['one']}", rewards="potential"), set()
    for index in range(game.task.num_questions()):
        states = [game.start(game.task.question(index))]
        for _ in range(3):
            (seat,) = game.acting(states[-1])
            states.append(game.advance(states[-1], {seat: Action(Control.SPEAK)}))
        other = game.advance(game.advance(states[1], {R0: SKIP}), {P0: Action(Control.SPEAK)})
        worth = sign(states[-1]) - sign(other) if states[-1].standing.turn == 2 else 0.0
        assert game.pay(states[2], states[3])[R0] == worth
        seen.add(worth)
    assert len(seen) > 1


def test_costs_are_inside_the_team_return():
    """A last proposal that changes nothing is worth what it costs, and nothing else is charged."""
    costs = Costs(per_call=0.1, per_1k_tokens=10)
    game = toy_game(rewards=DifferenceRewards(costs=costs, continuation=always("7")), rounds=3)
    states = play_script(game, 7, speak("7", 20), SKIP, speak("7", 5))
    assert payments(game, states) == [[0, 0], [0, 0], [pytest.approx(-0.15), 0]]
    states = play_script(game, 7, speak("5", 20), SKIP, speak("7", 5))
    assert payments(game, states)[2] == [pytest.approx(2 - 0.15), 0]


def test_difference_settings():
    with pytest.raises(ConfigError, match="'team'"):
        DifferenceRewards(costs=Costs(scope="seat"))
    with pytest.raises(ConfigError, match="branches"):
        DifferenceRewards(branches=0)
    game = Game("simulated:default", rewards=DifferenceRewards(policy=lambda *told: 1.5), rounds=3)
    with pytest.raises(ConfigError, match=r"1\.5"):
        check_difference(game, None, Costs(), episodes=5)
    for scheme in (PotentialRewards(), DifferenceRewards()):
        assert scheme.kind is RewardKind.CONTINUATION
        with pytest.raises(ConfigError, match="cannot score a candidate"):
            scheme.turn_reward(None, None)
        final = play_script(toy_game(rounds=3), 7, speak("5"), WRONG, speak("7"))
        with pytest.raises(ConfigError, match="belongs to no game"):
            scheme.round_rewards(toy_game(rounds=3).rules, final[2], final[3].turns[2:], final[3])


class ScriptedToy(ToyTask):
    """A toy that says "7" more often after a critique: as a scripted game, and as a generator of a live one."""

    settings = {}  # noqa: RUF012

    @staticmethod
    def said(seat, criticised):
        p = 0.5 if seat.role is Role.REVIEWER else 0.8 if criticised else 0.3
        texts = ("7", "5") if seat.role is Role.PROPOSER else ("WRONG\nno", "RIGHT")
        return [(q, Utterance(text, tokens_out=9)) for q, text in zip((p, 1.0 - p), texts, strict=True)]

    def outcomes(self, rules, state, seat):
        return self.said(seat, any(turn.utterance.startswith("WRONG") for turn in state.turns))

    def utterances(self, rules, state, seat):
        return [self.outcomes(rules, state, seat)[0][1]]

    def worlds(self):
        return [(1.0, self.question(7))]


def rarely(seat, infoset, features, mask):
    return 0.4


def test_live_difference_is_unbiased():
    rng = np.random.default_rng(0)

    def write(prompt, seat):
        (p, first), (_, second) = ScriptedToy.said(seat, "WRONG\nno" in prompt)
        return first if rng.random() < p else second

    costs, branches = Costs(per_call=0.05, per_1k_tokens=2), 1500
    exact = Game(ScriptedToy(), rewards=DifferenceRewards(costs=costs, policy=rarely))
    live = toy_game(
        rewards=DifferenceRewards(costs=costs, policy=rarely, continuation=write, branches=branches, seed=2)
    )
    states = play_script(live, 7, speak("5", 9), WRONG, speak("7", 9), SKIP, SKIP)
    truth = [value for _, value in exact.rewards.turn_values(states[-1])]
    means = [value for _, value in live.rewards.turn_values(states[-1])]
    assert min(truth[1:3]) > 0.1  # the scale that the tolerance is to be seen against
    assert truth[0] == truth[3] == truth[4] == 0.0
    # a value is a difference of means of returns within [-1.4, 1]: standard deviation at most 1.2
    assert means == pytest.approx(truth, abs=4 * 1.2 * math.sqrt(2 / branches))


def test_live_difference_depends_on_its_seed_alone():
    def values(seed, branches=3):
        scheme = DifferenceRewards(policy=rarely, continuation=hashed, branches=branches, seed=seed)
        game = toy_game(rewards=scheme, rounds=7)
        states = play_script(game, 1, speak("0"), WRONG, speak("1"), WRONG, SKIP, WRONG, SKIP)
        pays = payments(game, states)
        assert pays == payments(game, states)
        assert not np.any(pays[:-1])
        return tuple(value for _, value in game.rewards.turn_values(states[-1]))

    assert [values(seed) for seed in range(5)] == [values(seed) for seed in range(5)]
    assert len({values(seed) for seed in range(5)}) > 1


def test_both_alternatives_are_played_on_under_common_controls():
    """Where the turn changes nothing that is said later, one branch gives its exact worth: minus its cost."""
    for seed in range(20):
        scheme = DifferenceRewards(
            costs=Costs(per_call=0.05), continuation=lambda prompt, seat: Utterance("7"), seed=seed
        )
        game = toy_game(rewards=scheme, rounds=7)
        states = play_script(game, 7, speak("7"), WRONG, SKIP, SKIP, SKIP, SKIP, SKIP)
        assert payments(game, states)[-1] == [0, pytest.approx(-0.05)]


# --- around them -----------------------------------------------------------------------------------------------------


class Flat:
    """A user's own scheme, without ``bind``."""

    name, kind, costs = "flat", RewardKind.LOCAL, Costs()

    def turn_reward(self, before, turn):
        return 1.0

    def round_rewards(self, rules, before, turns, after):
        return {turn.seat: 1.0 for turn in turns}


class Bound(Flat):
    """A user's own scheme that asks for its game."""

    game = None

    def bind(self, game):
        bound = Bound()
        bound.game = game
        return bound

    def round_rewards(self, rules, before, turns, after):
        assert self.game.rules is rules
        return {turn.seat: 2.0 for turn in turns}


@pytest.mark.parametrize(("scheme", "paid"), [(Flat(), 1.0), (Bound(), 2.0)])
def test_own_schemes(scheme, paid):
    game = toy_game(rewards=scheme, rounds=2)
    assert payments(game, play_script(game, 7, speak("7"), SKIP)) == [[paid, 0], [0, paid]]
    assert (game.rewards is scheme) == (type(scheme) is Flat)


def test_a_scheme_may_be_used_by_two_games():
    scheme = PotentialRewards(continuation=always("5"))
    one, two = toy_game(rewards=scheme, rounds=3), toy_game(rewards=scheme, rounds=3, reviewers=2)
    for game, rest in ((one, []), (two, [0])):
        assert payments(game, play_script(game, 7, speak("5"), WRONG, speak("7")))[2] in (
            [2, 2, *rest], [2, *rest, 2],
        )  # fmt: skip
    assert scheme.game is None


@pytest.mark.parametrize("rewards", ["potential", "difference"])
def test_by_name_on_both_faces(rewards):
    total = 0.0
    for seed in range(12):
        env = tracer_env.parallel_env(task="simulated:default", rewards=rewards)
        env.reset(seed=seed)
        sums = dict.fromkeys(env.possible_agents, 0.0)
        while env.agents:
            for agent, value in env.step({name: {"control": 1} for name in env.agents})[1].items():
                sums[agent] += value
        aec = tracer_env.raw_env(task="simulated:default", rewards=rewards)
        aec.reset(seed=seed)
        collected = dict.fromkeys(aec.possible_agents, 0.0)
        for agent in aec.agent_iter():
            _, reward, dead, _, _ = aec.last()
            collected[agent] += reward
            aec.step(None if dead else {"control": 1})
        assert aec.dialogue == env.dialogue
        assert collected == pytest.approx(sums)
        total += sum(map(abs, sums.values()))
    assert total > 1.0


def test_outcome_is_what_the_differences_share():
    """The one change from silence to a last proposal moves U by just what it is paid."""
    scheme = DifferenceRewards(costs=Costs(per_call=0.1))
    task, spread = SimulatedTask("default"), set()
    for index in range(30):
        finals = []
        game = Game(task, rewards=scheme, rounds=3)
        for last in (Control.SKIP, Control.SPEAK):
            states = [game.start(task.question(index))]
            for control in (Control.SPEAK, Control.SKIP, last):
                (seat,) = game.acting(states[-1])
                states.append(game.advance(states[-1], {seat: Action(control)}))
            finals.append((OutcomeRewards(costs=scheme.costs), states))
        (outcome, silent), (_, spoken) = finals
        change = [
            sum(outcome.round_rewards(game.rules, a, b.turns[len(a.turns) :], b)[P0] for a, b in pairwise(states))
            for states in (silent, spoken)
        ]
        if spoken[2].answer is None:  # masked: it spoke in both
            continue
        assert game.pay(spoken[2], spoken[3])[P0] == pytest.approx(change[1] - change[0])
        spread.add(round(change[1] - change[0], 6))
    assert len(spread) > 1
