r"""Reads the final answer or verdict that a text states, and compares answers. Never raises on a text.

Reading is strict: what is stated ambiguously is None, not guessed. The *marker* that comes last in the text decides,
whatever stands before it, and an unreadable statement behind it is None:

* ``\boxed{...}`` with balanced braces;
* ``#### ...`` at the start of a line (the format of GSM8K's golds) or after a space; of several on a line the first;
* ``answer is ...``, ``answer: ...``, ``answer = ...`` (also ``final answer``, ``answer choice``), or ``Final answer``
  as a heading, with the statement on the same or the next filled line; ``the answer is correct`` is an assessment and
  no marker, nor is ``the answer was ...``, which tells of an earlier one;
* for numbers, ``A: ...`` on the last line (the format of GSM8K's published model solutions).

Only a text without any marker is read from its last line, by a rule of each kind:

* number: calculator marks, remarks in parentheses and list numbers aside, the line has one number; or what follows
  its last ``=`` does.
* choice: the line starts with a letter as options do (``C) ...``, ``C because ...``) and no other line of the text
  starts with another option; or it brackets one letter, and no line starts with an option.
* latex: the last ``$...$`` of the line, a displayed formula of several lines that ends the text, or the line itself
  when it holds at most one word.

Numbers are compared as exact fractions. A percent sign, a currency sign and a unit (``5 cm²``) are dropped, so ``10%``
is 10. A word that scales the number (``2 million``) makes it ambiguous and the answer None.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

from tracer_env.errors import MissingExtraError, UnknownNameError
from tracer_env.types import Verdict

__all__ = ["ANSWER_KINDS", "answers_match", "check_kind", "extract_answer", "parse_verdict"]

ANSWER_KINDS = ("number", "latex", "choice")

_MAX_STATEMENT = 1000
"""Characters looked at behind a marker, and the longest last line or LaTeX answer: bounds the cost of a long text."""
_MAX_REMEMBERED = 2000
"""Longer texts are read anew each time: bounds the memory that what was read before takes."""
_MAX_DIGITS = 400
"""A numeral of more digits, or with a larger power of ten, is not a number: bounds the cost of exact arithmetic."""
_MATH_TIMEOUT_S = 3
"""Whole seconds for each step of math-verify (it uses ``signal.alarm``)."""


def extract_answer(text: str, kind: str) -> str | None:
    r"""Return the final answer that ``text`` states.

    Args:
        text: any string, of any length.
        kind: one of ``ANSWER_KINDS``.

    Returns:
        A number as a plain numeral (``"1234.50"``, ``"-3/4"``, ``"1 4/5"``), a capital letter from A to J, or a LaTeX
        expression; None when there is none, or none that is unambiguous.

    Raises:
        UnknownNameError: if ``kind`` is unknown.

    >>> extract_answer("She pays 2 * $617.\n#### $1,234", "number")
    '1234'
    >>> extract_answer("The answer is 3 or 5.", "number") is None
    True
    >>> extract_answer("Hence **Answer: (C)** because a metal conducts.", "choice")
    'C'
    """
    if len(text) <= _MAX_REMEMBERED:
        return _extract_again(str(text), kind)
    return _extract(str(text), kind)


def _extract(text: str, kind: str) -> str | None:
    if kind not in _KINDS:
        raise UnknownNameError("answer kind", kind, ANSWER_KINDS)
    return _KINDS[kind][0](text)


# The candidates of a group are read once more when one of them is played, and recorded texts again and again.
_extract_again = lru_cache(maxsize=8192)(_extract)


def answers_match(prediction: str | None, gold: str, kind: str) -> bool:
    r"""Return whether two answers are the same.

    Args:
        prediction: an answer as ``extract_answer`` returns it; None never matches, nor does one of more than 1000
            characters.
        gold: the gold answer; LaTeX may stand in dollar signs.
        kind: one of ``ANSWER_KINDS``.

    Raises:
        UnknownNameError: if ``kind`` is unknown.
        MissingExtraError: for ``latex``, if two expressions differ as text and math-verify is not installed.

    >>> answers_match("1,234.00", "1234", "number"), answers_match("0.0004", "0.0009", "number")
    (True, False)
    """
    if kind not in _KINDS:
        raise UnknownNameError("answer kind", kind, ANSWER_KINDS)
    if prediction is None or len(prediction) > _MAX_STATEMENT:
        return False
    return _KINDS[kind][1](str(prediction), gold)


def check_kind(kind: str) -> None:
    """Raise at once, not in the middle of an episode, when answers of this kind cannot be compared here.

    Raises:
        MissingExtraError: for ``latex`` without math-verify.
    """
    if kind == "latex" and find_spec("math_verify") is None:
        raise _no_math_verify()


def _no_math_verify() -> MissingExtraError:
    return MissingExtraError("math-verify", "math", "comparing LaTeX answers")


# --- verdicts -----------------------------------------------------------------------------------------------------

_VERDICT = re.compile(
    r"\s*(?:[-+]\s+|\d{1,3}[.)]\s+)?(?:(?:verdict|judgement|judgment)\s*:\s*)?(right|wrong)\s*(?:$|[.,:;!(\u2013\u2014]|-(?!\w))",
    re.IGNORECASE | re.ASCII,
)
_VERDICT_WORD = re.compile(r"\b(?:right|wrong)\b", re.IGNORECASE | re.ASCII)
_MARKS = str.maketrans(dict.fromkeys("*_`#>~", " "))


def parse_verdict(text: str) -> Verdict | None:
    """Return the verdict on the first filled line of ``text``, or None.

    The line must be, after the Markdown marks of emphasis, headings, quotes and lists and an optional label
    ``Verdict:`` or ``Judgement:``, the word RIGHT or WRONG in any case, then the end of the line, punctuation
    (``. , : ; !`` or a dash) or a parenthesis. The other word must not occur on that line.

    >>> parse_verdict("**Verdict: WRONG** - step 2 adds instead of multiplying.")
    <Verdict.WRONG: 'WRONG'>
    >>> parse_verdict("Correct the sign in step 2.") is parse_verdict("RIGHT or WRONG") is None
    True
    """
    line = next((line for line in str(text).splitlines() if line.strip()), "")
    return _verdict_of_line(line) if len(line) <= _MAX_REMEMBERED else _verdict_of_line.__wrapped__(line)


@lru_cache(maxsize=8192)
def _verdict_of_line(line: str) -> Verdict | None:
    line = line.translate(_MARKS)
    found = _VERDICT.match(line)
    if found is None or len({word.upper() for word in _VERDICT_WORD.findall(line)}) != 1:
        return None
    return Verdict(found[1].upper())


# --- markers ------------------------------------------------------------------------------------------------------

_PHRASE_TAIL = (
    r"(?:\s+(?:choice|option|letter|to\s+(?:the|this)\s+(?:question|problem)))?[*_`\"']{0,4}(?:\s*[:=]|\s+is\b)"
    r"(?!\s+(?:(?:not|also|still|indeed|\w{1,20}ly|\d{1,3}\s?%)\s+){0,3}(?:correct|incorrect|right|wrong|valid|invalid)\b)"
)
_BOXED = re.compile(r"\\boxed\s*\{")
_HASHES = re.compile(r"^(?:[^#\n]*[ \t])?####(?!#)", re.MULTILINE)
_HEADING = re.compile(r"^[ \t#*_>]*(?:the[ \t]+)?final[ \t]+answer[ \t*_]*$", re.MULTILINE | re.IGNORECASE)
_PHRASE = re.compile(r"\banswer" + _PHRASE_TAIL, re.IGNORECASE)
_CHOICE_PHRASE = re.compile(r"\b(?:answer|option|choice)" + _PHRASE_TAIL, re.IGNORECASE)
_A_LINE = re.compile(r"[ \t]*A:")
_EMPTY = " \t\r*_:`$#>\\[](){}~."


def _find_statement(text: str, markers: Iterable[re.Match[str] | None]) -> str | None:
    """Return what stands behind the last marker (``""`` when it is empty or unbalanced); None without a marker."""
    boxed = _last_match(_BOXED, text)
    others = [m for m in (*markers, _last_match(_HASHES, text), _last_match(_HEADING, text)) if m is not None]
    last = max(others, key=lambda m: m.end(), default=None)
    if boxed is not None and (last is None or boxed.end() > last.end()):
        return _braced(text, boxed.end())
    if last is None:
        return None
    lines = text[last.end() : last.end() + _MAX_STATEMENT].splitlines()
    return next((line for line in lines if line.strip(_EMPTY)), "")


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for found in pattern.finditer(text):
        last = found
    return last


def _braced(text: str, start: int) -> str:
    """Return the text from ``start`` up to the brace that closes the one before it; ``""`` when none does."""
    depth = 1
    for i in range(start, min(start + _MAX_STATEMENT, len(text))):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return text[start:i]
    return ""


def _last_line_start(text: str) -> int:
    return text.rfind("\n", 0, len(text.rstrip())) + 1


def _last_line(text: str) -> str:
    """Return the last filled line; ``""`` when it is too long to be a statement."""
    line = text[_last_line_start(text) :].strip()
    return line if len(line) <= _MAX_STATEMENT else ""


_PLAIN_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\u2212\u2010\u2011]", "-"),
        (r"\\(?=[%$#&])|[$\u20ac\u00a3\u00a5]|\\[()\[\]]|\\left(?![A-Za-z])|\\right(?![A-Za-z])", ""),
        (r"\\!\s*", ""),
        (r"\\[,;: ]|~|\\quad\b", " "),
        (r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1"),
        (r"(?<=\d)\s*(?=\\[dt]?frac(?![a-z]))", " "),  # the mixed number 1\frac{4}{5} is 1 4/5
        (r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1/\2"),
        (r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)", r"\1/\2"),
        (r"(?<![^\s(\[{:])[*_`]{1,3}(?=\S)", ""),  # emphasis opens before a word; "9 * 2" and "9*2" stay
        (r"[*_`]{1,3}(?=[\s.,;:!?)\]}]|$)(?<!\s[*])", ""),
    )
)


def _plain(text: str) -> str:
    """Take currency signs, Markdown emphasis and the TeX around numbers and words away."""
    for pattern, replacement in _PLAIN_RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


# --- numbers ------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"[+-]?(?:\d+\s+(?=\d+/\d))?(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s*/\s*\d+(?:\.\d+)?|[eE][+-]?\d+)?",
    re.ASCII,
)
_MIXED = re.compile(r"([+-]?)(\d+) (\d+/\d+)", re.ASCII)
_CLAUSE_END = re.compile(
    r"[.;!?](?:\s|$)|,\s+(?![-+]?[\d.])|\b(?:because|since|as|where|when|if|so|given|which|but)\b", re.IGNORECASE
)
_REMARK = re.compile(r"\([^()]*\)")
_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_REFERENCE = re.compile(r"^\s*(?:[-+*\u2022]\s+|\d{1,2}[.)]\s+(?=\S))|\bstep\s+\d+", re.IGNORECASE)
_LEAD_IN = re.compile(r"[\s(\[{\"'\u201c\u2248:*_`]*(?:(?:approximately|about|exactly|only)\s+)?", re.IGNORECASE)
_TAIL = re.compile(
    r"[)\]}\"'\u201d\u2019]*\s*[%\u00b0\u00a2]?[)\]}\"'\u201d\u2019]*"
    r"(?:[.,:;!?]*\s*$|[.,:;!?]+\s+(?![-+]?[\d.])|\s*[\u2013\u2014]\s*(?!\d)|\s+\(|\s*/?\s*(?P<unit>[^\W\d_]+))"
)
_GOES_ON = re.compile(
    r"(?:\s*[^\W\d_]+,?\s+){0,3}?\s*(?:and|or|to|through|times|plus|minus|over|by|x)\s+[-+]?\.?\d"
    r"|\s*(?:hours?|hrs?|minutes?|mins?|feet|foot|ft|pounds?|lbs?|yards?|years?|months?|weeks?|days?|dollars?)"
    r"\s*,?\s*\d",
    re.IGNORECASE,
)
_NOT_A_UNIT = frozenset(
    "x y z n k b pi \u03c0 sqrt e squared cubed and or to dozen hundred thousand million mn billion bn trillion "
    "half halve third quarter fifth sixth eighth tenth hundredth thousandth".split()
)
"""Words that make another number of the one before them (or leave it open), so that the numeral is not the answer."""


def _extract_number(text: str) -> str | None:
    start = _last_line_start(text)
    statement = _find_statement(text, (_last_match(_PHRASE, text), _A_LINE.match(text, start)))
    return _lone_number(_last_line(text)) if statement is None else _stated_number(statement)


def _stated_number(statement: str) -> str | None:
    """Read the number that a statement opens with, or that its first clause's last ``=`` leads to."""
    clause = _CLAUSE_END.split(_without_remarks(_plain(statement)), maxsplit=1)[0]
    return _leading_number(clause.rpartition("=")[2])


