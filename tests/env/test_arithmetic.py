"""The arithmetic task: right golds, disjoint splits, determinism, checked knobs."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from tracer_env.errors import ConfigError, SplitError, UnknownNameError
from tracer_env.tasks.arithmetic import CONSTRUCTS, ArithmeticTask, Plan, Step
from tracer_env.tasks.base import Task

# Written independently of Step.equations: the value after a step as one exact formula.
_MEANING = {
    "gain": lambda v, n, m: v + n,
    "loss": lambda v, n, m: v - n,
    "groups_in": lambda v, n, m: v + n * m,
    "groups_out": lambda v, n, m: v - n * m,
    "times": lambda v, n, m: v * n,
    "share": lambda v, n, m: v / n,
    "more": lambda v, n, m: v + n,
    "fewer": lambda v, n, m: v - n,
    "reversed_more": lambda v, n, m: v - n,  # "A has n more than B": B has n fewer
    "reversed_fewer": lambda v, n, m: v + n,
}


def test_is_a_task() -> None:
    task = ArithmeticTask("test")
    assert isinstance(task, Task)
    assert task.num_questions() is None
    question = task.question(17)
    assert question.question_id == "arithmetic/test/17"
    assert question.kind == task.kind == "number"
    assert task.answers_match(task.extract_answer(f"so\n#### {question.gold}"), question.gold)
    assert not task.answers_match(task.extract_answer(f"#### {int(question.gold) + 1}"), question.gold)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_golds_equal_an_independent_evaluation(split: str) -> None:
    task = ArithmeticTask(split)
    for index in range(2000):
        plan, question = task.plan(index), task.question(index)
        value = Fraction(plan.start)
        for step in plan.steps:
            value = _MEANING[step.construct](value, step.number, step.size)
            assert value.denominator == 1
            assert 1 <= value <= 199
        assert question.gold == str(value)


def test_every_number_of_the_plan_is_in_the_text_in_order() -> None:
    task = ArithmeticTask("train")
    for index in range(1000):
        plan = task.plan(index)
        numbers = [int(n) for n in re.findall(r"\d+", task.question(index).text)]
        expected = [plan.start]
        for step in plan.steps:
            expected += [step.number, step.size] if step.size else [step.number]
        # one template names the size of a group before their number
        assert sorted(numbers) == sorted(expected)
        assert numbers[0] == plan.start


def test_questions_ask_about_the_person_of_the_last_comparison() -> None:
    task = ArithmeticTask("train", constructs=("reversed_more",), min_steps=1, max_steps=1)
    text = task.question(0).text
    subject, asked = text.split()[0], re.search(r"does (\w+) have", text)
    assert asked is not None
    assert asked.group(1) != subject


def test_splits_are_disjoint_up_to_renaming() -> None:
    keys = {
        split: {ArithmeticTask(split).plan(index).key() for index in range(20_000)}
        for split in ("train", "validation", "test")
    }
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]
    assert all(len(found) > 19_000 for found in keys.values())


def test_splits_are_disjoint_between_different_knobs() -> None:
    easy = {ArithmeticTask("test", max_steps=2, max_number=40).plan(i).key() for i in range(3000)}
    assert not easy & {ArithmeticTask("train").plan(i).key() for i in range(20_000)}


def test_same_index_same_question_in_any_order_and_instance() -> None:
    one, two = ArithmeticTask("validation"), ArithmeticTask("validation")
    ahead = [one.question(i) for i in range(200)]
    back = [two.question(i) for i in reversed(range(200))]
    assert ahead == back[::-1]
    assert len({q.text for q in ahead}) == 200
    assert ahead != [ArithmeticTask("validation", max_factor=4).question(i) for i in range(200)]


def test_questions_do_not_change_between_versions() -> None:
    question = ArithmeticTask("test").question(17)
    assert (question.text, question.gold) == (
        "Tom has 32 cards. Ann has 25 fewer cards than Tom. Ann wins 52 cards. Ann buys 37 more. "
        "How many cards does Ann have in the end?",
        "96",
    )


def test_knobs_bound_the_questions() -> None:
    task = ArithmeticTask(
        "train", min_steps=4, max_steps=4, min_number=2, max_number=9, max_factor=3, max_value=50,
        constructs=("gain", "groups_in", "times"),
    )  # fmt: skip
    for index in range(300):
        plan = task.plan(index)
        assert len(plan.steps) == 4
        assert {step.construct for step in plan.steps} <= {"gain", "groups_in", "times"}
        assert max(equation[3] for equation in plan.equations()) <= 50
        assert 2 <= plan.start <= 9


def test_all_constructs_appear() -> None:
    task = ArithmeticTask("train")
    assert {step.construct for i in range(300) for step in task.plan(i).steps} == set(CONSTRUCTS)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"min_steps": 0}, "min_steps"),
        ({"min_steps": 3, "max_steps": 2}, "max_steps"),
        ({"max_steps": True}, "max_steps"),
        ({"min_number": 0}, "min_number"),
        ({"max_number": 5}, "max_number"),
        ({"max_factor": 1}, "max_factor"),
        ({"max_value": 98}, "max_value"),
        ({"max_value": 199.0}, "max_value"),
        ({"constructs": ()}, "constructs"),
        ({"constructs": "gain"}, "constructs"),
        ({"data_dir": "/data"}, "needs no data"),
    ],
)
def test_bad_settings_are_errors(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArithmeticTask("train", **knobs)  # type: ignore[arg-type]


def test_unknown_names_are_errors() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'groups_in'"):
        ArithmeticTask("train", constructs=("group_in",))
    with pytest.raises(SplitError, match="validation"):
        ArithmeticTask("dev")
    with pytest.raises(IndexError, match="-1"):
        ArithmeticTask("train").question(-1)


def test_knobs_that_leave_no_question_are_an_error() -> None:
    task = ArithmeticTask("train", min_steps=20, max_steps=20, constructs=("share",))
    with pytest.raises(ConfigError, match="widen the numbers"):
        task.question(0)


def test_plan_key_and_equations_by_hand() -> None:
    plan = Plan(17, (Step("gain", 38), Step("groups_out", 3, 5), Step("share", 4)))
    assert plan.key() == "17 gain 38 groups_out 3x5 share 4"
    assert plan.equations() == ((17, "+", 38, 55), (3, "*", 5, 15), (55, "-", 15, 40), (40, "/", 4, 10))
    assert plan.answer == 10
