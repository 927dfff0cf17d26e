"""A task whose answers are plain words, for tests of the rules: "42" proposes 42, "?" proposes nothing."""

from __future__ import annotations

from tracer_env import Action, Control, Game, Question, Utterance


class ToyTask:
    """Question i asks for i; an utterance is its own answer unless it is "?" or empty."""

    name = "toy"
    split = "train"
    kind = "number"

    def __init__(self, size: int | None = 20) -> None:
        self._size = size

    def num_questions(self) -> int | None:
        return self._size

    def question(self, index: int) -> Question:
        if self._size is not None and not 0 <= index < self._size:
            raise IndexError(index)
        return Question(f"toy/{index}", f"Which number is {index}?", str(index))

    def extract_answer(self, text: str) -> str | None:
        word = text.strip()
        return None if word in ("", "?") else word

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        return prediction is not None and prediction == gold


def speak(text: str, tokens: int = 1) -> Action:
    return Action(Control.SPEAK, Utterance(text, tokens_out=tokens))


SKIP = Action(Control.SKIP)


def toy_game(**settings: object) -> Game:
    return Game(ToyTask(), **settings)  # type: ignore[arg-type]


def play_script(game: Game, gold: int, *rounds: object):
    """Play rounds given as one action (single seat) or a tuple of actions in seat order; return all states."""
    states = [game.start(game.task.question(gold))]
    for actions in rounds:
        seats = game.acting(states[-1])
        listed = (actions,) if isinstance(actions, Action) else actions
        states.append(game.advance(states[-1], dict(zip(seats, listed, strict=True))))
    return states
