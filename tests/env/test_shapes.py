"""Every shape of team: both faces play the same game, and its pay is that of a slow reading of method.md."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ToyTask

import tracer_env
from tracer_env import Costs, OutcomeRewards, Role, Seat, TracerRewards

GOLD = 1
TEXTS = {"proposer": ["1", "2", "3", "?"], "reviewer": ["RIGHT", "WRONG\nsee line 2", "maybe"]}


def own_schedule(rules, state):
    """Start with a review where there is one; then everybody in reverse, then the author of what stands."""
    proposers = [Seat(Role.PROPOSER, k) for k in reversed(range(rules.proposers))]
    if state.round % 3 == 0 and rules.reviewers:
        return (Seat(Role.REVIEWER, rules.reviewers - 1),)
    if state.round % 3 == 1 or state.standing is None:
        return tuple(proposers)
    return (state.standing.seat,)


@st.composite
def shapes(draw):
    """Settings of a game, and for each round and seat a control and the number of a text."""
    proposers, reviewers, rounds = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 6))
    schedules = ["round_robin", "simultaneous", own_schedule] + ["reference"] * (proposers == reviewers)
    decide = draw(st.sampled_from(["last", "ballot"]))
    limit = st.none() | st.integers(1, 4)
    shape = {
        "proposers": proposers,
        "reviewers": reviewers,
        "rounds": rounds,
        "schedule": draw(st.sampled_from(schedules)),
        "decide": decide,
        "on_invalid": "keep" if decide == "ballot" else draw(st.sampled_from(["keep", "replace"])),
        "stop_after_skips": draw(limit),
        "stop_at_votes": draw(limit),
        "token_budget": draw(st.none() | st.integers(1, 12)),
    }
    move = st.tuples(st.booleans(), st.integers(0, 11))
    names = [f"proposer_{k}" for k in range(proposers)] + [f"reviewer_{k}" for k in range(reviewers)]
    moves = draw(st.lists(move, min_size=rounds * len(names), max_size=rounds * len(names)))
    return shape, {(r, name): moves[r * len(names) + k] for r in range(rounds) for k, name in enumerate(names)}


# --- the oracle: method.md, sections 1 and 3, and nothing of the library --------------------------------------------


class Oracle:
    """A game on plain lists. ``rows`` holds per round: who acted in order, the masks, the pay, the standing answer."""

    def __init__(self, shape, moves, scheme, per_call, per_token, scope):
        self.shape, self.moves = shape, moves
        self.scheme, self.per_call, self.per_token, self.scope = scheme, per_call, per_token, scope
        self.names = [f"proposer_{k}" for k in range(shape["proposers"])]
        self.names += [f"reviewer_{k}" for k in range(shape["reviewers"])]
        self.answer, self.author, self.votes = None, None, 0  # of the standing answer
        self.proposals, self.reviews = [], []  # all so far: (author, answer), (number of the proposal judged, vote)
        self.skips = self.tokens = 0
        self.rows, self.over, self.truncated = [], False, False
        while not self.over:
            self.play_round(len(self.rows))

    def acting(self, r):
        names, kind = self.names, self.shape["schedule"]
        proposers, reviewers = names[: self.shape["proposers"]], names[self.shape["proposers"] :]
        if kind is own_schedule:
            if r % 3 == 0 and reviewers:
                return [reviewers[-1]]
            return proposers[::-1] if r % 3 == 1 or self.author is None else [self.author]
        proposes = r % 2 == 0 or not reviewers
        role = proposers if proposes else reviewers
        if kind == "simultaneous":
            return role
        if kind == "reference":
            return [role[r % len(proposers)]]
        nth = r // 2 if reviewers else r
        if not proposes and len(reviewers) > 1 and self.author is not None:
            role = [name for name in role if name.split("_")[1] != self.author.split("_")[1]]
        return [role[nth % len(role)]]

    def play_round(self, r):
        acting = self.acting(r)
        masks = dict.fromkeys(self.names, (True, False))
        pay, costs = dict.fromkeys(self.names, 0.0), dict.fromkeys(self.names, 0.0)
        before, judged = self.answer, self.answer
        if self.shape["decide"] == "ballot":
            judged = self.proposals[-1][1] if self.proposals else None
        said = []
        for name in acting:
            proposer = name.startswith("p")
            masks[name] = (not proposer or before is not None, True)
            speaks, number = self.moves[r, name]
            if not speaks and masks[name][0]:
                self.skips += 1
                said.append((name, None))
                pay[name] += 1 if before == str(GOLD) else -1
                continue
            texts = TEXTS["proposer" if proposer else "reviewer"]
            text = texts[number % len(texts)]
            words = len(text.split())
            self.skips, self.tokens = 0, self.tokens + words
            costs[name] += self.per_call + self.per_token * words
            said.append((name, text))
            if proposer:
                pay[name] += 1 if text == str(GOLD) else -1
            else:
                pay[name] += 1 if text.split()[0] == ("RIGHT" if judged == str(GOLD) else "WRONG") else -1
        if self.shape["decide"] == "ballot":
            self.count_ballots(said)
        elif acting[0].startswith("p"):
            self.count_hands(said)
        else:
            self.votes += sum(vote(text) for _, text in said)
        self.end(r)
        if self.scheme == "outcome":
            pay = dict.fromkeys(self.names, 0.0)
            if self.over:
                pay = dict.fromkeys(self.names, 1.0 if self.answer == str(GOLD) else -1.0)
        for name in self.names:
            pay[name] -= costs[name] if self.scope == "seat" else sum(costs.values())
        self.rows.append((acting, masks, pay, self.answer, self.author, self.votes))

    def count_hands(self, said):
        """The most ballots win, a SKIP is one for what stands; ties to what stands, then to the earliest seat."""
        hands = []
        for name, text in said:
            answer = before_or(text, self.answer)
            if answer is not None or self.shape["on_invalid"] == "replace":
                hands.append((name, text, answer))
        if not hands:  # only unparsable ones: they stand if nothing better does
            if self.answer is None:
                if self.author is None:  # an own schedule may let reviewers vote on nothing
                    self.votes = 0
                self.author = said[0][0]  # unparsable proposals stand as such, hence nobody could SKIP
            return
        best = None
        for _, _, answer in hands:
            size = sum(other == answer for _, _, other in hands)
            rank = (answer is not None, size, self.author is not None and answer == self.answer)
            if best is None or rank > best[0]:
                best = rank, answer
        wrote = [name for name, text, answer in hands if answer == best[1] and text is not None]
        if not wrote:
            return
        if self.author is None or best[1] != self.answer:
            self.votes = 0
        self.answer, self.author = best[1], wrote[0]

    def count_ballots(self, said):
        """Scores in hundredths of log-odds, so that sums are exact."""
        for name, text in said:
            if text is not None and name.startswith("p"):
                self.proposals.append((name, before_or(text, None)))
            elif text is not None and self.proposals:
                self.reviews.append((len(self.proposals) - 1, vote(text)))
        best = None
        for author, answer in self.proposals:
            if answer is None:
                continue
            votes = sum(v for k, v in self.reviews if self.proposals[k][1] == answer)
            score = 49 * sum(other == answer for _, other in self.proposals) + 139 * votes
            rank = (score, answer == self.answer)
            if best is None or rank > best[0]:
                best = rank, answer, author, votes
        if best is not None:
            _, self.answer, self.author, self.votes = best
        elif self.proposals:
            self.author = self.proposals[-1][0]

    def end(self, r):
        skips, votes, budget = (self.shape[k] for k in ("stop_after_skips", "stop_at_votes", "token_budget"))
        ended = r + 1 == self.shape["rounds"]
        ended |= skips is not None and self.skips >= skips
        ended |= votes is not None and abs(self.votes) >= votes
        self.truncated = not ended and budget is not None and self.tokens >= budget
        self.over = ended or self.truncated


def vote(text):
    return {"RIGHT": 1, "WRONG": -1}.get((text or "-").split()[0], 0)


def before_or(text, standing):
    """The answer that a proposer is for: what stands when it is silent."""
    return standing if text is None else None if text == "?" else text


# --- the faces -------------------------------------------------------------------------------------------------------


def action(moves, r, name):
    speaks, number = moves[r, name]
    texts = TEXTS[name.partition("_")[0]]
    return {"control": int(speaks), "utterance": texts[number % len(texts)]}


def play_parallel(shape, moves, scheme):
    """Return the states, the pay of every round, the masks before it, and the last terminations and truncations."""
    env = tracer_env.parallel_env(ToyTask(), rewards=scheme, **shape)
    observations, infos = env.reset(seed=0, options={"index": GOLD})
    states, pays, masks, ends = [env.dialogue], [], [], ({}, {})
    while env.agents:
        r = env.dialogue.round
        masks.append({name: tuple(map(bool, o["control_mask"])) for name, o in observations.items()})
        for name, info in infos.items():
            assert tuple(map(bool, info["action_mask"]["control"])) == masks[-1][name]
        observations, pay, *ends, infos = env.step({name: action(moves, r, name) for name in env.agents})
        for flags in ends:
            assert len(set(flags.values())) == 1, "all agents end together"
        states.append(env.dialogue)
        pays.append(pay)
        assert any(any(flags.values()) for flags in ends) == (not env.agents)
    return states, pays, masks, ends


def play_aec(shape, moves, scheme):
    """Return the states, what was collected as (round, agent, reward), the masks, terminations and truncations."""
    env = tracer_env.raw_env(ToyTask(), rewards=scheme, **shape)
    env.reset(seed=0, options={"index": GOLD})
    states, collected, masks, acted, ends = [env.dialogue], [], [], [], None
    while env.agents:
        name, r = env.agent_selection, env.dialogue.round
        _, reward, terminated, truncated, _ = env.last(observe=False)
        collected.append((r, name, reward))
        if terminated or truncated:
            ends = ends or (dict(env.terminations), dict(env.truncations))
            env.step(None)
            continue
        seen = {agent: tuple(map(bool, env.observe(agent)["control_mask"])) for agent in env.possible_agents}
        if not acted:
            masks.append(seen)
        else:  # inside a round nothing changes but that those who have acted are done
            assert seen == {a: (True, False) if a in acted else masks[-1][a] for a in seen}
        acted.append(name)
        env.step(action(moves, r, name))
        if env.dialogue.round > r:
            states.append(env.dialogue)
            acted = []
        else:
            assert env.dialogue is states[-1], "a simultaneous round is hidden until all have acted"
    return states, collected, masks, ends


SCHEMES = {"tracer": TracerRewards, "outcome": OutcomeRewards}


@settings(max_examples=500, deadline=None)
@given(
    shapes(),
    st.sampled_from(["tracer", "outcome"]),
    st.sampled_from(["team", "seat"]),
    st.sampled_from([(0.0, 0.0), (0.25, 0.0), (0.1, 0.03)]),
)
def test_both_faces_play_the_game_of_the_contract(game, name, scope, prices):
    shape, moves = game
    oracle = Oracle(shape, moves, name, *prices, scope)
    scheme = SCHEMES[name](costs=Costs(per_call=prices[0], per_1k_tokens=1000 * prices[1], scope=scope))
    states, pays, masks, ends = play_parallel(shape, moves, scheme)
    aec_states, collected, aec_masks, aec_ends = play_aec(shape, moves, scheme)

    assert aec_states == states
    assert aec_masks == masks == [row[1] for row in oracle.rows]
    assert list(aec_ends) == list(ends)
    assert [set(flags.values()) for flags in ends] == [{not oracle.truncated}, {oracle.truncated}]

    for row, pay, after in zip(oracle.rows, pays, states[1:], strict=True):
        acting, _, expected, answer, author, votes = row
        assert [t.seat.name for t in after.turns if t.round == after.round - 1] == acting
        stands = None if after.standing is None else after.standing.seat.name
        assert (after.answer, stands, after.votes) == (answer, author, votes)
        assert pay == pytest.approx(expected, abs=1e-12)

    # what an agent collects at its turn, or dead, is the pay of all rounds since it last collected
    since = dict.fromkeys(oracle.names, 0)
    for r, agent, reward in collected:
        assert reward == pytest.approx(sum(pay[agent] for pay in pays[since[agent] : r]), abs=1e-12)
        since[agent] = r
    assert set(since.values()) == {len(pays)}
    if name == "outcome" and scope == "team":
        total = states[-1].correct * 2 - 1 - prices[0] * states[-1].calls_spent - prices[1] * states[-1].tokens_spent
        for agent in oracle.names:
            assert sum(reward for _, a, reward in collected if a == agent) == pytest.approx(total, abs=1e-12)


def test_the_shapes_meet_what_they_are_to_test():
    """The cases above are not empty: fixed moves reach a masked SKIP, a truncation, an early end and a ballot."""
    base = {
        "proposers": 2, "reviewers": 2, "rounds": 6, "schedule": "simultaneous", "decide": "ballot",
        "on_invalid": "keep", "stop_after_skips": None, "stop_at_votes": None, "token_budget": None,
    }  # fmt: skip
    names = ["proposer_0", "proposer_1", "reviewer_0", "reviewer_1"]
    moves = {(r, name): (name != "proposer_1", k + r) for r in range(6) for k, name in enumerate(names)}
    for change, rounds in (({}, 6), ({"token_budget": 2}, 1), ({"stop_at_votes": 1}, 4), ({"decide": "last"}, 6)):
        shape = {**base, **change}
        oracle = Oracle(shape, moves, "tracer", 0.0, 0.0, "team")
        states, *_ = play_parallel(shape, moves, TracerRewards())
        assert len(oracle.rows) == len(states) - 1 == rounds, change
        assert states[-1].truncated == ("token_budget" in change)
        assert states[1].turns[1].control_corrected
