"""Voting methods: each written out on lists of drawn texts, and as a fixed policy of the ballot game; the calibration.

The lists come straight from the tables of a recording, so a method written out shares no rule with the game.
"""

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tracer_agents.calibration import fit_ballot, fit_logistic, log_odds, verdict_log_odds
from tracer_agents.controllers.voting import (
    MAX_LEAD,
    VotingController,
    make_adaptive_self_consistency,
    make_best_of_n,
    make_self_consistency,
    make_verdict_weighted,
    voting_methods,
)
from tracer_agents.interfaces import Controller
from tracer_agents.record import RecordPlan, record
from tracer_agents.rollout import Player, play
from tracer_env import Game, Role, Rules, Utterance, Verdict
from tracer_env.ballots import verdict_weight
from tracer_env.dialogue import check_ballot
from tracer_env.errors import ConfigError
from tracer_env.exact import best_policy, build_tree, evaluate
from tracer_env.exact.search import public_optimum
from tracer_env.recordings import Recording, Utterances, load_recording, recording_path, shipped_recordings
from tracer_env.rewards import Costs, OutcomeRewards
from tracer_env.types import Ballot, Control, Seat, Turn

EXACT = Ballot(prior=0.5, intercept=-0.25, slope=0.75, verdict=2.0)  # sums of these are exact without P(RIGHT)
SHIPPED = {split: f"arithmetic-ballot-{split}" for split in ("train", "test")}
NO_FEATURES, FREE, MASKED = np.zeros(0, dtype=np.float32), (True, True), (False, True)


# --- recordings -----------------------------------------------------------------------------------------------------

SHAPES = {
    "one of each": {"rounds": 7},
    "two of each": {"rounds": 8, "proposers": 2, "reviewers": 2},
    "no reviewers": {"rounds": 6, "reviewers": 0},
}


def draw_ballot(folder, seed, questions=12, **rules):
    """Record pools of drawn texts: three answers (one in two spellings) or none, verdicts with P(RIGHT) or without."""
    rng = np.random.default_rng(seed)

    def write(asked, temperature):
        texts = []
        for state, seat in asked:
            facts = {"tokens_in": 9, "tokens_out": int(rng.integers(1, 40))}
            if seat.role is Role.REVIEWER:
                text = ("RIGHT", "WRONG\nNo.", "Perhaps.")[rng.choice(3, p=[0.45, 0.45, 0.1])]
                facts["p_right"] = float(np.float16(rng.random())) if rng.random() < 0.5 else None
            else:
                said = [f"#### {state.question.gold}", "#### 1234567", "#### 1,234,567", "#### 89", "I give up."]
                text = said[rng.choice(5, p=[0.25, 0.2, 0.2, 0.15, 0.2])]
            texts.append(Utterance(text, **facts))
        return texts

    game = Game("arithmetic", decide="ballot", **rules)
    asked = [game.task.question(k) for k in range(questions)]
    plan = RecordPlan(proposals=12, reviews=7, chunk=questions)
    return record(game, write, asked, folder / "pool.npz", plan=plan, model={"name": "drawn"})


@pytest.fixture(scope="module", params=list(SHAPES))
def drawn(request, tmp_path_factory):
    return draw_ballot(tmp_path_factory.mktemp("pool"), 5, **SHAPES[request.param])


def shipped(split):
    if SHIPPED[split] not in shipped_recordings():
        pytest.skip(f"the recording {SHIPPED[split]} is not shipped")
    return recording_path(SHIPPED[split])


