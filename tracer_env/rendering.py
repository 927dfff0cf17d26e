"""A dialogue as text: plain for golden files, in colours and columns for people.

``rich`` is imported only when something is shown.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

from tracer_env.types import DialogueState, Role, Turn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["RENDER_MODES", "clean", "render", "render_ansi", "show"]

RENDER_MODES = ["ansi", "human"]


def render(state: DialogueState) -> str:
    """Return the transcript as plain text, one block per turn, with the standing answer at the end."""
    lines = [f"Question {state.question.question_id}: {state.question.text}"]
    lines += [render_turn(turn) for turn in state.turns]
    status = f"standing answer: {state.answer}   votes: {state.votes:+d}   tokens: {state.tokens_spent}"
    if state.over:
        status += f"   gold: {state.question.gold}   {'right' if state.correct else 'wrong'}"
    return "\n".join([*lines, status]) + "\n"


def render_turn(turn: Turn) -> str:
    """Return one turn as plain text."""
    head = f"[{turn.round + 1}] {turn.seat.name} {turn.control.name}"
    if not turn.spoke:
        return head
    if turn.seat.role is Role.PROPOSER:
        read = f"answer={turn.answer}"
    else:
        read = f"verdict={None if turn.verdict is None else turn.verdict.value}"
    flags = [*_flags(turn), "tokens_estimated"] if turn.tokens_estimated else _flags(turn)
    body = "\n".join(f"    {line}" for line in turn.utterance.splitlines())
    return f"{head} ({read}, {turn.tokens_out} tokens{''.join(', ' + f for f in flags)})\n{body}"


def _flags(turn: Turn) -> list[str]:
    return [name for name in ("clipped", "control_corrected", "invalid") if getattr(turn, name)]


def render_ansi(state: DialogueState, width: int = 100) -> str:
    """Return the transcript with ANSI colours and aligned columns; the same on every machine.

    What is right and what is wrong is marked once the game is over, and never before.

    Args:
        state: the game to show.
        width: of every line, in terminal cells.
    """
    from rich.console import Console

    # The height is given as well: with the width alone, TERM=dumb would win.
    console = Console(
        file=StringIO(), width=width, height=25, force_terminal=True, color_system="standard", no_color=False,
        legacy_windows=False,
    )  # fmt: skip
    with console.capture() as shown:
        _print_question(console, state)
        for turn in state.turns:
            _print_turn(console, turn, reveal=state.over)
        _print_status(console, state)
    return shown.get()


def show(state: DialogueState, console: Console | None = None) -> None:
    """Print the newest round in the width and colours of the terminal; the question first, the outcome last."""
    if console is None:
        from rich.console import Console

        console = Console()
    with console.capture() as shown:
        if not state.turns:
            _print_question(console, state)
        else:
            console.print()
            for turn in state.turns:
                if turn.round == state.turns[-1].round:
                    _print_turn(console, turn, reveal=False)  # earlier rounds were printed without marks, too
            _print_status(console, state)
    # Not every stream can take every character; no text of a model may end a game.
    console.file.write(shown.get().encode(console.encoding, "replace").decode(console.encoding))
    console.file.flush()


# --- parts: everything foreign goes through ``clean`` into ``rich.text.Text``, which knows no markup -----------------

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    # C0 but tab and newline, DEL and C1; marks and overrides of direction; line separators; lone surrogates
)


def clean(text: str) -> str:
    r"""Return text that a terminal shows and does not obey: control characters as escapes, but tabs and newlines.

    >>> clean("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return _CONTROLS.sub(lambda m: ascii(m[0])[1:-1], text.replace("\r\n", "\n"))


def _line(text: str | None) -> str:
    """Return an answer on one line."""
    return "none" if text is None else clean(" ".join(text.split()))


def _print_question(console: Console, state: DialogueState) -> None:
    from rich.panel import Panel
    from rich.text import Text

    title = Text(f"Question {_line(state.question.question_id)}", style="dim")
    console.print(Panel(Text(clean(state.question.text), style="bold"), title=title, title_align="left"))


def _print_turn(console: Console, turn: Turn, *, reveal: bool) -> None:
    """Print a line of columns, and under it the text behind a bar that it cannot leave."""
    from rich.text import Text

    colour = "cyan" if turn.seat.role is Role.PROPOSER else "magenta"
    head = Text(style="" if turn.spoke else "dim")
    _add_column(head, Text(f"{turn.round + 1:>3}", "dim"), 3)
    _add_column(head, Text(turn.seat.name, f"bold {colour}"), 11)
    _add_column(head, Text(turn.control.name), 5)
    if turn.spoke:
        tokens = f"{'~' if turn.tokens_estimated else ''}{turn.tokens_out} tokens"
        _add_column(head, _read(turn, reveal), min(max(console.width - 68, 16), 40))  # leaves room for the flags
        _add_column(head, Text(f"{tokens:>13}", "dim"), 13)
        head.append(", ".join(_flags(turn)), "yellow")
    for k, line in enumerate(head.wrap(console, console.width)):  # flags that do not fit go below
        line.rstrip()
        console.print(Text("     " if k else "").append_text(line), soft_wrap=True)
    if not turn.spoke:
        return
    for line in Text(clean(turn.utterance)).wrap(console, max(console.width - 7, 1)):
        line.rstrip()
        console.print(Text.assemble("     ", ("│ ", colour), line), soft_wrap=True)


def _add_column(row: Text, cell: Text, width: int) -> None:
    cell.truncate(width, overflow="ellipsis", pad=True)
    row.append_text(cell).append("  ")


def _read(turn: Turn, reveal: bool) -> Text:
    """Return what was read from the text, marked right or wrong when that is no secret any more."""
    from rich.text import Text

    if turn.seat.role is Role.PROPOSER:
        read = Text(f"answer {_line(turn.answer)}")
    else:
        read = Text("no verdict" if turn.verdict is None else turn.verdict.value)
    if reveal:
        read.append(" ✓" if turn.correct else " ✗")
        read.stylize("green" if turn.correct else "red")
    return read


def _print_status(console: Console, state: DialogueState) -> None:
    from rich.text import Text

    facts = [("standing", _line(state.answer)), ("votes", f"{state.votes:+d}" if state.votes else "0")]
    facts += [("tokens", str(state.tokens_spent)), ("calls", str(state.calls_spent))]
    if state.over:
        facts.append(("gold", _line(state.question.gold)))
    line = Text("    ")
    for name, value in facts:
        line.append(f" {name} ", "dim").append(value, "bold" if state.over else "").append("  ")
    if state.over:
        line.append(" ✓ right" if state.correct else " ✗ wrong", "bold green" if state.correct else "bold red")
    if state.truncated:
        line.append("   token budget spent", "yellow")
    line.rstrip()
    console.print(line)
