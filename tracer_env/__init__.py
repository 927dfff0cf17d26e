"""The cooperative reasoning game of TRACER as a PettingZoo environment.

>>> import tracer_env
>>> env = tracer_env.parallel_env(task="arithmetic")
>>> observations, infos = env.reset(seed=0)
>>> sorted(observations)
['proposer_0', 'reviewer_0']

Needs numpy, gymnasium, pettingzoo and, for rendering, rich: no model and no torch.
"""

from __future__ import annotations

from pettingzoo.env_registry import register as _register

from tracer_env.aec import env, raw_env
from tracer_env.answers import answers_match, extract_answer, parse_verdict
from tracer_env.batch import Batch
from tracer_env.game import Game
from tracer_env.infosets import ABSTRACTIONS, FEATURES
from tracer_env.metrics import EpisodeMetrics, accuracy_interval, summarize
from tracer_env.parallel import parallel_env
from tracer_env.prompts import Prompt
from tracer_env.registry import load_task, register_task
from tracer_env.rendering import render
from tracer_env.rewards import (
    Costs,
    DifferenceRewards,
    OutcomeRewards,
    PotentialRewards,
    RewardKind,
    RewardScheme,
    TracerRewards,
)
from tracer_env.spaces import UtteranceSpace
from tracer_env.tasks.base import ScriptedTask, Task
from tracer_env.tasks.recorded import RecordedTask
from tracer_env.tasks.simulated import SIMULATED_TEAMS, SimulatedTask, SimulatedTeam
from tracer_env.types import (
    Action,
    Control,
    DialogueState,
    Question,
    Role,
    Rules,
    Seat,
    Turn,
    Utterance,
    Verdict,
)

__version__ = "0.1.0"

__all__ = [
    "ABSTRACTIONS",
    "FEATURES",
    "SIMULATED_TEAMS",
    "Action",
    "Batch",
    "Control",
    "Costs",
    "DialogueState",
    "DifferenceRewards",
    "EpisodeMetrics",
    "Game",
    "OutcomeRewards",
    "PotentialRewards",
    "Prompt",
    "Question",
    "RecordedTask",
    "RewardKind",
    "RewardScheme",
    "Role",
    "Rules",
    "ScriptedTask",
    "Seat",
    "SimulatedTask",
    "SimulatedTeam",
    "Task",
    "TracerRewards",
    "Turn",
    "Utterance",
    "UtteranceSpace",
    "Verdict",
    "accuracy_interval",
    "answers_match",
    "env",
    "extract_answer",
    "load_task",
    "parallel_env",
    "parse_verdict",
    "raw_env",
    "register_task",
    "render",
    "summarize",
]

_register("aec", "tracer/dialogue-v0", "tracer_env.aec:env")
_register("parallel", "tracer/dialogue-v0", "tracer_env.parallel:parallel_env")
