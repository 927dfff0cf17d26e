from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracer_env.answers import ANSWER_KINDS, answers_match, extract_answer, parse_verdict
from tracer_env.errors import MissingExtraError, UnknownNameError
from tracer_env.tasks.gsm8k import Gsm8kTask
from tracer_env.tasks.math500 import Math500Task
from tracer_env.types import Utterance, Verdict

NUMBERS = [
    # explicit markers
    ("2 * 9 = 18\n#### 18", "18"),
    ("#### 1,234,567", "1234567"),
    ("#### -5", "-5"),
    ("#### 18\n#### 19", "19"),
    ("#### 18 dollars", "18"),
    ("She sells 3.\nA: 18", "18"),
    ("A: 3.50", "3.50"),
    ("A: -28,800", "-28800"),
    ("A: 5\nand then 7 more", "7"),  # "A:" is a marker on the last line only
    ("\\boxed{18}", "18"),
    ("\\boxed {18}", "18"),
    ("so $\\boxed{18 \\text{ dollars}}$.", "18"),
    ("\\boxed{\\frac{3}{4}}", "3/4"),
    ("\\boxed{-\\dfrac{3}{4}}", "-3/4"),
    ("\\boxed{1\\frac{3}{4}}", "1 3/4"),
    ("\\boxed{10,\\!080}", "10080"),
    ("Final answer: 3/4", "3/4"),  # flaw C12: read as 3
    ("Final answer: 72 dollars (from step 3)", "72"),  # flaw C12: read as 3
    ("The answer is $18.", "18"),
    ("The answer is 18.00.", "18.00"),
    ("The final answer to this problem is 18.", "18"),
    ("**Answer:** 18", "18"),
    ("**Answer**: 18", "18"),
    ("Answer: **18** apples", "18"),
    ("**Answer: 18**", "18"),
    ("## Final Answer\n\n18 apples\n", "18"),
    ("Answer:\n\\[\n18\n\\]", "18"),
    ("Answer: \\(18\\)", "18"),
    ("answer: +7", "7"),
    ("Answer: \u221218", "-18"),
    ("Answer: -$18", "-18"),
    ("Answer: $-18", "-18"),
    ("Answer: .5", ".5"),
    ("The answer is 50%.", "50"),
    ("The answer is 18cm", "18"),
    ("Answer: 60 miles/hour", "60"),
    ("The answer is (18)", "18"),
    ("The answer is about 18.33", "18.33"),
    ("The answer is 1e5", "1e5"),
    ("The answer is 18 because 9*2 = 17 + 1", "18"),
    ("The answer is 18, since x = 9", "18"),
    ("The answer is 9 * 2 = 18.", "18"),
    ("The answer is 2 ** 3 = 8", "8"),
    ("The answer is 5 apples * 2 = 10 apples.", "10"),
    ("The answer is x = 5", "5"),
    ("The answer is 18 \u2014 as shown", "18"),
    # the last marker decides
    ("#### Step 3: total\nSo the answer is 7", "7"),
    ("\\boxed{5}. No: the answer is 6.", "6"),
    ("The answer is \\boxed{6}", "6"),
    ("Answer: 18\nI hope the answer is correct.", "18"),
    ("The answer is wrong. He has 4 left.\n#### 4", "4"),
    ("#### 22\nMy previous answer was 40.", "22"),
    ("The earlier answer was 40, which forgot tax.\n40 + 8 = 48", "48"),
    ("#### 22\nThe answer is definitely correct.", "22"),
    ("#### 22\nI checked: the answer is 100% right.", "22"),
    # after a space as well, as the prompt's words allow
    ("17 + 5 = 22 #### 22", "22"),
    ("The total is 22. #### 22\n", "22"),
    ("\\boxed{5} #### 6", "6"),
    ("#### 6 so \\boxed{5}", "5"),
    ("x#### 22 or 23", None),
    # unreadable or ambiguous behind a marker: None, not a guess
    ("A: 10+John's age", None),
    ("A: -1.8 billion", None),
    ("#### 12,34", None),
    ("#### eighteen", None),
    ("#### 18 #### 19", None),
    ("\\boxed{x}", None),
    ("It is 4, so \\boxed{18", None),
    ("He has 4. Answer: unknown", None),
    ("Answer: 5\nAnswer: unknown", None),
    ("The answer is not 5.", None),
    ("The answer is 3 or 5", None),
    ("The answer is 3 to 5", None),
    ("The answer is 3-5", None),
    ("The answer is 3\u20135", None),
    ("The answer is 3, 5, 7.", None),  # flaw C13: accepted as 357
    ("The answer is 3,5,7.", None),
    ("The answer is 5 hours and 30 minutes", None),
    ("The answer is 5 hours 30 minutes", None),
    ("The answer is 3:30", None),
    ("The answer is 12/25/2020", None),
    ("The answer is 0.1.2", None),
    ("The answer is 5^2", None),
    ("The answer is 5\u00b2", None),
    ("The answer is \uff15", None),
    ("The answer is 2x", None),
    ("The answer is 2\\pi", None),
    ("The answer is 2 pi", None),
    ("The answer is 9 * x", None),
    ("The answer is 18 - as shown", None),
    ("The answer is 5 million", None),
    ("#### 2 millions", None),
    ("#### 1.5 bn", None),
    ("#### 2 thirds", None),
    ("#### 3 halves", None),
    ("#### 4 dozen", None),
    ("#### 5 m\u00b2", "5"),
    ("Answer: 5 cm\u00b3.", "5"),
    ("Answer: 5 ns", "5"),
    ("The answer is 3/0", None),
    ("Answer: 1 234", None),
    ("The answer is 1e999999999", None),
    ("The answer is " + "9" * 401, None),
    ("The answer is " + "9" * 400, "9" * 400),
    # no marker: the last line, and only when it has one number
    ("18", "18"),
    ("3/4", "3/4"),
    ("1,234.50", "1234.50"),
    ("72 dollars (from step 3)", "72"),  # flaw C12
    ("9 * 2 = <<9*2=18>>18 dollars", "18"),
    ("First 5.\nThen she has $18 in the end.", "18"),
    ("Step 3: so x = 7", "7"),
    ("3, 5, 7", None),
    ("3,5,7", None),
    ("So 5 apples cost 10 dollars.", None),
    ("He pays 5 * 1", None),
    ("It grows 13 feet * 2 =", None),
    ("3. So it is done", None),
    ("COVID-19", None),
    ("5\u00b2", None),
    ("I do not know", None),
    ("", None),
    (" \n ", None),
]


