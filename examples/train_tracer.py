"""The main job: train a team of two language-model agents when to speak and what to say.

    python examples/train_tracer.py                 # the shipped model on arithmetic, minutes on a laptop
    python examples/train_tracer.py --preset paper  # the paper's configuration
    python examples/train_tracer.py --task gsm8k --data-dir DATA --model FOLDER
    python examples/train_tracer.py --help          # every setting

``tracer train`` does the same. The steps are those of ``tracer_agents/trainers/tracer.py``, which reads on from here.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tracer_agents import cli

if TYPE_CHECKING:
    from tracer_agents.trainers.tracer import Training


def train_team(training: Training) -> dict[str, Any]:
    """Train a prepared team; its model, adapters, controllers and questions are there already."""
    # 1. The untrained team on held-out questions: uniform controllers, untrained adapters. Beside it a single agent.
    training.measure_before()

    # 2. Alternate the two layers. Each update plays a batch of dialogues and probes every decision: K candidates are
    #    the played utterance, both controls' values, and the groups that GSPO trains on.
    for update in training.updates_left():
        training.update(update)

    # 3. Freeze the generators and learn the controllers anew on fresh questions: this is what is deployed.
    training.refit()

    # 4. The same held-out questions again.
    return training.measure_after()


def main() -> int:
    """Parse the options and train."""
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_train_arguments(parser)
    parser.set_defaults(run_command=lambda args: cli.train_command(args, train_team))
    return cli.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
