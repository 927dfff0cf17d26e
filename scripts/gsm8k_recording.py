"""Make a recorded game out of published GSM8K solutions; no model is needed.

``python -m scripts.gsm8k_recording --data-dir DIR --out FILE.npz``. The data is github.com/openai/grade-school-math
(MIT): the test questions with one solution by each of four models, labelled right or wrong. A recording holds copies of
them; its manifest carries their licence.

**The team.** One proposer, one reviewer, five rounds of round_robin, ``decide="last"``. Each question is recorded in
four replicates: the j-th solution spoken on a path of replicate r is that of model (r + j) mod 4, so that over the
replicates every model speaks first, second and third equally often. The models never saw a review, or each other: a
proposal depends on how many were spoken before it and on nothing that was said. Each has one solution, so a node has
one candidate, and the pool of four proposals holds each model once.

**The reviewer** is a pocket calculator. It works the calculator marks ``<<48/2=24>>`` of the standing solution out
again, exactly, and says WRONG with the first mark that fails (``48/2 is 24, not 25.``), else RIGHT. A solution without
marks, and marks that it cannot read (letters, times, ``2(3)``, division by zero), are no ground for WRONG. Nearly all
marks were filled in by a calculator when the models wrote, so it rarely has anything to object to: see the rates that
are printed. Its RIGHT still counts as a vote, and votes survive only a proposal that repeats the standing answer: what
a controller can learn here is to trust agreement.

**What is unknown** stays unknown: token counts (the game estimates them from the text), log-probabilities, P(RIGHT) and
the temperature. There are no greedy solutions: the rows of ``greedy`` are empty texts with ``correct`` = -1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np

from tracer_agents.record import Asked, RecordPlan, record_chunk
from tracer_agents.records import software
from tracer_env import DialogueState, Game, Question, Role, Seat, Utterance
from tracer_env import prompts as wording
from tracer_env.answers import answers_match, extract_answer
from tracer_env.errors import ConfigError, DataFormatError, DataNotFoundError, TracerError
from tracer_env.exact import ExactFigures, best_policy, build_tree, evaluate
from tracer_env.recordings import Recording, Utterances, save_recording
from tracer_env.tasks.gsm8k import Gsm8kTask
from tracer_env.tasks.jsonl import read_jsonl
from tracer_env.tasks.sources import DATA_DIR_VARIABLE

__all__ = ["MODELS", "Rates", "Solution", "load_solutions", "make_recording", "measure", "review", "value_of"]

MODELS: Final = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
"""The four models, by their names in the data; their order is the rotation's."""
_QUESTIONS, _SOLUTIONS, _LICENCE = "test.jsonl", "example_model_solutions.jsonl", "LICENSE"
_SHORT_LICENCE = "MIT, Copyright (c) 2021 OpenAI; the text is in github.com/openai/grade-school-math"
_SETTINGS: Final[Mapping[str, Any]] = {
    "proposers": 1, "reviewers": 1, "rounds": 5, "schedule": "round_robin", "decide": "last", "on_invalid": "keep",
}  # fmt: skip


# --- the reviewer ---------------------------------------------------------------------------------------------------

_MARK = re.compile(r"<<([^<>]*)>>")
_NUMERAL = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+"
_TOKEN = re.compile(rf"\s*({_NUMERAL}|[-+*/()%])\s*", re.ASCII)
_STATED = re.compile(rf"\s*[-+]?(?:{_NUMERAL})\s*", re.ASCII)
_MAX_CHARS = 200
"""A longer mark is not read. Without powers a value has hardly more digits than its text: this bounds size and time."""
_MAX_PARENTHESES = 20
"""An expression with more is not read: bounds the recursion."""
_FLOAT_NOISE = Fraction(1, 10**9)
"""Relative error allowed beside rounding: the marks' calculator worked in floats (``3*2.1=6.300000000000001``)."""