def _lone_number(line: str) -> str | None:
    """Read the only number of an unmarked line, or the one that its last ``=`` leads to."""
    plain = _without_remarks(_plain(_REFERENCE.sub("", _CALCULATOR_MARK.sub("", line))))
    stated = plain.rpartition("=")[2]
    words = [word for word in stated.split() if any(c.isdigit() for c in word)]
    if len(words) != 1:
        return None
    if "=" in plain:
        return _leading_number(stated)
    return _leading_number(stated[stated.index(words[0]) :])


def _without_remarks(text: str) -> str:
    """Drop remarks in parentheses, unless nothing else is there."""
    rest = _REMARK.sub("", text)
    return rest if rest.strip(_EMPTY) else text


def _leading_number(text: str) -> str | None:
    """Read the number that ``text`` starts with; None when what follows makes it part of something else."""
    lead_in = _LEAD_IN.match(text)
    found = _NUMBER.match(text, lead_in.end() if lead_in else 0)
    if found is None:
        return None
    rest = text[found.end() :]
    tail = _TAIL.match(rest)
    if tail is None or _GOES_ON.match(rest):
        return None
    unit = (tail["unit"] or "a").lower().rstrip("\u00b2\u00b3")  # a superscript counts as a letter for the pattern
    singular = unit.removesuffix("s") if len(unit) > 3 else unit
    if singular in _NOT_A_UNIT or not unit.isalpha():
        return None
    return _numeral(found[0])