class Lists:
    """What a method can draw in one world, in order: (answer, tokens) and for each the first review (word, p, tokens).

    Read off the tables by hand: replicate k of a question begins at proposal k x (proposal rounds) of its pool.
    """

    def __init__(self, game, world):
        recording = game.task.recording
        pool, reviews = recording.manifest["proposals"], recording.manifest["reviews"]
        rounds = game.rules.rounds
        places = (rounds + 1) // 2 if game.rules.reviewers else rounds
        question, replicate = divmod(world, recording.manifest["replicates"])
        rows = [question * pool + replicate * places + k for k in range(places)]
        said, judged = recording.proposals, recording.reviews
        self.samples = [(said.answer[row], int(said.tokens_out[row])) for row in rows]
        self.reviews = []
        for row in rows[: rounds // 2] if reviews else []:
            p, first = float(judged.p_right[row * reviews]), row * reviews
            word = {1: "RIGHT", 0: "WRONG", -1: None}[int(judged.verdict[first])]
            self.reviews.append((word, None if math.isnan(p) else p, int(judged.tokens_out[first])))
        self.match = game.task.answers_match
        self.gold = recording.questions[question].gold

    def names(self, samples):
        """Answers as numbers in order of appearance, the same for the same answer; None for an unparsable one."""
        seen, names = [], []
        for answer, _ in samples:
            same = [k for k, other in enumerate(seen) if answer is not None and self.match(answer, other)]
            if answer is not None and not same:
                seen.append(answer)
                same = [len(seen) - 1]
            names.append(same[0] if same else None)
        return names

    def text(self, winner):
        names = self.names(self.samples)
        return None if winner is None else self.samples[names.index(winner)][0]


# --- the methods, written out on lists ------------------------------------------------------------------------------


def forced(samples, asked):
    """Whether there is nothing to answer with yet, so that another sample has to be drawn."""
    return asked < len(samples) and all(answer is None for answer, _ in samples[:asked])


def most_voted(names):
    """The answer with most votes; of equals the one that had as many first."""
    counts = Counter(name for name in names if name is not None)
    if not counts:
        return None
    top, so_far = max(counts.values()), Counter()
    for name in names:
        so_far[name] += 1
        if name is not None and so_far[name] == top:
            return name
    raise AssertionError("somebody has most votes")


def self_consistency(lists, n):
    asked = n
    while forced(lists.samples, asked):
        asked += 1
    taken = lists.samples[:asked]
    return most_voted(lists.names(taken)), sum(tokens for _, tokens in taken)


def adaptive(lists, n, lead=None):
    """Draw until the leader is ``lead`` ahead, or by definition: until nothing that may come can change the winner."""
    names, asked = lists.names(lists.samples), 0
    while asked < n or forced(lists.samples, asked):
        now, left = names[:asked], n - asked
        counts = sorted(Counter(name for name in now if name is not None).values(), reverse=True)
        if counts and lead is not None and counts[0] - sum(counts[1:2]) >= lead:
            break
        rivals = {*now, "a new one"} - {None}
        if counts and lead is None and all(most_voted(now + [r] * left) == most_voted(now) for r in rivals):
            break
        asked += 1
    return most_voted(names[:asked]), sum(tokens for _, tokens in lists.samples[:asked])


def weigh(ballot, word, p):
    if word is None:
        return 0.0
    if p is None:
        return ballot.verdict if word == "RIGHT" else -ballot.verdict
    p = min(max(p, 0.001), 0.999)
    return ballot.intercept + ballot.slope * math.log(p / (1 - p))


def reviewed(lists, n, ballot, lead=math.inf):
    """Draw and review one after the other; only a higher score overtakes the leader. Scores are exact fractions."""
    names, scores, winner, spent, asked = lists.names(lists.samples), {}, None, 0, 0

    def ahead():
        others = [score for name, score in scores.items() if name != winner]
        return winner is not None and float(scores[winner] - max(others, default=0)) >= lead

    def best():
        top = max(scores.values())
        return winner if winner is not None and scores[winner] == top else min(s for s in scores if scores[s] == top)

    while (asked < n and not ahead()) or forced(lists.samples, asked):
        name = names[asked]
        spent += lists.samples[asked][1]
        if name is not None:
            scores[name] = scores.get(name, 0) + Fraction(ballot.prior)
            winner = best()
        if asked < n and not ahead():
            word, p, tokens = lists.reviews[asked]
            spent += tokens
            if name is not None:
                scores[name] += Fraction(weigh(ballot, word, p))
                winner = best()
        asked += 1
    return winner, spent


def written_out(method, lists):
    """The direct implementation of a method, by its name."""
    words = method.name.split("_")
    lead = int(words[-1]) if words[-2] == "lead" else None
    n = int(words[-3] if lead is not None else words[-1])
    if method.name.startswith("self_consistency"):
        return self_consistency(lists, n)
    if method.name.startswith("adaptive_self_consistency"):
        return adaptive(lists, n, lead)
    if method.name.startswith("best_of"):
        return reviewed(lists, n, Ballot(prior=0.0, intercept=0.0, slope=1.0, verdict=1.0))
    return reviewed(lists, n, method.ballot, math.inf if lead is None else lead)


# --- the same answers and the same tokens ---------------------------------------------------------------------------


def play_worlds(path, method, worlds=None):
    """Play every world of a recording with the method on all seats; return the game and the final states."""
    game = Game(f"recorded:{path}", abstraction="ballot", ballot=method.ballot)
    team = {seat: Player(policy="base", controller=method.controller) for seat in game.rules.seats}
    questions = [game.task.question(w) for w in range(game.task.num_questions() if worlds is None else worlds)]
    return game, [episode.state for episode in play(game, team, None, questions, seed=0)]


def differences(path, methods, worlds=None):
    """Return (method, world, written out, played) wherever answer or tokens are not the same."""
    found = []
    for method in methods:
        game, states = play_worlds(path, method, worlds)
        for world, state in enumerate(states):
            lists = Lists(game, world)
            winner, tokens = written_out(method, lists)
            direct, played = (lists.text(winner), tokens), (state.answer, state.tokens_spent)
            if direct != played:
                found.append((method.name, world, direct, played))
    return found


def test_every_method_is_the_same_written_out_and_played(drawn):
    rules = Game(f"recorded:{drawn}").rules
    methods = voting_methods(rules, EXACT)
    assert {type(m.controller) for m in methods} == {VotingController}
    assert len({m.name for m in methods}) == len(methods) > 7
    assert differences(drawn, methods) == []


def test_the_comparison_can_fail(drawn):
    """What is compared differs between neighbouring methods: another n, lead, weight or a silent reviewer shows."""
    rules = Game(f"recorded:{drawn}").rules
    good = make_self_consistency(rules, 3)
    fewer = make_self_consistency(rules, 2)
    assert differences(drawn, [replace(good, controller=fewer.controller)])
    early, late = make_adaptive_self_consistency(rules, 4, 2), make_adaptive_self_consistency(rules, 4)
    assert differences(drawn, [replace(early, controller=late.controller)])
    if rules.reviewers:
        weighted, best = make_verdict_weighted(rules, 3, EXACT), make_best_of_n(rules, 3)
        assert differences(drawn, [replace(best, ballot=EXACT)])
        silent = VotingController(rules, samples=3, reviews=False)
        assert differences(drawn, [replace(weighted, controller=silent)])


@pytest.mark.parametrize("split", list(SHIPPED))
def test_every_method_is_the_same_on_the_shipped_ballot(split):
    path, ballot = shipped(split), fit_ballot(load_recording(shipped("train")))
    assert differences(path, voting_methods(Game(f"recorded:{path}").rules, ballot), worlds=400) == []


def test_an_uncatchable_leader_wins_with_fewer_tokens(drawn):
    rules = Game(f"recorded:{drawn}").rules
    for n in (2, 3, 4):
        _, plain = play_worlds(drawn, make_self_consistency(rules, n))
        _, early = play_worlds(drawn, make_adaptive_self_consistency(rules, n))
        assert [s.answer for s in plain] == [s.answer for s in early]
        assert sum(s.tokens_spent for s in early) < sum(s.tokens_spent for s in plain)


def test_best_of_two_is_the_sample_with_the_highest_p_right(drawn):
    rules = Game(f"recorded:{drawn}").rules
    if not rules.reviewers:
        pytest.skip("nobody reviews")
    game, states = play_worlds(drawn, make_best_of_n(rules, 2))
    compared = 0
    for world, state in enumerate(states):
        lists = Lists(game, world)
        pairs = list(zip(lists.samples[:2], lists.reviews[:2], strict=True))
        if any(word is None or p is None for _, (word, p, _) in pairs):
            continue
        valid = [(p, answer) for (answer, _), (_, p, _) in pairs if answer is not None]
        if valid:
            compared += 1
            assert state.answer is not None
            assert lists.match(state.answer, max(valid)[1])
    assert compared > 2


# --- as policies of a control tree ----------------------------------------------------------------------------------

COSTS = (Costs(), Costs(per_1k_tokens=4.0))


def tree_of(path, ballot, costs=COSTS[0], worlds=None):
    game = Game(f"recorded:{path}", abstraction="ballot", ballot=ballot, rewards=OutcomeRewards(costs=costs))
    questions = None if worlds is None else [game.task.question(w) for w in range(worlds)]
    return game, build_tree(game, questions)


def check_bounds(path, methods, costs, worlds=None):
    """Check each method against the optimum of the game with its weights; return how many optima were proven."""
    trees, proven = {}, 0
    for method in methods:
        if method.ballot not in trees:
            game, tree = tree_of(path, method.ballot, costs, worlds)
            trees[method.ballot] = game, tree, best_policy(tree)
        game, tree, best = trees[method.ballot]
        figures = evaluate(tree, method.controller)
        by_key = {
            (seat, key): method.controller.speak_prob(key, NO_FEATURES, FREE) for seat, key in tree.infosets
        }  # a policy of the abstraction: one control for each key
        assert evaluate(tree, by_key).world_return.tolist() == figures.world_return.tolist()
        for world in range(len(tree.world_ids)):
            lists = Lists(game, world)
            winner, tokens = written_out(method, lists)
            right = float(winner is not None and lists.match(lists.text(winner), lists.gold))
            assert (figures.world_accuracy[world], figures.world_tokens[world]) == pytest.approx((right, tokens))
        assert figures.team_return <= best.upper_bound + 1e-9 <= public_optimum(tree)[0] + 2e-9
        if best.proven:
            proven += 1
            assert figures.team_return <= best.team_return + 1e-9
    return proven


@pytest.mark.parametrize("costs", COSTS, ids=["free", "tokens cost"])
def test_no_method_is_better_than_the_optimum_of_its_game(drawn, costs):
    rules = Game(f"recorded:{drawn}").rules
    assert check_bounds(drawn, voting_methods(rules, EXACT), costs)


def test_no_method_is_better_than_the_optimum_on_the_shipped_ballot():
    path, ballot = shipped("test"), fit_ballot(load_recording(shipped("train")))
    check_bounds(path, voting_methods(Game(f"recorded:{path}").rules, ballot), COSTS[1], worlds=40)


def test_self_consistency_is_a_policy_of_every_ballot_in_which_proposals_count(drawn):
    rules = Game(f"recorded:{drawn}").rules
    method = make_self_consistency(rules, 4)
    _, one = play_worlds(drawn, method)
    _, other = play_worlds(drawn, replace(method, ballot=EXACT))
    assert [(s.answer, s.tokens_spent) for s in one] == [(s.answer, s.tokens_spent) for s in other]


# --- the controller -------------------------------------------------------------------------------------------------

BALLOT = Rules(decide="ballot", rounds=7)


def test_by_hand():
    stop_at_2 = make_adaptive_self_consistency(BALLOT, 4, 2).controller
    caught = make_adaptive_self_consistency(BALLOT, 4).controller
    best = make_best_of_n(BALLOT, 2).controller
    key = "{}|{}|ballots=1|verdict=none|left={}".format
    cases = [
        (stop_at_2, key("proposer", "margin=1", 2), 1.0),
        (stop_at_2, key("proposer", "margin=2", 1), 0.0),
        (stop_at_2, key("reviewer", "margin=1", 2), 0.0),
        (caught, key("proposer", "margin=2", 1), 0.0),  # two votes ahead, two samples left: a tie at best
        (caught, key("proposer", "margin=1", 1), 1.0),
        (caught, key("proposer", "margin=1", 0), 0.0),
        (best, key("reviewer", "margin=0", 1), 1.0),
        (best, key("reviewer", "margin=0", 0), 0.0),
        (best, key("proposer", "margin=0", 2), 1.0),
        (best, key("proposer", "margin=0", 1), 0.0),
        (best, key("proposer", "invalid_pending", 1), 1.0),
    ]
    for controller, infoset, speaks in cases:
        assert isinstance(controller, Controller)
        assert controller.speak_prob(infoset, NO_FEATURES, FREE) == speaks
        assert controller(Seat(Role.PROPOSER, 0), infoset, NO_FEATURES, FREE) == speaks
        assert controller.speak_prob(infoset, NO_FEATURES, MASKED) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_self_consistency(BALLOT, 5), "from 1 to the 4 proposer rounds"),
        (lambda: make_best_of_n(BALLOT, 4), "from 1 to the 3 reviewer rounds"),
        (lambda: make_self_consistency(BALLOT, 0), "from 1 to the 4"),
        (lambda: make_self_consistency(BALLOT, True), "not True"),
        (lambda: make_self_consistency(Rules(), 2), "decide='ballot'"),
        (lambda: make_self_consistency(replace(BALLOT, schedule="simultaneous"), 2), "simultaneous"),
        (lambda: make_self_consistency("arithmetic", 2), "a Rules is needed"),
        (lambda: make_adaptive_self_consistency(BALLOT, 4, MAX_LEAD + 1), "from 1 to 5"),
        (lambda: make_adaptive_self_consistency(replace(BALLOT, rounds=23), 12), "Use lead"),
        (lambda: make_verdict_weighted(BALLOT, 3, Ballot(slope=-1.0)), "slope"),
        (lambda: make_verdict_weighted(BALLOT, 3, None), "fit_ballot"),
        (lambda: make_best_of_n(BALLOT, 1).controller.speak_prob("reviewer|votes=0|last", NO_FEATURES, FREE), "abstra"),
        (
            lambda: make_best_of_n(BALLOT, 1).controller.speak_prob(
                "proposer|margin=0|ballots=1|verdict=none|left=9", NO_FEATURES, FREE
            ),
            "more rounds",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_up_to_eleven_samples_the_shown_margin_tells_whether_a_leader_can_be_caught():
    for n in range(1, 12):
        rules = replace(BALLOT, rounds=2 * n - 1)
        controller = make_adaptive_self_consistency(rules, n).controller
        for cast in range(1, n):
            for margin in range(cast + 1):
                key = f"proposer|margin={min(margin, 5)}|ballots={cast}|verdict=none|left={n - 1 - cast}"
                assert controller.speak_prob(key, NO_FEATURES, FREE) == (margin < n - cast)


# --- calibration ----------------------------------------------------------------------------------------------------


def pool_of(right, said_right, p_right, valid=None, decide="ballot"):
    """A recording of one question in memory: one proposal and one review of it a row."""
    count = len(right)
    valid = np.ones(count, dtype=bool) if valid is None else valid
    says = [Utterance("")] * count
    answers = ["1" if v else None for v in valid]
    reviews = [Utterance("", p_right=p) for p in p_right]
    empty = Utterances()
    return Recording(
        manifest={"settings": {"decide": decide}, "reviews": 1, "proposals": count},
        questions=(),
        world_nodes=np.zeros(1, np.int64),
        node_path=np.zeros(0, np.uint32),
        node_seat=np.zeros(0, np.uint8),
        prompt_hash=np.zeros(0, np.uint64),
        tree=empty,
        proposals=Utterances.of(says, answers, [None] * count, list(right)),
        reviews=Utterances.of(reviews, [None] * count, list(said_right), [True] * count),
        greedy=empty,
    )


def draw_judge(rng, count, share=0.6, centres=(-0.8, 1.1), spread=1.3, rates=(0.85, 0.7)):
    """Right with P = share; x = logit P(RIGHT) is normal around a centre; the word has its own rates TPR and TNR."""
    right = rng.random(count) < share
    x = rng.normal(np.where(right, centres[1], centres[0]), spread)
    said_right = np.where(right, rng.random(count) < rates[0], rng.random(count) > rates[1])
    return right, said_right, 1 / (1 + np.exp(-x))


def test_known_parameters_are_found_again():
    right, said, p = draw_judge(np.random.default_rng(3), 60_000)
    ballot = fit_ballot(pool_of(right, said.tolist(), p))
    check_ballot(ballot)
    assert ballot.prior == pytest.approx(math.log(0.6 / 0.4), abs=0.03)
    # of two normals with one spread, log f1(x) / f0(x) is a line
    assert ballot.slope == pytest.approx((1.1 + 0.8) / 1.3**2, abs=0.03)
    assert ballot.intercept == pytest.approx((0.8**2 - 1.1**2) / (2 * 1.3**2), abs=0.03)
    assert ballot.verdict == pytest.approx((math.log(0.85 / 0.15) + math.log(0.7 / 0.3)) / 2, abs=0.03)


def test_the_weights_of_a_reviewed_proposal_are_calibrated():
    """Where prior and verdict together say 70 %, 70 % are right."""
    right, said, p = draw_judge(np.random.default_rng(4), 60_000)
    ballot = fit_ballot(pool_of(right, said.tolist(), p))
    reviews = [
        Turn(1, 1, Seat(Role.REVIEWER, 0), Control.SPEAK, Utterance("", p_right=q), verdict=Verdict.RIGHT) for q in p
    ]
    stated = 1 / (1 + np.exp(-(ballot.prior + np.array([verdict_weight(ballot, turn) for turn in reviews]))))
    for low in np.arange(0.1, 0.9, 0.1):
        where = (stated >= low) & (stated < low + 0.1)
        assert right[where].mean() == pytest.approx(stated[where].mean(), abs=0.03)


def penalised_by_hand(a, b, xs, ys):
    total, i00, i01, i11 = 0.0, 0.0, 0.0, 0.0
    for x, y in zip(xs, ys, strict=True):
        p = 1 / (1 + math.exp(-(a + b * x)))
        total += math.log(p if y else 1 - p)
        w = p * (1 - p)
        i00, i01, i11 = i00 + w, i01 + w * x, i11 + w * x * x
    return total + 0.5 * math.log(i00 * i11 - i01 * i01)


@pytest.mark.parametrize("seed", range(4))
def test_newton_finds_the_maximum_that_a_search_without_derivatives_finds(seed):
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=40)
    ys = xs > 0 if seed == 0 else rng.random(40) < 1 / (1 + np.exp(-(0.4 + 1.5 * xs)))  # 0: separable
    a, b, step = 0.0, 0.0, 1.0
    while step > 1e-9:
        here = penalised_by_hand(a, b, xs, ys)
        around = [
            (a + step, b),
            (a - step, b),
            (a, b + step),
            (a, b - step),
            (a + step, b + step),
            (a - step, b - step),
        ]
        better = [pair for pair in around if penalised_by_hand(*pair, xs, ys) > here]
        if better:
            a, b = max(better, key=lambda pair: penalised_by_hand(*pair, xs, ys))
        else:
            step /= 2
    assert fit_logistic(np.stack([np.ones(40), xs], axis=1), ys) == pytest.approx([a, b], abs=1e-5)


