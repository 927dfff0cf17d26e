"""TensorBoard scalars and sample transcripts of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer_agents.controllers.table import TabularController
from tracer_agents.rollout import Episode
from tracer_env import render
from tracer_env.errors import MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes one run's event file. Its tags are listed in ``docs/concepts/training.md``."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Open the event file.

        Args:
            folder: where it goes.
            purge_step: when resuming, events from this step on are hidden, as they are written again.

        Raises:
            MissingExtraError: if tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "agents", "logging") from error
        self._writer: SummaryWriter = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, prefix: str, values: Mapping[str, Any], step: int) -> None:
        """Write every number of ``values`` (others are left out)."""
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def controllers(self, phase: str, controllers: Mapping[str, TabularController], step: int) -> None:
        """Write strategy, average strategy, regret and its bound of every information set, one section for each.

        Args:
            phase: ``"controller"`` in training, ``"refit"`` afterwards.
            controllers: by seat name.
            step: number of the update.
        """
        for seat, controller in controllers.items():
            external = controller.column("external_regret")
            for row, infoset in enumerate(controller.infosets):
                curves = {
                    "speak_prob": controller.current_strategy(infoset)[1],
                    "speak_prob_average": controller.average_strategy(infoset)[1],
                    "regret": external[row].max(),
                    "regret_bound": controller.bound(infoset),  # None without a promise
                }
                name = f"{seat} {' '.join(infoset.split('|')[1:])}"  # the seat says the role already
                for curve, value in curves.items():
                    if value is not None:
                        self._writer.add_scalar(f"{phase}_{curve}/{name}", value, step)

    def history(self, phase: str, controllers: Mapping[str, TabularController], first: int) -> None:
        """Write what was played, regret and its bound of every update that controllers remember, the later the sparser.

        Args:
            phase: as for ``controllers``.
            controllers: by seat name.
            first: the step before the first update.
        """
        curves = {"speak_prob": "profiles", "regret": "regret", "regret_bound": "bound"}
        for seat, controller in controllers.items():
            updates = np.unique(np.geomspace(1, controller.version, num=60).astype(np.int64))
            for row, infoset in enumerate(controller.infosets):
                name = f"{seat} {' '.join(infoset.split('|')[1:])}"
                for curve, kept in curves.items():
                    for update in updates.tolist():
                        known = controller.history[kept][update - 1]
                        if row < len(known) and np.isfinite(known[row]):
                            self._writer.add_scalar(f"{phase}_{curve}/{name}", known[row], first + update)

    def transcripts(self, name: str, episodes: Sequence[Episode], step: int) -> None:
        """Write whole dialogues as preformatted text."""
        blocks = ["\n".join("    " + line for line in render(e.state).splitlines()) for e in episodes]
        self._writer.add_text(name, "\n\n---\n\n".join(blocks), step)

    def flush(self) -> None:
        """Put everything on the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
