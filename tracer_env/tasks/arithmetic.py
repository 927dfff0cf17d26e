"""Procedural grade-school word problems: endless, seeded, with disjoint splits and no data to download.

A question is first drawn as a ``Plan`` (numbers and structure) and then dressed in words. The plan alone decides
the split, so that the same sum never appears in two splits under other names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracer_env.answers import answers_match, extract_answer
from tracer_env.errors import ConfigError, SplitError, UnknownNameError
from tracer_env.types import Question

__all__ = ["CONSTRUCTS", "ArithmeticTask", "Equation", "Plan", "Step"]

_SPLITS = ("train", "validation", "test")
_MAX_DRAWS = 10_000
_WORDS_PER_BLOCK = 128

_NAMES = (
    ("Tom", "He"), ("Ann", "She"), ("Ben", "He"), ("Eva", "She"), ("Sam", "He"), ("Mia", "She"), ("Leo", "He"),
    ("Zoe", "She"), ("Max", "He"), ("Lily", "She"), ("Omar", "He"), ("Nina", "She"), ("Ravi", "He"), ("Rosa", "She"),
    ("Ken", "He"), ("Ida", "She"),
)  # fmt: skip
_ITEMS = (
    "apples", "marbles", "stickers", "coins", "books", "cards", "shells", "pens",
    "eggs", "stamps", "beads", "cookies", "buttons", "stones", "flowers", "pencils",
)  # fmt: skip

# {S}: the subject at the start of a sentence (name or pronoun), {A}: its name, {B}: somebody else, {i}: the items,
# {n}: the step's number, {m}: the size of one group.
_START = ("{A} has {n} {i}.", "{A} starts with {n} {i}.", "{A} owns {n} {i}.")
_END = (
    "How many {i} does {A} have now?",
    "How many {i} does {A} have in the end?",
    "In the end, how many {i} does {A} have?",
)
_TEMPLATES = {
    "gain": ("{S} buys {n} more.", "{B} gives {A} {n} more {i}.", "Then {A} finds {n} more {i}.", "{S} wins {n} {i}."),
    "loss": ("{S} gives {n} to {B}.", "{S} loses {n} of them.", "Then {A} sells {n} {i}.", "{S} gives away {n} {i}."),
    "groups_in": (
        "{S} buys {n} bags of {m} {i} each.",
        "{B} brings {A} {n} boxes with {m} {i} in each.",
        "Then {A} gets {n} packs of {m} {i}.",
    ),
    "groups_out": (
        "{S} gives away {n} bags of {m} {i} each.",
        "{S} sells {n} boxes with {m} {i} in each.",
        "Then {A} gives {m} {i} to each of {n} friends.",
    ),
    "times": ("{B} has {n} times as many {i} as {A}.", "{B} owns {n} times as many as {A}."),
    "share": (
        "{S} shares them equally among {n} boxes and keeps one box.",
        "{S} packs all of them equally into {n} bags and keeps only one bag.",
        "{S} splits them into {n} equal piles and keeps one pile.",
    ),
    "more": ("{B} has {n} more {i} than {A}.", "{B} has as many as {A} and {n} more."),
    "fewer": ("{B} has {n} fewer {i} than {A}.", "{B} has {n} fewer than {A}."),
    "reversed_more": ("That is {n} more than {B} has.", "{A} has {n} more {i} than {B}."),
    "reversed_fewer": ("That is {n} fewer than {B} has.", "{A} has {n} fewer {i} than {B}."),
}

CONSTRUCTS: tuple[str, ...] = tuple(_TEMPLATES)
"""Every kind of sentence a question can hold, in the order in which ``constructs=`` is documented."""

_PASSES_ON = frozenset({"times", "more", "fewer", "reversed_more", "reversed_fewer"})
"""Constructs after which the question is about the other person."""

Equation = tuple[int, str, int, int]
"""Left operand, operator (one of ``+ - * /``), right operand, result."""


@dataclass(frozen=True, slots=True)
class Step:
    """One sentence of a question.

    Attributes:
        construct: one of ``CONSTRUCTS``.
        number: its number; for groups how many groups there are.
        size: the size of one group; 0 for other constructs.
    """

    construct: str
    number: int
    size: int = 0

    def equations(self, value: int) -> tuple[Equation, ...]:
        """Return the one or two equations that lead from ``value`` to the next value (the last result)."""
        n = self.number
        match self.construct:
            case "gain" | "more" | "reversed_fewer":
                return ((value, "+", n, value + n),)
            case "loss" | "fewer" | "reversed_more":
                return ((value, "-", n, value - n),)
            case "times":
                return ((value, "*", n, value * n),)
            case "share":
                return ((value, "/", n, value // n),)
        total = n * self.size
        if self.construct == "groups_in":
            return ((n, "*", self.size, total), (value, "+", total, value + total))
        return ((n, "*", self.size, total), (value, "-", total, value - total))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a question asks, without names and items.

    Attributes:
        start: the first number.
        steps: what happens to it, in order.
    """

    start: int
    steps: tuple[Step, ...]

    def equations(self) -> tuple[Equation, ...]:
        """Return all equations of the solution, in order."""
        value = self.start
        found: list[Equation] = []
        for step in self.steps:
            found.extend(step.equations(value))
            value = found[-1][3]
        return tuple(found)

    @property
    def answer(self) -> int:
        """The last value."""
        return self.equations()[-1][3]

    def key(self) -> str:
        """Return the canonical form that decides the split.

        >>> Plan(17, (Step("gain", 38), Step("groups_out", 3, 5))).key()
        '17 gain 38 groups_out 3x5'
        """
        steps = (f"{s.construct} {s.number}x{s.size}" if s.size else f"{s.construct} {s.number}" for s in self.steps)
        return " ".join((str(self.start), *steps))