class _Unreadable(Exception):
    """An expression that is outside the grammar."""


def value_of(expression: str) -> Fraction | None:
    """Work out an expression of numerals, ``+ - * / ( )`` and ``%`` (a hundredth) exactly.

    Args:
        expression: any string.

    Returns:
        Its value; None when it is none of these, too long, or divides by zero.

    >>> value_of("2 * (1,000 - 1) / 4"), value_of("50%"), value_of("9**9"), value_of("5+2(3)")
    (Fraction(999, 2), Fraction(1, 2), None, None)
    """
    if len(expression) > _MAX_CHARS or expression.count("(") > _MAX_PARENTHESES:
        return None
    tokens: deque[str] = deque()
    end = 0
    while end < len(expression):
        found = _TOKEN.match(expression, end)
        if found is None:
            return None
        tokens.append(found[1])
        end = found.end()
    try:
        value = _sum(tokens)
    except (_Unreadable, ZeroDivisionError):
        return None
    return None if tokens else value


def _sum(tokens: deque[str]) -> Fraction:
    value = _product(tokens)
    while tokens and tokens[0] in "+-":
        value = value + _product(tokens) if tokens.popleft() == "+" else value - _product(tokens)
    return value


def _product(tokens: deque[str]) -> Fraction:
    value = _factor(tokens)
    while tokens and tokens[0] in "*/":
        value = value * _factor(tokens) if tokens.popleft() == "*" else value / _factor(tokens)
    return value


def _factor(tokens: deque[str]) -> Fraction:
    sign = 1
    while tokens and tokens[0] in "+-":
        sign = -sign if tokens.popleft() == "-" else sign
    token = tokens.popleft() if tokens else ""
    if token == "(":
        value = _sum(tokens)
        if not tokens or tokens.popleft() != ")":
            raise _Unreadable
    elif token and token not in "*/)%":
        value = _number(token)
    else:
        raise _Unreadable
    if tokens and tokens[0] == "%":  # once: a mark of hundreds of them would leave the range of floats
        tokens.popleft()
        value /= 100
    return sign * value


def _number(numeral: str) -> Fraction:
    return Fraction(numeral.replace(",", "").removesuffix("."))


def _fault(mark: str) -> str | None:
    """Return what is wrong with a mark; None when it holds or cannot be read.

    A stated number holds when the value rounds to the digits that it shows: half a unit of the last one is allowed.
    """
    expression, _, stated = mark.rpartition("=")
    value = value_of(expression)
    if value is None or len(mark) > _MAX_CHARS or not _STATED.fullmatch(stated):
        return None
    stated = stated.strip()
    half_unit = Fraction(1, 2 * 10 ** len(stated.partition(".")[2]))
    if abs(value - _number(stated)) <= max(half_unit, _FLOAT_NOISE * abs(value)):
        return None
    return f"{expression.strip()} is {_written(value)}, not {stated}."


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value)
    short = f"{float(value):.6g}"
    return short if Fraction(short) == value else f"about {short}"


@cache  # a solution stands in many nodes
def review(solution: str) -> str:
    """Judge a solution by its calculator marks alone.

    Args:
        solution: any text.

    Returns:
        ``RIGHT`` or ``WRONG`` on the first line, the reason on the second.

    >>> print(review("Half of it is 48/2 = <<48/2=25>>25."))
    WRONG
    48/2 is 24, not 25.
    """
    marks = _MARK.findall(solution)
    fault = next(filter(None, map(_fault, marks)), None)
    if fault is not None:
        return f"WRONG\n{fault}"
    return "RIGHT\nNo calculation that can be checked fails." if marks else "RIGHT\nThere is nothing to check."


# --- the data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Solution:
    """One model's solution.

    Attributes:
        text: what the model wrote.
        labelled_right: the data's own label.
    """

    text: str
    labelled_right: bool