def _numeral(text: str) -> str | None:
    """Return a matched number without commas and extra spaces; None if it is too long or divides by zero."""
    numeral = re.sub(r"\s*/\s*", "/", " ".join(text.replace(",", "").split())).removeprefix("+")
    return None if _value(numeral) is None else numeral


def _value(numeral: str) -> Fraction | None:
    """Return the exact value of a numeral that ``_NUMBER`` matched whole."""
    if len(numeral) <= _MAX_DIGITS and numeral.isascii() and numeral.isdigit():
        return Fraction(int(numeral))  # most are plain; the rest of this function takes ten times as long
    mantissa, _, exponent = numeral.lower().partition("e")
    if sum(c.isdigit() for c in mantissa) > _MAX_DIGITS or len(exponent) > 4 or abs(int(exponent or 0)) > _MAX_DIGITS:
        return None
    mixed = _MIXED.fullmatch(numeral)
    whole, fraction = (mixed[1] + mixed[2], mixed[1] + mixed[3]) if mixed else ("0", numeral)
    top, _, bottom = fraction.partition("/")
    try:
        return Fraction(whole) + Fraction(top) / Fraction(bottom or "1")
    except ZeroDivisionError:
        return None


@lru_cache(maxsize=8192)
def _same_number(prediction: str, gold: str) -> bool:
    a, b = _stated_number(prediction), _stated_number(gold)
    return a is not None and b is not None and _value(a) == _value(b)