class _Draws:
    """Cheap bounded draws from one numpy Generator: raw words are fetched by the block, as a single one costs 2 µs."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.default_rng(seed).bit_generator
        self._words: list[int] = []

    def below(self, stop: int) -> int:
        """Return an integer in ``range(stop)``; the bias of the modulus is below ``stop`` / 2**64."""
        if not self._words:
            self._words = self._bits.random_raw(_WORDS_PER_BLOCK).tolist()
        return int(self._words.pop() % stop)

    def between(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)


def _split_of(key: str) -> str:
    """60 % of all plans belong to train, 20 % each to validation and test (so that drawing again stays cheap)."""
    bucket = hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % 5
    return "validation" if bucket == 3 else "test" if bucket == 4 else "train"


class ArithmeticTask:
    """Word problems of ``min_steps`` to ``max_steps`` sentences about a number of things.

    A question is a function of the split, the knobs and the index alone. Splits are disjoint up to renaming: a
    question's numbers and structure are hashed, and the hash decides which split it may appear in.

    Attributes:
        name: ``"arithmetic"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        kind: ``"number"``.
    """

    name: str = "arithmetic"
    kind: str = "number"

    def __init__(
        self,
        split: str = "train",
        data_dir: str | Path | None = None,
        *,
        min_steps: int = 2,
        max_steps: int = 3,
        min_number: int = 10,
        max_number: int = 99,
        max_factor: int = 5,
        max_value: int = 199,
        constructs: Sequence[str] = CONSTRUCTS,
    ) -> None:
        """Store and check the settings.

        Args:
            split: which of the disjoint splits to draw from.
            data_dir: must be None; the task needs no data.
            min_steps: fewest steps of a question, at least 1.
            max_steps: most steps of a question.
            min_number: smallest number that is added, taken away or started with, at least 1.
            max_number: largest such number.
            max_factor: largest number of groups, shares or times, at least 2.
            max_value: no value on the way exceeds this.
            constructs: which of ``CONSTRUCTS`` appear; all are equally likely where they fit.

        Raises:
            ConfigError: if a setting is not allowed or ``data_dir`` is given.
        """
        if split not in _SPLITS:
            raise SplitError(f"task 'arithmetic' has the splits {', '.join(_SPLITS)}, not {split!r}.")
        if data_dir is not None:
            raise ConfigError(f"task 'arithmetic' needs no data; data_dir must be None, not {str(data_dir)!r}.")
        if isinstance(constructs, str) or not constructs:
            raise ConfigError(f"constructs must be a non-empty sequence of names, not {constructs!r}.")
        for construct in constructs:
            if construct not in _TEMPLATES:
                raise UnknownNameError("construct", construct, CONSTRUCTS)
        _check_range("min_steps", min_steps, 1, 20)
        _check_range("max_steps", max_steps, min_steps, 20)
        _check_range("min_number", min_number, 1, 10**9)
        _check_range("max_number", max_number, min_number, 10**9)
        _check_range("max_factor", max_factor, 2, 10**9)
        _check_range("max_value", max_value, max_number, 10**18)
        self.split = split
        self.min_steps = min_steps
        self.max_steps = max_steps
        self.min_number = min_number
        self.max_number = max_number
        self.max_factor = max_factor
        self.max_value = max_value
        self.constructs = tuple(constructs)
        knobs = (min_steps, max_steps, min_number, max_number, max_factor, max_value, *self.constructs)
        self._seed_prefix = "/".join(("arithmetic", split, *map(str, knobs)))

    def num_questions(self) -> int | None:
        """Return None: there is no last question."""
        return None

    def question(self, index: int) -> Question:
        """Return question ``index``.

        Raises:
            IndexError: if ``index`` is negative.
            ConfigError: if the knobs leave no question to draw.
        """
        plan, draws = self._draw(index)
        return Question(f"arithmetic/{self.split}/{index}", _wording(plan, draws), str(plan.answer), self.kind)

    def plan(self, index: int) -> Plan:
        """Return the plan behind question ``index`` (for scripts that write solutions)."""
        return self._draw(index)[0]

    def extract_answer(self, text: str) -> str | None:
        """Return the final number stated in ``text``, or None."""
        return extract_answer(text, self.kind)

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        """Return whether two answers are the same number."""
        return answers_match(prediction, gold, self.kind)

    def _draw(self, index: int) -> tuple[Plan, _Draws]:
        if index < 0:
            raise IndexError(f"question index must be at least 0, not {index}.")
        digest = hashlib.blake2b(f"{self._seed_prefix}/{index}".encode(), digest_size=16).digest()
        draws = _Draws(int.from_bytes(digest, "little"))
        for _ in range(_MAX_DRAWS):
            plan = self._draw_plan(draws)
            if plan is not None and _split_of(plan.key()) == self.split:
                return plan, draws
        raise ConfigError(
            f"no question of at least {self.min_steps} steps fits max_value={self.max_value} with the constructs "
            f"{', '.join(self.constructs)}; widen the numbers or allow more constructs."
        )

    def _draw_plan(self, draws: _Draws) -> Plan | None:
        num_steps = draws.between(self.min_steps, self.max_steps)
        start = value = draws.between(self.min_number, self.max_number)
        steps: list[Step] = []
        for _ in range(num_steps):
            step = self._draw_step(value, draws)
            if step is None:
                return None
            steps.append(step)
            value = step.equations(value)[-1][3]
        return Plan(start, tuple(steps))

    def _draw_step(self, value: int, draws: _Draws) -> Step | None:
        """Try constructs until one fits ``value``; a fixed number of times, so that bad knobs end in an error."""
        for _ in range(2 * len(self.constructs)):
            construct = self.constructs[draws.below(len(self.constructs))]
            step = _FITTING[construct](self, construct, value, draws)
            if step is not None:
                return step
        return None


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, not {value!r}.")


# --- numbers that fit: each returns None when the construct cannot follow the value --------------------------------


def _fit_add(task: ArithmeticTask, construct: str, value: int, draws: _Draws) -> Step | None:
    high = min(task.max_number, task.max_value - value)
    return Step(construct, draws.between(task.min_number, high)) if high >= task.min_number else None


def _fit_subtract(task: ArithmeticTask, construct: str, value: int, draws: _Draws) -> Step | None:
    high = min(task.max_number, value - 1)
    return Step(construct, draws.between(task.min_number, high)) if high >= task.min_number else None


def _fit_groups(task: ArithmeticTask, construct: str, value: int, draws: _Draws) -> Step | None:
    count = draws.between(2, task.max_factor)
    room = task.max_value - value if construct == "groups_in" else value - 1
    high = min(task.max_number, room) // count
    return Step(construct, count, draws.between(3, high)) if high >= 3 else None


def _fit_times(task: ArithmeticTask, construct: str, value: int, draws: _Draws) -> Step | None:
    high = min(task.max_factor, task.max_value // value)
    return Step(construct, draws.between(2, high)) if high >= 2 else None


def _fit_share(task: ArithmeticTask, construct: str, value: int, draws: _Draws) -> Step | None:
    count = draws.between(2, task.max_factor)
    return Step(construct, count) if value % count == 0 and value > count else None


_FITTING: dict[str, Callable[[ArithmeticTask, str, int, _Draws], Step | None]] = {
    "gain": _fit_add,
    "loss": _fit_subtract,
    "groups_in": _fit_groups,
    "groups_out": _fit_groups,
    "times": _fit_times,
    "share": _fit_share,
    "more": _fit_add,
    "fewer": _fit_subtract,
    "reversed_more": _fit_subtract,
    "reversed_fewer": _fit_add,
}


def _wording(plan: Plan, draws: _Draws) -> str:
    items = _ITEMS[draws.below(len(_ITEMS))]
    first = draws.below(len(_NAMES))
    people = [_NAMES[(first + k) % len(_NAMES)] for k in range(len(plan.steps) + 1)]
    name, pronoun = people[0]
    sentences = [_START[draws.below(len(_START))].format(A=name, n=plan.start, i=items)]
    somebody_else = False  # once a second person is named, a pronoun could mean either
    for step, (other, other_pronoun) in zip(plan.steps, people[1:], strict=True):
        templates = _TEMPLATES[step.construct]
        template = templates[draws.below(len(templates))]
        subject = pronoun if not somebody_else and draws.below(2) else name
        sentences.append(template.format(S=subject, A=name, B=other, n=step.number, m=step.size, i=items))
        somebody_else = somebody_else or "{B}" in template
        if step.construct in _PASSES_ON:
            name, pronoun = other, other_pronoun
    sentences.append(_END[draws.below(len(_END))].format(A=name, i=items))
    return " ".join(sentences)