@pytest.mark.parametrize(("text", "answer"), NUMBERS)
def test_number_is_read_or_declined(text: str, answer: str | None) -> None:
    assert extract_answer(text, "number") == answer


@pytest.mark.parametrize(
    ("prediction", "gold", "same"),
    [
        ("18", "18", True),
        ("18.00", "18", True),
        ("1,234", "1234", True),
        ("$18", "18", True),
        ("18 dollars", "18", True),
        ("10%", "10", True),
        ("0.75", "3/4", True),
        ("1 4/5", "1.8", True),
        ("-1 4/5", "-1.8", True),
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("6/8", "3/4", True),
        ("0.0004", "0.0009", False),  # flaw C13: accepted
        ("3, 5, 7", "357", False),  # flaw C13: accepted
        ("3,5,7", "357", False),
        ("0.333333", "1/3", False),
        ("9007199254740993", "9007199254740992", False),  # the same as floats
        ("18", "-18", False),
        ("x", "18", False),
        ("", "18", False),
        (None, "18", False),
    ],
)
def test_numbers_are_compared_exactly(prediction: str | None, gold: str, same: bool) -> None:
    assert answers_match(prediction, gold, "number") is same


CHOICES = [
    ("answer choice: B", "B"),  # flaw C14: read as C
    ("The answer is based on B", None),  # flaw C14: read as B
    ("answer based on", None),
    ("C because a metal", "C"),  # flaw C14: read as A
    ("Answer: C because a metal", "C"),
    ("**Answer: (C)**", "C"),
    ("**Answer:** C.", "C"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("\\boxed{\\mathbf{B}}", "B"),
    ("The answer is B.", "B"),
    ("The answer is option (C), since A is wrong", "C"),
    ("The correct option is **D) the last**", "D"),
    ("The correct choice is: E", "E"),
    ("Answer: Option J", "J"),
    ("Answer:\nD", "D"),
    ("Answer: b", "B"),
    ("answer: (c)", "C"),
    ("Answer: A, because", "A"),
    ("Answer: A) 5 m", "A"),
    ("Answer: B and not C", "B"),
    ("#### B", "B"),
    ("Answer: A\nAnswer: B", "B"),
    ("Answer: K", None),
    ("Answer: Because", None),
    ("Answer: C4H10", None),
    ("Answer: C-14 dating", None),
    ("Answer: D'Alembert", None),
    ("Answer: A metal conducts", None),
    ("Answer: I think C", None),
    ("The answer is a metal", None),
    ("Answer: B or C", None),
    ("Answer: B, C", None),
    ("Answer: (B)/(C)", None),
    ("the answer is correct", None),
    ("B", "B"),
    ("(B)", "B"),
    ("B) 5 m", "B"),
    ("So it must be (C).", "C"),
    ("A metal conducts", None),
    ("A) is wrong\nB) is right", None),
    ("either (C) or (D)", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), CHOICES)
def test_choice_is_read_or_declined(text: str, answer: str | None) -> None:
    assert extract_answer(text, "choice") == answer


def test_choices_match_by_letter() -> None:
    assert answers_match("C", "C", "choice")
    assert answers_match("(C)", "C", "choice")
    assert not answers_match("B", "C", "choice")
    assert not answers_match(None, "C", "choice")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so $x = \\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\frac{1}{2}", None),
        ("Final Answer: The final answer is $3\\sqrt{13}$. I hope it is correct.", "3\\sqrt{13}"),
        ("The answer is $x=5$ meters.", "x=5"),
        ("The answer is \\frac{14}{3}.", "\\frac{14}{3}"),
        ("#### \\pi", "\\pi"),
        ("Hence we get $2\\pi$.", "2\\pi"),
        ("5x - 7y + 11z + 4 = 0", "5x - 7y + 11z + 4 = 0"),
        ("I stay with it:\n\\[\nx = \\frac{1}{2}\n\\]", "x = \\frac{1}{2}"),
        ("\\[a\\]\nand so\n\\[\nb\n\\].", "b"),
        ("Hence\n$$\nx = 5\n$$", "x = 5"),
        ("```\n5\n```", None),
        ("so\n---", None),
        ("\\begin{align*}\nx &= 5\n\\end{align*}", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_latex_is_read_or_declined(text: str, answer: str | None) -> None:
    assert extract_answer(text, "latex") == answer


LATEX_PAIRS = [
    ("\\frac12", "\\frac{1}{2}", True),
    ("\\dfrac{17}{50}", "\\frac{17}{50}", True),
    ("0.5", "\\frac{1}{2}", True),
    ("x=5", "5", True),
    ("90", "90^\\circ", True),
    ("east", "\\text{east}", True),
    ("seat", "\\text{east}", False),
    ("-2, 1", "1,-2", True),
    ("2\\sqrt{3}", "\\sqrt{12}", True),
    ("11,111,111,100", "11,\\! 111,\\! 111,\\! 100", True),
    ("18.90", "\\$18.90", True),
    ("$\\frac{1}{2}$", "\\frac{1}{2}", True),
    ("52", "52_8", False),  # math-verify drops the base
    ("52_{8}", "52_8", True),
    ("3, 5, 7", "357", False),
    ("0.0004", "0.0009", False),
    ("0.00006721", "0.0000672", False),  # math-verify rounds to six decimals
    ("9^{9^{9^{9}}}", "5", False),  # would never end
    ("(9^9)!", "5", False),
    ("\\frac{", "5", False),
    ("", "5", False),
    (None, "5", False),
]


@pytest.mark.parametrize(("prediction", "gold", "same"), LATEX_PAIRS)
def test_latex_is_compared_by_value(prediction: str | None, gold: str, same: bool) -> None:
    pytest.importorskip("math_verify")
    assert answers_match(prediction, gold, "latex") is same


def test_latex_is_compared_off_the_main_thread() -> None:
    """math-verify's own time limits raise there."""
    pytest.importorskip("math_verify")
    verdicts: list[bool] = []
    pairs = [("2\\sqrt{3}", "\\sqrt{12}"), ("2\\sqrt{3}", "\\sqrt{13}"), ("9^{9^{9^{9}}}", "\\sqrt{13}")]
    thread = threading.Thread(target=lambda: verdicts.extend(answers_match(p, g, "latex") for p, g in pairs))
    thread.start()
    thread.join(timeout=60)
    assert verdicts == [True, False, False]


def test_latex_without_math_verify_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert answers_match("\\dfrac{1}{2}", "\\frac{1}{2}", "latex")  # equal as text: not needed
    with pytest.raises(MissingExtraError, match=r"tracer-env\[math\]"):
        answers_match("2\\sqrt{3}", "\\sqrt{12}", "latex")


def test_import_loads_no_extra() -> None:
    code = "import sys, tracer_env.answers; assert not {'math_verify', 'sympy', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="'number'"):
        extract_answer("5", "numbers")
    with pytest.raises(UnknownNameError, match="answer kind"):
        answers_match(None, "5", "float")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("RIGHT", "RIGHT"),
        ("wrong", "WRONG"),
        ("**RIGHT**", "RIGHT"),  # flaw C15: did not parse
        ("Verdict: WRONG", "WRONG"),  # flaw C15: did not parse
        ("**Verdict:** wrong", "WRONG"),
        ("**Verdict: RIGHT**", "RIGHT"),
        ("Judgement: RIGHT.", "RIGHT"),
        ("Judgment: RIGHT", "RIGHT"),
        ("\n\n## RIGHT.\nWRONG", "RIGHT"),
        ("> WRONG: step 2", "WRONG"),
        ("- RIGHT", "RIGHT"),
        ("1. RIGHT", "RIGHT"),
        ("`WRONG`", "WRONG"),
        ("RIGHT - all steps hold", "RIGHT"),
        ("RIGHT\u2014all steps hold", "RIGHT"),
        ("WRONG (step 2)", "WRONG"),
        ("RIGHT, the bright idea works", "RIGHT"),
        ("Correct the sign in step 2", None),  # flaw C15: parsed as RIGHT
        ("correct", None),
        ("RIGHT or WRONG", None),
        ("RIGHT/WRONG", None),
        ("RIGHT, not WRONG", None),
        ("WRONG! The right answer is 5", None),
        ("RIGHT?", None),
        ("not RIGHT", None),
        ("Right-hand side is off", None),
        ("RIGHT answer", None),
        ("rightly", None),
        ("I think so\nRIGHT", None),
        ("", None),
        ("\n \n", None),
    ],
)
def test_verdict_follows_the_grammar(text: str, verdict: str | None) -> None:
    assert parse_verdict(text) == (None if verdict is None else Verdict(verdict))