# --- multiple choice ----------------------------------------------------------------------------------------------

_LETTER = re.compile(
    r"[\s(\[{\"'\u201c*_`:]*(?:(?i:option|choice|letter|answer)\s*:?\s*)?[(\[{\"'\u201c*_`]*(?P<letter>[A-J])(?![\w'\u2019]|-\w)",
)
_BARE_LETTER = re.compile(r"[\s(\[{\"'\u201c*_`]*([a-j])[\s)\]}\"'\u201d.*_`]*", re.IGNORECASE | re.ASCII)
_SECOND_LETTER = re.compile(
    r"[)\]}\"'\u201d.*_`]*\s*(?:,|/|&|\||\bor\b|\band\b)\s*(?:or\s+|and\s+)?[(\[]*[A-J](?![\w'\u2019])"
)
_ARTICLE = re.compile(r"\s+(?!(?:because|since|as|is|given|due)\b)[^\W\d_]", re.IGNORECASE)
_OPTION_LINE = re.compile(r"[\s*_`>#-]*\(?([A-J])(?:[*_`]*[).:]|\s*$|\s*,?\s+(?:because|since)\b)", re.ASCII)
_BRACKETED = re.compile(r"[(\[]\s*([A-J])\s*[)\]]")


def _extract_choice(text: str) -> str | None:
    statement = _find_statement(text, (_last_match(_CHOICE_PHRASE, text),))
    return _lone_letter(text) if statement is None else _stated_letter(statement)