@pytest.mark.parametrize("counts", [(20, 5, 7, 11), (3, 0, 0, 4), (1, 6, 5, 1)])
def test_closed_forms_are_the_regression_on_the_word(counts):
    """With Jeffreys' prior the regression on a word adds one half to each of its four counts."""
    cells = [(True, True), (True, False), (False, True), (False, False)]  # right, said RIGHT
    right = np.array([r for (r, _), n in zip(cells, counts, strict=True) for _ in range(n)])
    said = np.array([s for (_, s), n in zip(cells, counts, strict=True) for _ in range(n)])
    ones = np.ones(len(right))
    assert fit_logistic(ones[:, None], right) == pytest.approx([log_odds(int(right.sum()), len(right))], abs=1e-8)
    _, slope = fit_logistic(np.stack([ones, np.where(said, 1.0, -1.0)], axis=1), right)
    # one half is added to the four counts here, and to the two of a rate there: the same
    assert slope == pytest.approx(verdict_log_odds(said, right), abs=1e-7)


def test_what_has_no_ballot_is_not_fitted_on():
    right, said, p = draw_judge(np.random.default_rng(5), 300)
    plain = fit_ballot(pool_of(right, said.tolist(), p))
    more = fit_ballot(
        pool_of(
            np.concatenate([right, np.zeros(50, bool)]),
            said.tolist() + [True] * 50,  # praise for proposals that cannot be read
            np.concatenate([p, np.full(50, 0.99)]),
            valid=np.arange(350) < 300,
        )
    )
    assert more == plain
    unread = fit_ballot(pool_of(right, [None] * 100 + said.tolist()[100:], p))
    rest = fit_ballot(pool_of(right[100:], said.tolist()[100:], p[100:]))
    assert (unread.slope, unread.verdict) == (rest.slope, rest.verdict)
    assert unread.prior == plain.prior