# --- real data ----------------------------------------------------------------------------------------------------

SENTENCES = [
    "{}",
    "The answer is {}.",
    "\\boxed{{{}}}",
    "She has 3 and 4.\n#### {}",
    "A: {}",
    "**Final answer:** ${} dollars (from step 3)",
    "Final Answer: The final answer is ${}$. I hope it is correct.",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_gsm8k_gold_matches_itself(shared_datasets: Path, sentence: str) -> None:
    golds = [
        task.question(i).gold
        for task in (Gsm8kTask("train", shared_datasets), Gsm8kTask("test", shared_datasets))
        for i in range(task.num_questions())
    ]
    assert len(golds) == 8792
    for shown in (str, lambda gold: f"{int(gold):,}"):
        wrong = [
            g for g in golds if not answers_match(extract_answer(sentence.format(shown(g)), "number"), g, "number")
        ]
        assert not wrong


def test_every_labelled_gsm8k_solution_is_judged_as_labelled(shared_datasets: Path) -> None:
    task = Gsm8kTask("test", shared_datasets)
    lines = (shared_datasets / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    num_judged = 0
    for i, row in enumerate(map(json.loads, lines)):
        assert row["question"].strip() == task.question(i).text
        solutions = [value for value in row.values() if isinstance(value, dict)]
        for solution in solutions:
            answer = task.extract_answer(solution["solution"])
            assert task.answers_match(answer, task.question(i).gold) is solution["is_correct"], solution["solution"]
        num_judged += len(solutions)
    assert num_judged == 5276


@pytest.mark.parametrize("sentence", ["{}", "The answer is {}.", "The answer is ${}$.", "so $\\boxed{{{}}}$."])
def test_every_math500_gold_matches_itself(shared_datasets: Path, sentence: str) -> None:
    task = Math500Task("test", shared_datasets)
    golds = [task.question(i).gold for i in range(task.num_questions())]
    wrong = [g for g in golds if not task.answers_match(task.extract_answer(sentence.format(g)), g)]
    assert not wrong


def _reworded(gold: str) -> list[str]:
    """Other ways to write a gold that the public code rejects (flaw C13)."""
    ways = [gold.replace(old, new) for old, new in (("^\\circ", ""), ("\\frac", "\\dfrac"), ("\\dfrac", "\\frac"))]
    ways.append(re.sub(r"^\\text\{([^{}]*)\}$", r"\1", gold))
    ways.append(re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold))
    if re.fullmatch(r"-?[\d.]+", gold):
        ways.append(f"x={gold}")
    fraction = re.fullmatch(r"\\frac\{(\d+)\}\{(2|4|5|8|16|40)\}", gold)
    if fraction:
        ways.append(str(int(fraction[1]) / int(fraction[2])))
    if re.fullmatch(r"[-\d]+(, ?[-\d]+)+", gold) and not re.fullmatch(r"\d+,\d{3}", gold):
        ways.append(", ".join(reversed(gold.split(","))))
    return [way for way in ways if way != gold]


def test_reworded_math500_golds_match(shared_datasets: Path) -> None:
    pytest.importorskip("math_verify")
    task = Math500Task("test", shared_datasets)
    golds = [task.question(i).gold for i in range(task.num_questions())]
    pairs = [(way, gold) for gold in golds for way in _reworded(gold)]
    assert len(pairs) > 400
    wrong = [(way, gold) for way, gold in pairs if not task.answers_match(way, gold)]
    assert not wrong


def test_no_math500_gold_matches_the_next_one_unless_equal(shared_datasets: Path) -> None:
    """A checker that accepts everything would pass the tests above."""
    pytest.importorskip("math_verify")
    task = Math500Task("test", shared_datasets)
    golds = sorted({task.question(i).gold for i in range(0, task.num_questions(), 4)})
    golds = [gold for gold in golds if "circ" not in gold]  # a missing degree sign is forgiven
    matches = [(a, b) for a, b in pairwise(golds) if task.answers_match(a, b)]
    assert matches == []


# --- any text -----------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(alphabet=st.characters(), max_size=200)  # lone surrogates included
PIECES = st.sampled_from(
    "#### |\\boxed{|}|{|The answer is |Answer: |A: |\n|$|\\frac{1}{2}|1,234|-|.5|/|%|=|(C)| B |RIGHT|Verdict: |^|!|_8|"
    "\\text{|**| or |9|e9|\ud800|\U0001f600|\u2212|\x00|\u0663".split("|")
)


@settings(max_examples=400, deadline=None)
@given(text=st.one_of(ANY_TEXT, st.lists(PIECES, max_size=20).map("".join)))
@example(text="\ud800")
@example(text="\U0001f600" * 100_000)
@example(text="#### " + "\ud800" * 100_000)
def test_no_text_raises(text: str) -> None:
    parse_verdict(text)
    for kind in ANSWER_KINDS:
        answer = extract_answer(text, kind)
        assert answer is None or type(answer) is str
        if kind != "latex":
            assert answer is None or answers_match(answer, answer, kind)
            answers_match(text, "5", kind)


@settings(max_examples=60, deadline=None)
@given(text=st.lists(PIECES, max_size=8).map("".join))
def test_no_latex_raises(text: str) -> None:
    pytest.importorskip("math_verify")
    assert answers_match(text, "\\sqrt{2} + 1", "latex") is False


LONG = [
    "9", " ", "\n", "#", "(", "*", "1 ", "1/", "1,111", "<<", "$", "\\boxed{", "####", "#### 1\n", "A:\n", "- ", "A) ",
    "the answer is ", "answer ", "final answer\n", "\\frac", "\\text{", "\t#*_>", "\ud800", "RIGHT ", "a.", "=", "= 1",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_are_cheap(piece: str) -> None:
    """100,000 characters of anything that a pattern could backtrack on; each call is far below a second."""
    pytest.importorskip("math_verify")
    body = piece * (100_000 // len(piece))
    for text in (body, "The answer is " + body, body + " x", "A:" + body + "\nx"):
        start = time.perf_counter()
        parse_verdict(text)
        for kind in ANSWER_KINDS:
            extract_answer(text, kind)
            answers_match(text, "5", kind)
        assert time.perf_counter() - start < 1.0


def test_an_utterance_gives_a_plain_string() -> None:
    assert type(extract_answer(Utterance("18", tokens_out=1), "number")) is str