def find_folder(data_dir: Path | None) -> Path:
    """Return the folder with the questions and the solutions.

    Args:
        data_dir: it, or the folder that holds it as ``gsm8k``; None looks at ``TRACER_DATA_DIR``.

    Raises:
        DataNotFoundError: naming where it looked and what to pass.
    """
    variable = os.environ.get(DATA_DIR_VARIABLE)
    given = data_dir if data_dir is not None else Path(variable) if variable else None
    folders = [] if given is None else [given / "gsm8k", given]
    for folder in folders:
        if all((folder / name).is_file() for name in (_QUESTIONS, _SOLUTIONS)):
            return folder
    looked = f"looked in {' and '.join(map(str, folders))}" if folders else f"{DATA_DIR_VARIABLE} is not set"
    raise DataNotFoundError(
        f"no folder with both {_QUESTIONS} and {_SOLUTIONS}: {looked}. Pass --data-dir (or set {DATA_DIR_VARIABLE}) to "
        "a folder that holds them in gsm8k/; they are in grade_school_math/data of github.com/openai/grade-school-math."
    )


def load_solutions(folder: Path, questions: Sequence[Question]) -> list[tuple[Solution, ...]]:
    """Read the solutions of all models to the first questions of the test split.

    Args:
        folder: as ``find_folder`` returns it.
        questions: the questions, in the order of the data.

    Returns:
        For each question the solutions in the order of ``MODELS``.

    Raises:
        DataFormatError: if a row is malformed or belongs to another question.
    """
    rows = read_jsonl(folder / _SOLUTIONS)
    if len(rows) < len(questions):
        raise DataFormatError(f"{folder / _SOLUTIONS} has solutions to {len(rows)} questions, not {len(questions)}.")
    solutions = []
    for row, question in zip(rows, questions, strict=False):
        if row.text("question") != question.text:
            raise DataFormatError(f"{row.where}: is not about the question in the same line of {_QUESTIONS}.")
        solutions.append(tuple(_solution(row.where, row.fields.get(model), model) for model in MODELS))
    return solutions


def _solution(where: str, entry: Any, model: str) -> Solution:
    fields = entry if isinstance(entry, dict) else {}
    text, label = fields.get("solution"), fields.get("is_correct")
    if not isinstance(text, str) or not isinstance(label, bool):
        raise DataFormatError(f"{where}: field {model!r} must hold 'solution' (text) and 'is_correct' (true or false).")
    return Solution(text, label)


# --- the recording --------------------------------------------------------------------------------------------------


class _Questions(Gsm8kTask):
    """The test questions. Every text is read once: it stands in many nodes, and reading is what takes the time."""

    def __init__(self, folder: Path) -> None:
        super().__init__("test", folder)
        self._extract = cache(super().extract_answer)
        self._match = cache(super().answers_match)

    def extract_answer(self, text: str) -> str | None:
        """Return the stated answer."""
        return self._extract(text)

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        """Return whether two answers are the same."""
        return self._match(prediction, gold)


class _Script:
    """Writes for both seats: the next model's solution, or the calculator's review."""

    def __init__(self, spoken: Mapping[str, Sequence[str]]) -> None:
        """Take, for the id of each world, the solutions in the order in which it speaks them."""
        self._spoken = spoken

    def __call__(self, asked: Sequence[Asked], temperature: float) -> list[Utterance]:
        """Write one utterance for each. There is one text whatever the temperature: greedy ones are to be dropped."""
        return [Utterance(self._text(*ask)) for ask in asked]

    def _text(self, state: DialogueState, seat: Seat) -> str:
        if seat.role is Role.REVIEWER:
            return review("" if state.standing is None else str(state.standing.utterance))
        number = sum(turn.spoke and turn.seat.role is Role.PROPOSER for turn in state.turns)
        return self._spoken[state.question.question_id][number]


