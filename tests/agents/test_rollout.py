"""The loop that plays many dialogues: probing, values, groups, branches, and what is drawn when."""

import numpy as np
import pytest
from toy import ToyTask

from tracer_agents.cli import main
from tracer_agents.controllers.fixed import FixedController, make_fixed
from tracer_agents.evaluate import evaluate_team, self_consistency, single_call
from tracer_agents.generators.scripted import ScriptedGenerator
from tracer_agents.rollout import Player, Probing, play
from tracer_env import Action, Control, Costs, Game, OutcomeRewards, Role, TracerRewards
from tracer_env.errors import ConfigError, RewardError
from tracer_env.exact import build_tree, control_values, evaluate


def gold(request):
    return request.prompt.split("Which number is ")[1].split("?")[0]


def perfect_judge(request):
    standing = request.prompt.split("standing answer ")[1].split(" right?")[0]
    return "RIGHT" if standing == gold(request) else "WRONG\nno"


def script(right_first=0.5, right_after_wrong=0.9):
    def write(request, rng):
        if request.role is Role.REVIEWER:
            return perfect_judge(request)
        share = right_after_wrong if "WRONG" in request.prompt.split("=== Task")[0] else right_first
        return gold(request) if rng.random() < share else "-1"

    return write


def team_of(game, speak_prob):
    return {seat: Player(policy=seat.name, controller=FixedController(speak_prob)) for seat in game.rules.seats}


def questions(game, count):
    return [game.task.question(k % 20) for k in range(count)]


def probing(**settings):
    return Probing(**{"num_candidates": 4, "estimator": "rollout", "rewards": TracerRewards(), **settings})


def test_rollout_values_by_hand():
    game = Game(ToyTask(), rounds=3, rewards=OutcomeRewards(costs=Costs(per_call=0.1)))
    generator = ScriptedGenerator(script(right_first=0.0, right_after_wrong=1.0))
    (episode,) = play(game, team_of(game, 1.0), generator, questions(game, 1), seed=0, probing=probing())
    reviewer, proposer = episode.decisions
    # Always SPEAK: wrong, WRONG, right: U = 1 - 0.3. The reviewer silent: wrong, wrong again: U = -1 - 0.2.
    assert (reviewer.values.speak, reviewer.values.skip) == (pytest.approx(0.7), pytest.approx(-1.2))
    # The proposer silent after WRONG: the wrong answer stands, U = -1 - 0.2.
    assert (proposer.values.speak, proposer.values.skip) == (pytest.approx(0.7), pytest.approx(-1.2))
    assert [d.infoset for d in episode.decisions] == ["reviewer|votes=0|not_last", "proposer|votes=-1|last"]
    assert episode.state.correct


def test_rollout_values_are_unbiased():
    """Mean values against the expectation, worked out by hand, of a team that speaks with probability 1/2."""
    game = Game(ToyTask(), rounds=3, rewards="outcome")
    generator = ScriptedGenerator(script(), seed=5)
    episodes = play(
        game, team_of(game, 0.5), generator, questions(game, 6000), seed=1, probing=probing(num_candidates=1)
    )
    first = [e.decisions[0].values for e in episodes]
    speak, skip = np.array([v.speak for v in first]), np.array([v.skip for v in first])
    # SKIP: the answer, right half of the time, is kept or replaced by a fresh one, right half of the time: 0.
    # SPEAK, right (1/2): kept or replaced afresh: 1/2 (1) + 1/2 (0). Wrong (1/2): 1/2 (-1) + 1/2 (0.8) = -0.1.
    assert skip.mean() == pytest.approx(0.0, abs=4 / np.sqrt(6000))
    assert speak.mean() == pytest.approx(0.2, abs=4 / np.sqrt(6000))


def test_both_controls_are_valued_whichever_is_played():
    game = Game(ToyTask(), rounds=5, rewards="outcome")
    episodes = play(
        game, team_of(game, 0.5), ScriptedGenerator(script()), questions(game, 50), seed=2, probing=probing()
    )
    played = {d.control for e in episodes for d in e.decisions}
    assert played == {Control.SKIP, Control.SPEAK}
    for episode in episodes:
        assert all(d.values is not None for d in episode.decisions)
        assert len(episode.groups) == 5  # a group at every turn, the masked first one included


def test_one_value_is_the_episode_s_own_return():
    game = Game(ToyTask(), rounds=5, rewards=OutcomeRewards(costs=Costs(per_1k_tokens=1.0)))
    for e in play(
        game, team_of(game, 0.5), ScriptedGenerator(script()), questions(game, 20), seed=3, probing=probing()
    ):
        for d in e.decisions:
            own = d.values.speak if d.control is Control.SPEAK else d.values.skip
            assert own == pytest.approx(game.team_return(e.state))


