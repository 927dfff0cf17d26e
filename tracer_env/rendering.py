"""A dialogue as text for people and golden files. ``rich`` is imported only when something is shown."""

from __future__ import annotations

from tracer_env.types import DialogueState, Role, Turn

__all__ = ["RENDER_MODES", "render", "show"]

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
    flags = [n for n in ("clipped", "control_corrected", "invalid", "tokens_estimated") if getattr(turn, n)]
    body = "\n".join(f"    {line}" for line in turn.utterance.splitlines())
    return f"{head} ({read}, {turn.tokens_out} tokens{''.join(', ' + f for f in flags)})\n{body}"


def show(state: DialogueState) -> None:
    """Print the newest round with colours; the question first, the outcome last."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not state.turns:
        console.print(Text(f"Question {state.question.question_id}: {state.question.text}", style="bold"))
        return
    for turn in state.turns:
        if turn.round == state.turns[-1].round:
            style = "cyan" if turn.seat.role is Role.PROPOSER else "magenta"
            console.print(Text(render_turn(turn), style=style if turn.spoke else "dim"))
    if state.over:
        console.print(Text(render(state).rstrip("\n").rsplit("\n", 1)[-1], style="green" if state.correct else "red"))