def make_recording(
    folder: Path, name: str, num_questions: int | None = None
) -> tuple[Recording, list[tuple[Solution, ...]]]:
    """Make the recording in memory.

    Args:
        folder: as ``find_folder`` returns it.
        name: of the recording, for its manifest.
        num_questions: the first so many test questions, at least 1; all by default.

    Returns:
        The recording, and the solutions that it was made of.

    Raises:
        ConfigError: if the number of questions is out of range.
        DataFormatError: if the data is malformed.
    """
    task = _Questions(folder)
    game = Game(task, **_SETTINGS)
    size = task.num_questions()
    count = size if num_questions is None else num_questions
    if not 1 <= count <= size:
        raise ConfigError(f"the number of questions must be from 1 to {size}, not {count}.")
    questions = [task.question(k) for k in range(count)]
    solutions = load_solutions(folder, questions)
    # The recorder plays each replicate as a question of its own, so that the state tells which one it is. Worlds and
    # the pool are ordered by question, then replicate: what it returns has the layout of the four-replicate recording.
    n = len(MODELS)
    worlds = [replace(q, question_id=f"{q.question_id}/{r}") for q in questions for r in range(n)]
    texts = [tuple(solution.text for solution in by_model) for by_model in solutions]
    spoken = {world.question_id: texts[w // n][w % n :] + texts[w // n][: w % n] for w, world in enumerate(worlds)}
    recording = record_chunk(game, _Script(spoken), worlds, RecordPlan(replicates=1, candidates=1, proposals=1))
    counts = {**recording.manifest, "replicates": n, "proposals": n}
    manifest = {**counts, **_manifest(game, folder, name, questions)}
    return replace(recording, manifest=manifest, questions=tuple(questions), greedy=_unknown(count)), solutions


def _unknown(count: int) -> Utterances:
    """Return rows for utterances that nobody made: no text, no answer, and not known whether right."""
    nothing = [None] * count
    empty = Utterances.of([Utterance()] * count, nothing, nothing, [False] * count)
    return replace(empty, correct=np.full(count, -1, dtype=np.int8))


def _manifest(game: Game, folder: Path, name: str, questions: Sequence[Question]) -> dict[str, Any]:
    licence = folder / _LICENCE
    asked = json.dumps([[q.question_id, q.text, q.gold] for q in questions])  # as tracer record does: hashes compare
    return {
        "name": name,
        "task": game.task.name,
        "split": game.task.split,
        "kind": game.task.kind,
        "settings": dict(_SETTINGS),
        "seed": None,  # nothing is drawn
        "temperature": None,  # the data does not say
        "greedy": "unknown: empty texts with correct = -1",
        "data": sha256(asked.encode()).hexdigest(),
        "sources": {file: sha256((folder / file).read_bytes()).hexdigest() for file in (_QUESTIONS, _SOLUTIONS)},
        "source": "github.com/openai/grade-school-math, grade_school_math/data",
        "license": licence.read_text(encoding="utf-8") if licence.is_file() else _SHORT_LICENCE,
        "prompts": sha256(Path(wording.__file__).read_bytes()).hexdigest(),
        "model": {
            "name": "+".join(MODELS),
            "proposers": list(MODELS),
            "reviewer": "calculator marks worked out again, scripts/gsm8k_recording.py",
            "sha256": sha256(Path(__file__).read_bytes()).hexdigest(),  # of this file: it is the reviewer
        },
        "code": software(),
    }


# --- what it measures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the labels say about solutions and reviewer; counts of solutions.

    Attributes:
        total: solutions.
        right: of these, labelled right.
        right_said_right: labelled right and reviewed RIGHT (true positives).
        wrong_said_right: labelled wrong and reviewed RIGHT (false positives).
        disagreements: solutions whose label is not what the library's own reading of the answer gives.
    """

    total: int
    right: int
    right_said_right: int
    wrong_said_right: int
    disagreements: int

    def lines(self) -> list[str]:
        """Return a report, one fact a line."""
        wrong = self.total - self.right
        return [
            f"solutions labelled right: {_share(self.right, self.total)}",
            f"labels that differ from the library's reading of the answer: {self.disagreements}",
            f"reviewer says RIGHT of a right solution (true positives): {_share(self.right_said_right, self.right)}",
            f"reviewer says RIGHT of a wrong solution (false positives): {_share(self.wrong_said_right, wrong)}",
        ]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f", {100 * part / whole:.2f} %" if whole else "")


def measure(questions: Sequence[Question], solutions: Sequence[Sequence[Solution]]) -> Rates:
    """Compare labels with the library's reading of the answers and with the reviewer's verdicts."""
    pairs = [(question, s) for question, by_model in zip(questions, solutions, strict=True) for s in by_model]
    said_right = [s.labelled_right for _, s in pairs if review(s.text).startswith("RIGHT")]
    read_right = [answers_match(extract_answer(s.text, q.kind), q.gold, q.kind) for q, s in pairs]
    return Rates(
        total=len(pairs),
        right=sum(s.labelled_right for _, s in pairs),
        right_said_right=sum(said_right),
        wrong_said_right=len(said_right) - sum(said_right),
        disagreements=sum(s.labelled_right != read for (_, s), read in zip(pairs, read_right, strict=True)),
    )


def exact_figures(path: Path) -> list[str]:
    """Return exact figures of policies of the recorded game, one a line; the best are chosen on the same questions."""
    rows: list[tuple[str, ExactFigures]] = []
    for abstraction in ("paper", "history"):
        tree = build_tree(Game(f"recorded:{path}", abstraction=abstraction))
        best = best_policy(tree)
        if not rows:
            rows += [("always speak", evaluate(tree, 1.0)), ("never speak (but for the first)", evaluate(tree, 0.0))]
        rows.append((f"best policy on {abstraction!r} keys, {'' if best.proven else 'not '}proven", best.figures))
    return [
        f"{name}: accuracy {100 * f.accuracy:.2f} %, {f.tokens_per_question:.1f} tokens (estimated), "
        f"{f.calls_per_question:.2f} utterances"
        for name, f in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the recording and print what it measures; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gsm8k_recording", description="Make a recorded game out of published GSM8K solutions."
    )
    parser.add_argument("--out", type=Path, required=True, help="the file to make, ending in .npz")
    parser.add_argument(
        "--data-dir", type=Path, help=f"folder that holds gsm8k/ with the data (default: {DATA_DIR_VARIABLE})"
    )
    parser.add_argument("--questions", type=int, help="the first so many test questions (default: all 1319)")
    parser.add_argument("--exact", action="store_true", help="also print exact figures of policies")
    args = parser.parse_args(argv)
    try:
        _run(args)
    except (TracerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    out: Path = args.out
    if out.suffix != ".npz":
        raise ConfigError(f"a recording is a file that ends in .npz, not {out}.")
    if out.exists():
        raise ConfigError(f"{out} is there already. Name another file or remove it.")
    start = time.perf_counter()
    folder = find_folder(args.data_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    recording, solutions = make_recording(folder, out.stem, args.questions)
    save_recording(out, recording)
    by_model = recording.proposals.correct.reshape(-1, len(MODELS)).mean(axis=0)
    print(f"{out}: {len(recording.questions)} questions, {recording.num_worlds} worlds, "
          f"{len(recording.tree)} utterances in their trees, {out.stat().st_size / 1e6:.1f} MB, "
          f"made in {time.perf_counter() - start:.0f} s")  # fmt: skip
    print(f"first proposals right: {100 * recording.proposals.correct.mean():.2f} %; "
          + ", ".join(f"{model} {100 * p:.2f} %" for model, p in zip(MODELS, by_model, strict=True)))  # fmt: skip
    print(*measure(recording.questions, solutions).lines(), sep="\n")
    if args.exact:
        print(*exact_figures(out), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