def test_p_right_is_clipped_as_the_ballot_clips_it():
    right, said, p = draw_judge(np.random.default_rng(6), 300)
    zero, small = p.copy(), p.copy()
    zero[:20], small[:20] = 0.0, 0.0009
    assert fit_ballot(pool_of(right, said.tolist(), zero)) == fit_ballot(pool_of(right, said.tolist(), small))


def test_a_judge_who_is_worse_than_chance_weighs_nothing():
    right, said, p = draw_judge(np.random.default_rng(7), 400, centres=(1.0, -1.0), rates=(0.2, 0.3))
    ballot = fit_ballot(pool_of(right, said.tolist(), p))
    check_ballot(ballot)
    assert (ballot.slope, ballot.verdict) == (0.0, 0.0)
    assert ballot.intercept == pytest.approx(0.0, abs=1e-9)  # every valid proposal was reviewed: nothing is left


@pytest.mark.parametrize("right", [np.ones(6, bool), np.zeros(6, bool), np.arange(6) < 3])
@pytest.mark.parametrize("p", [np.full(6, 0.7), np.where(np.arange(6) < 3, 1.0, 0.0), np.full(6, np.nan)])
def test_small_and_separable_pools_give_finite_weights(right, p):
    ballot = fit_ballot(pool_of(right, [True] * 3 + [False] * 3, [None if math.isnan(q) else q for q in p]))
    check_ballot(ballot)
    if np.isnan(p).all():
        assert (ballot.intercept, ballot.slope) == (0.0, 1.0)


def test_a_task_is_fitted_as_its_recording(tmp_path):
    path = draw_ballot(tmp_path, 8, rounds=5)
    assert fit_ballot(Game(f"recorded:{path}").task) == fit_ballot(load_recording(path))


def test_errors_of_the_fit():
    half = np.arange(4) < 2
    for wrong in (pool_of(half, [True] * 4, half, decide="last"), "arithmetic-train"):
        with pytest.raises(ConfigError, match="tracer record --decide ballot"):
            fit_ballot(wrong)
    with pytest.raises(ConfigError, match="no valid proposal"):
        fit_ballot(pool_of(half, [True] * 4, half, valid=np.zeros(4, bool)))
    with pytest.raises(ConfigError, match="independent"):
        fit_logistic(np.ones((4, 3)), half)