def test_local_values_by_hand():
    costs = Costs(per_call=0.5)
    game = Game(ToyTask(), rounds=3, rewards=TracerRewards(costs=costs))
    texts = iter(["-1"] * 2 + ["WRONG", "RIGHT"] + ["0", "-1"])
    generator = ScriptedGenerator(lambda request, rng: next(texts))
    (episode,) = play(
        game, team_of(game, 1.0), generator, questions(game, 1), seed=0,
        probing=probing(num_candidates=2, estimator="local"),
    )  # fmt: skip
    reviewer, proposer = (d.values for d in episode.decisions)
    assert (reviewer.speak, reviewer.skip) == (0.0 - 0.5, -1.0)  # one verdict right, one wrong; the answer is wrong
    assert (proposer.speak, proposer.skip) == (0.0 - 0.5, -1.0)
    assert [g.rewards.tolist() for g in episode.groups] == [[-1, -1], [1, -1], [1, -1]]  # costs are not in groups


def test_the_played_index_is_independent_of_texts_and_rewards():
    game = Game(ToyTask(), rounds=5, rewards="outcome")

    def indices(right_share):
        count = iter(range(10**9))

        def write(request, rng):
            word = gold(request) if rng.random() < right_share else "-1"
            return f"{word} " + "x" * (next(count) % 4) if request.role is Role.PROPOSER else "RIGHT"

        task = ToyTask()
        game.task = task
        task.extract_answer = lambda text: text.split()[0]
        episodes = play(
            game, team_of(game, 1.0), ScriptedGenerator(write), questions(game, 200), seed=7, probing=probing()
        )
        found = []
        for e in episodes:
            for turn, group in zip(e.state.turns, e.groups, strict=True):
                matches = [k for k, c in enumerate(group.candidates) if c.utterance == turn.utterance]
                if turn.seat.role is Role.PROPOSER:
                    found.append(matches[0])
        return np.array(found)

    assert np.array_equal(indices(0.1), indices(0.9))
    shares = np.bincount(indices(0.5), minlength=4) / 600
    assert np.all(np.abs(shares - 0.25) < 0.08)


def test_probe_rate_samples_decisions_and_weights_them():
    game = Game(ToyTask(), rounds=5, rewards="outcome")
    episodes = play(
        game, team_of(game, 0.5), ScriptedGenerator(script()), questions(game, 300), seed=4,
        probing=probing(probe_rate=0.25),
    )  # fmt: skip
    decisions = [d for e in episodes for d in e.decisions]
    probed = [d.values for d in decisions if d.values is not None]
    assert len(probed) / len(decisions) == pytest.approx(0.25, abs=0.06)
    assert {v.weight for v in probed} == {4.0}


class Counting:
    """Counts what the wrapped generator is asked for."""

    def __init__(self, inner):
        self.inner, self.calls, self.requests = inner, 0, 0

    def generate(self, requests):
        self.calls += 1
        self.requests += len(requests)
        return self.inner.generate(requests)

    def reseed(self, seed):
        self.inner.reseed(seed)


