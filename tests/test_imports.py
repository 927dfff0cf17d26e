"""Who may import whom: checked in fresh processes and in the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "vllm", "datasets", "math_verify", "tensorboard"}


def loaded_by(code):
    program = f"import sys\n{code}\nprint(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("code", ["", "env = tracer_env.parallel_env(task='arithmetic'); env.reset(seed=0)"])
def test_the_environment_loads_no_learner_and_nothing_heavy(code):
    assert not loaded_by(f"import tracer_env\n{code}") & (HEAVY | {"tracer_agents", "rich"})


@pytest.mark.parametrize(
    "code",
    [
        "import tracer_agents",
        "import tracer_agents.rollout, tracer_agents.evaluate",
        "import tracer_agents.controllers.ppo, tracer_agents.controllers.neural",
        "from tracer_agents.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_learners_and_command_start_without_torch(code):
    assert not loaded_by(code) & HEAVY


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


ORDER = (
    ("types", "errors"),
    ("answers",),
    ("tasks.base",),
    ("ballots",),
    ("dialogue",),
    ("infosets", "prompts", "metrics"),
    ("rewards", "rendering", "recordings"),
    ("spaces", "tasks"),
    ("registry",),
    ("game",),
    ("batch", "face"),
    ("aec", "parallel"),
    ("testing", "wrappers", "exact"),
    ("open_spiel",),
)


def level(module):
    """A name stands for its module, or for a whole package unless a module of it is named itself."""
    for part in (module, module.rpartition(".")[0]):
        for depth, names in enumerate(ORDER):
            if part in {f"tracer_env.{name}" for name in names}:
                return depth
    return None


def test_the_environment_is_layered():
    for path in (ROOT / "tracer_env").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name == "__init__.py":
            continue
        own = level(module)
        assert own is not None, f"{module} has no place in the order of layers"
        for name in imports(path):
            assert not name.startswith("tracer_agents"), f"{module} imports {name}"
            if name.startswith("tracer_env."):
                assert level(name) <= own, f"{module} imports {name}, which lies above it"


def test_only_one_file_imports_trl():
    users = [
        p.name for p in (ROOT / "tracer_agents").rglob("*.py") if any(n.split(".")[0] == "trl" for n in imports(p))
    ]
    assert users == ["gspo.py"]