def _stated_letter(statement: str) -> str | None:
    plain = _plain(statement)
    bare = _BARE_LETTER.fullmatch(plain)
    if bare is not None:
        return bare[1].upper()
    found = _LETTER.match(plain)
    if found is None:
        return None
    rest = plain[found.end() :]
    is_article = found["letter"] in "AI" and _ARTICLE.match(rest)  # "A metal", "I think"
    return None if is_article or _SECOND_LETTER.match(rest) else found["letter"]


def _lone_letter(text: str) -> str | None:
    """Read the option that the last line of an unmarked text names, unless other lines name others."""
    line = _last_line(text)
    openings = {found[1] for found in map(_OPTION_LINE.match, text.splitlines()) if found}
    if _OPTION_LINE.match(line):
        return _stated_letter(line) if len(openings) == 1 else None
    bracketed = set(_BRACKETED.findall(line))
    return bracketed.pop() if len(bracketed) == 1 and not openings else None


def _same_choice(prediction: str, gold: str) -> bool:
    a, b = _stated_letter(prediction), _stated_letter(gold)
    return a is not None and a == b


# --- LaTeX --------------------------------------------------------------------------------------------------------

_MATH = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_DISPLAY = re.compile(r"(?:\$\$([^$]+)\$\$|\\\[((?:(?!\\\[).)+?)\\\])[\s.]*\Z", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
_HOPE = re.compile(r"\.?\s+I hope it is correct\.?\s*$", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
_TEXT_ONLY = re.compile(r"\s*\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*)\}\s*")
_BASE = re.compile(r"_\{?(\d+)\}?$", re.ASCII)
_CANONICAL_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\$|\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\!\s*|\^\s*\{?\s*\\circ\s*\}?", ""),
        (r"\\[,;: ]|~", " "),
        (r"\\[dt]frac(?![a-z])", r"\\frac"),
        (r"\s+", " "),
    )
)
_TOO_COSTLY = re.compile(
    r"\^\s*\{?\s*[-+]?\s*\d{5}|\^\s*(?:\{[^{}]*|\w\s*)\^|[)}]\s*\^\s*\{?\s*\d{3}|(?:\d{4}|[)}!])\s*!", re.ASCII
)
"""Powers and factorials whose evaluation may never end; off the main thread nothing could stop it."""