def test_one_generator_call_per_round_and_no_more_texts_than_the_method_says():
    game = Game(ToyTask(), rounds=5, rewards="outcome")
    generator = Counting(ScriptedGenerator(script()))
    play(game, team_of(game, 1.0), generator, questions(game, 10), seed=0, probing=probing(num_candidates=4))
    assert generator.calls == 5
    assert generator.requests <= 10 * (5 * 4 + 5 * 4 // 2)  # K per turn, and T (T - 1) / 2 extra turns at most


def test_silence_costs_nothing_in_evaluation():
    game = Game(ToyTask(), rounds=5)
    generator = Counting(ScriptedGenerator(script()))
    figures, episodes = evaluate_team(game, team_of(game, 0.0), generator, questions(game, 10), seed=0)
    assert generator.requests == 10
    assert figures["calls_per_question"] == 1
    assert all(e.tokens_generated == e.state.tokens_spent for e in episodes)
    assert all(rate["speak_rate"] == 0 for rate in figures["speak_rates"].values())


def test_same_seed_same_episodes():
    game = Game(ToyTask(), rounds=5, proposers=2, reviewers=2, schedule="simultaneous", rewards="outcome")
    runs = []
    for _ in range(2):
        generator = ScriptedGenerator(script(), seed=1)
        runs.append(play(game, team_of(game, 0.5), generator, questions(game, 10), seed=9, probing=probing()))
    for a, b in zip(*runs, strict=True):
        assert a.state == b.state
        assert [d.values for d in a.decisions] == [d.values for d in b.decisions]


def test_baselines_by_hand():
    game = Game(ToyTask())
    answers = iter(["5", "7", "7"])
    one = ScriptedGenerator(lambda request, rng: next(answers))
    assert self_consistency(game, "p", one, [game.task.question(7)], samples=3)["accuracy"] == 1.0
    tie = iter(["5", "7", "6"])
    voted = self_consistency(
        game, "p", ScriptedGenerator(lambda request, rng: next(tie)), [game.task.question(7)], samples=3
    )
    assert voted["accuracy"] == 0.0  # the earliest of three different answers
    assert voted["calls_per_question"] == 3
    single = single_call(game, "p", ScriptedGenerator(["7"]), [game.task.question(7)], temperature=0.0)
    assert (single["accuracy"], single["tokens_per_question"]) == (1.0, 2.0)


class _Careless:
    def __init__(self, prob):
        self.prob = prob

    def speak_prob(self, infoset, features, mask):
        return self.prob

    def update(self, values):
        pass


def test_the_mask_is_the_game_s_and_probabilities_are_checked():
    game = Game(ToyTask(), rounds=1)
    never = {seat: Player(policy=seat.name, controller=_Careless(0.0)) for seat in game.rules.seats}
    (episode,) = play(game, never, ScriptedGenerator(["3"]), questions(game, 1), seed=0)
    assert episode.state.turns[0].utterance == "3"
    assert not episode.state.turns[0].control_corrected
    game = Game(ToyTask(), rounds=2)
    broken = {seat: Player(policy=seat.name, controller=_Careless(float("nan"))) for seat in game.rules.seats}
    with pytest.raises(ConfigError, match="reviewer_0"):
        play(game, broken, ScriptedGenerator(["3"]), questions(game, 1), seed=0)


@pytest.mark.parametrize("rewards", ["tracer", OutcomeRewards(costs=Costs(per_call=0.25))], ids=["tracer", "outcome"])
def test_logged_rewards_of_a_seat_add_up_to_its_return(rewards):
    game = Game(ToyTask(), rounds=5, rewards=rewards)
    for episode in play(game, team_of(game, 0.5), ScriptedGenerator(script()), questions(game, 20), seed=3):
        state, returns = game.start(episode.state.question), dict.fromkeys(game.rules.seats, 0.0)
        for turn in episode.state.turns:
            before, state = state, game.advance(state, {turn.seat: Action(turn.control, turn.utterance)})
            for seat, value in game.pay(before, state).items():
                returns[seat] += value
        logged = dict.fromkeys(game.rules.seats, 0.0)
        for turn, reward in zip(episode.state.turns, episode.rewards, strict=True):
            logged[turn.seat] += reward
        assert logged == pytest.approx(returns)


def test_bad_settings():
    game = Game(ToyTask())
    with pytest.raises(ConfigError, match="reviewer_0"):
        play(game, {game.rules.seats[0]: Player(policy="p", controller=make_fixed("always"))},
             ScriptedGenerator(["7"]), questions(game, 1), seed=0)  # fmt: skip
    with pytest.raises(ConfigError, match="'outcome' is of kind 'trajectory'"):
        probing(rewards=OutcomeRewards())
    with pytest.raises(ConfigError, match="estimator"):
        probing(estimator="guess")
    with pytest.raises(ConfigError, match="probe_rate"):
        probing(probe_rate=0)


class _NanRewards(TracerRewards):
    def turn_reward(self, before, turn):
        return float("nan")


def test_nan_rewards_name_scheme_and_seat():
    game = Game(ToyTask())
    with pytest.raises(RewardError, match=r"'tracer' scored a candidate of proposer_0 in turn 0 with nan"):
        play(game, team_of(game, 1.0), ScriptedGenerator(script()), questions(game, 1), seed=0,
             probing=probing(rewards=_NanRewards()))  # fmt: skip


def test_a_scripted_game_needs_no_generator_and_plays_what_is_exact():
    game = Game("simulated:default", rewards=OutcomeRewards(costs=Costs(per_call=0.05)))
    tree = build_tree(game)
    asked = [game.task.question(k) for k in range(3000)]
    figures, episodes = evaluate_team(game, team_of(game, 0.4), None, asked, seed=3)
    error = np.std([game.team_return(e.state) for e in episodes]) / len(asked) ** 0.5
    assert abs(figures["team_return"] - evaluate(tree, 0.4).team_return) < 4 * error
    assert all(e.tokens_generated == e.state.tokens_spent and not e.groups for e in episodes)


def test_both_controls_of_a_scripted_game_are_valued_on_its_own_texts():
    game = Game("simulated:default", rounds=3, rewards=OutcomeRewards())
    asked = [game.task.question(k) for k in range(4000)]
    episodes = play(game, team_of(game, 0.5), None, asked, seed=0, probing=probing())
    values = control_values(build_tree(game), 0.5)
    reviews = [e.decisions[0].values for e in episodes]
    assert np.mean([v.speak - v.skip for v in reviews]) == pytest.approx(
        float(np.diff(_mean_review(build_tree(game), values))[0]), abs=0.06
    )


def _mean_review(tree, values):
    """Mean values of both controls over all decisions of the first review round."""
    first = tree.depth_slices[1]
    weights = values.reach[first] / values.reach[first].sum()
    return weights @ values.values[first]


def test_a_live_game_needs_a_generator():
    game = Game(ToyTask())
    with pytest.raises(ConfigError, match="needs a generator"):
        play(game, team_of(game, 0.5), None, questions(game, 1), seed=0)


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("task", ["simulated:default", "recorded:arithmetic-train"])
def test_no_model_is_trained_or_measured_on_texts_that_it_does_not_write(command, task, tmp_path, capsys):
    arguments = [command, "--task", task] + (["--run-dir", str(tmp_path / "run")] if command == "train" else [])
    assert main(arguments) == 1
    assert "brings its texts itself" in capsys.readouterr().err
