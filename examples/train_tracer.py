"""The main job: train a team of two language-model agents when to speak and what to say.

    python examples/train_tracer.py                 # the shipped model on arithmetic, minutes on a laptop
    python examples/train_tracer.py --preset paper  # the paper's configuration
    python examples/train_tracer.py --task gsm8k --data-dir DATA --model FOLDER
    python examples/train_tracer.py --help          # every setting

What it does, from top to bottom: measure the untrained team; alternate the two layers; learn the controllers anew with the
generators frozen; measure again on the same held-out questions. ``tracer train`` runs the same.
"""

from __future__ import annotations

import argparse
import sys

from tracer_agents import cli


def main() -> int:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_train_arguments(parser)
    parser.set_defaults(run_command=cli.train_command)
    return cli.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