def _extract_latex(text: str) -> str | None:
    statement = _find_statement(text, (_last_match(_PHRASE, text),))
    if statement is None:
        statement = _last_line(text)
        segments = list(_MATH.finditer(statement))
        if segments:
            statement = segments[-1][0]
        elif (display := _DISPLAY.search(text[-_MAX_STATEMENT:])) is not None:
            statement = display[1] or display[2]
        elif not any(c.isalnum() for c in _ENVIRONMENT.sub("", statement)):
            return None  # a closing delimiter, a rule or a fence
        elif len(_WORD.findall(statement)) > 1:
            return None
    return _expression(statement) or None


def _expression(statement: str) -> str:
    """Take the sentence around an expression away: closing words, full stop and dollar signs."""
    text = _HOPE.sub("", statement).strip().strip("*").strip().removesuffix(".")
    opening = _MATH.match(text)
    if opening is not None and not any(c.isdigit() or c in "$\\" for c in text[opening.end() :]):
        text = next(group for group in opening.groups() if group is not None)
    return text.strip()


def _canonical(latex: str) -> str:
    text = latex.strip().removesuffix(".")
    for pattern, replacement in _CANONICAL_RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


def _same_latex(prediction: str, gold: str) -> bool:
    a, b = _canonical(prediction), _canonical(gold)
    if not a or not b:
        return False
    if a.replace(" ", "") == b.replace(" ", ""):
        return True
    word = _TEXT_ONLY.fullmatch(b)
    if word is not None:  # a word is compared as one: math-verify may read it as a product of variables
        inner = _TEXT_ONLY.fullmatch(a)
        return (inner[1] if inner else a).strip().casefold() == word[1].strip().casefold()
    numbers = _whole_number(a), _whole_number(b)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1]  # exact; math-verify rounds to six decimals
    if _base(a) != _base(b):
        return False  # math-verify drops the base: 52_8 would equal 52
    return _same_by_math_verify(a, b)


def _base(latex: str) -> str | None:
    found = _BASE.search(latex)
    return None if found is None else found[1]


def _whole_number(latex: str) -> Fraction | None:
    """Return the value of an expression that is one number and nothing else, else None."""
    plain = _plain(latex)
    found = _NUMBER.match(plain)
    if found is None or plain[found.end() :].strip() not in ("", "%"):
        return None
    numeral = _numeral(found[0])
    return None if numeral is None else _value(numeral)


def _same_by_math_verify(prediction: str, gold: str) -> bool:
    """Compare two expressions with math-verify; what it cannot read, or not in time, is not the same.

    Its time limits are signals, which work on the main thread only; elsewhere there is no limit beyond
    ``_TOO_COSTLY``.
    """
    if _TOO_COSTLY.search(prediction) or _TOO_COSTLY.search(gold):
        return False
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise _no_math_verify() from error
    limit = _MATH_TIMEOUT_S if threading.current_thread() is threading.main_thread() else None
    try:
        target, truth = (
            parse(f"${latex}$", fallback_mode="no_fallback", parsing_timeout=limit) for latex in (prediction, gold)
        )
        return bool(target and truth and verify(truth, target, timeout_seconds=limit))
    except Exception:  # model text never raises, whatever a parser of someone else's does with it
        return False


_KINDS: dict[str, tuple[Callable[[str], str | None], Callable[[str, str], bool]]] = {
    "number": (_extract_number, _same_number),
    "latex": (_extract_latex, _same_latex),
    "choice": (_extract_choice, _same_choice),
}
