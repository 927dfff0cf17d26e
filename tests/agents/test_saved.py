"""Saved learners: they play and learn on as if nothing had happened, and files that are not whole are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tracer_agents import ControlValues
from tracer_agents.controllers.fixed import FixedController, GreedyController, ProposeReviewRevise
from tracer_agents.controllers.neural import (
    AdvantageNetwork,
    AdvantageSettings,
    RegretRegression,
    RegretRegressionSettings,
)
from tracer_agents.controllers.ppo import PPOController, PPOSettings
from tracer_agents.controllers.q_learning import QLearningController, QLearningSettings
from tracer_agents.controllers.reference import ReferenceController
from tracer_agents.controllers.reinforce import ReinforceController, ReinforceSettings
from tracer_agents.controllers.saved import load_learned, save_learned
from tracer_agents.controllers.states import load_stream, stream_state
from tracer_agents.controllers.storage import load_controllers, save_controllers
from tracer_agents.controllers.table import TabularController
from tracer_agents.controllers.thresholds import NEVER, ThresholdController, ThresholdRule
from tracer_agents.errors import CheckpointError
from tracer_env import FEATURES
from tracer_env.errors import ConfigError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

FREE = (True, True)
KEYS = ("proposer|votes=0|last", "proposer|votes=1", "reviewer|votes=0|not_last", "reviewer|γ")
# full reservoirs, of rows and of snapshots: only then their own streams matter
NETWORK = {"hidden": (8,), "capacity": 50, "steps": 5, "batch_size": 16, "snapshots": 3}
MAKE = {
    "q_learning": lambda: QLearningController(QLearningSettings(initial=0.25, epsilon_decay=0.7)),
    "q_learning, constant": lambda: QLearningController(QLearningSettings(learning_rate=0.3)),
    "reinforce": lambda: ReinforceController(ReinforceSettings(learning_rate=0.5)),
    "ppo": lambda: PPOController(PPOSettings(hidden=(8, 4), epochs=3), seed=5),
    "advantage network": lambda: AdvantageNetwork(AdvantageSettings(**NETWORK), seed=5),
    "advantage network, fresh": lambda: AdvantageNetwork(AdvantageSettings(**NETWORK, warm_start=False), seed=5),
    "regression": lambda: RegretRegression(RegretRegressionSettings(basis="linear", ridge=0.5)),
    "reference": ReferenceController,
}
every_learner = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def rows_of(rng, count):
    return rng.normal(size=(count, len(FEATURES))).astype(np.float32)


def batch(seed, size=20):
    rng = np.random.default_rng(seed)
    return [
        ControlValues(
            infoset=KEYS[rng.integers(len(KEYS))], skip=rng.normal(), speak=rng.normal(), weight=1.0 + rng.random(),
            features=row, speak_prob=float(rng.uniform(0.2, 0.8)), control=int(rng.integers(2)), returned=rng.normal(),
        )
        for row in rows_of(rng, size)
    ]  # fmt: skip


def plays(controller):
    rows = rows_of(np.random.default_rng(99), 12)
    return [controller.speak_prob(KEYS[k % len(KEYS)], row, FREE) for k, row in enumerate(rows)]


def assert_equal(one, other):
    assert plays(one) == plays(other)
    states = one.state(), other.state()
    assert list(states[0]) == list(states[1])
    for name, array in states[0].items():
        assert array.dtype == states[1][name].dtype
        assert np.array_equal(array, states[1][name]), name


def trained(make, updates=6):
    controller = make()
    for seed in range(updates):
        controller.update(batch(seed))
    return controller


def learns_on(one, other, updates=6):
    """Let both learn from the same batches, and compare them after each."""
    for seed in range(100, 100 + updates):
        for controller in (one, other):
            controller.update(batch(seed))
        assert_equal(one, other)


@every_learner
@pytest.mark.parametrize("updates", [0, 1, 6])
def test_a_loaded_learner_plays_the_same_and_learns_on_the_same(tmp_path, make, updates):
    learner = trained(make, updates)
    save_learned(tmp_path / "team.npz", {"proposer_0": learner})
    (loaded,) = load_learned(tmp_path / "team.npz").values()
    assert type(loaded) is type(learner)
    assert getattr(loaded, "settings", None) == getattr(learner, "settings", None)
    assert_equal(learner, loaded)
    assert (len(set(plays(learner))) > 1) == (updates > 0)
    if isinstance(learner, AdvantageNetwork):
        rows = rows_of(np.random.default_rng(98), 9)
        assert np.array_equal(learner.average_speak_probs(rows), loaded.average_speak_probs(rows))
        assert learner.loss == loaded.loss
    learns_on(learner, loaded)


@every_learner
def test_every_array_of_a_state_matters(make):
    """Take one array from an earlier state, as if it had been forgotten: play or later learning then differs."""
    whole, earlier = trained(make, 6).state(), trained(make, 4).state()
    compared = 0
    for name in whole:
        if whole[name].shape != earlier[name].shape or np.array_equal(whole[name], earlier[name]):
            continue
        if name == "loss" or (make is MAKE["advantage network, fresh"] and name.startswith("exp_avg")):
            continue  # the next update starts anew with these
        original, forgetful = make(), make()
        original.load_state(whole)
        forgetful.load_state({**whole, name: earlier[name]})
        if plays(original) == plays(forgetful):
            with pytest.raises(AssertionError):
                learns_on(original, forgetful)
        compared += 1
    assert compared or make is MAKE["regression"]  # which keeps one array, and it grows


@pytest.mark.parametrize("make", [MAKE["ppo"], MAKE["advantage network"]])
def test_the_moments_of_adam_matter_by_what_is_learned_next(make):
    whole = trained(make)
    forgetful = make()
    zeros = {k: np.zeros_like(a) if k.startswith(("step_", "exp_avg")) else a for k, a in whole.state().items()}
    forgetful.load_state(zeros)
    assert plays(forgetful) == plays(whole)
    for controller in (whole, forgetful):
        controller.update(batch(100))
    assert plays(forgetful) != plays(whole)


@every_learner
def test_a_state_is_a_copy(make):
    learner, other = trained(make), make()
    state = learner.state()
    kept = {name: array.copy() for name, array in state.items()}
    other.load_state(state)
    for controller in (learner, other):
        controller.update(batch(7))
    assert all(np.array_equal(kept[name], array) for name, array in state.items())


def test_what_never_learns_comes_back(tmp_path):
    inner = ThresholdRule(threshold=0.1 + 0.2, unknown=True)
    team = {
        "proposer_0": ThresholdController("p_right", proposer=inner, reviewer=NEVER),  # -inf
        "proposer_1": FixedController(1 / 3),
        "reviewer_0": ProposeReviewRevise(2),
    }
    save_learned(tmp_path / "team.npz", team)
    loaded = load_learned(tmp_path / "team.npz")
    assert {seat: (type(c), vars(c)) for seat, c in loaded.items()} == {s: (type(c), vars(c)) for s, c in team.items()}


def test_seats_that_share_an_object_share_it_again(tmp_path):
    shared, own = trained(MAKE["ppo"]), trained(MAKE["q_learning"])
    team = {"proposer_0": shared, "proposer_1": own, "reviewer_0": shared, "reviewer_1": FixedController(0.5)}
    save_learned(tmp_path / "team.npz", team)
    loaded = load_learned(tmp_path / "team.npz")
    assert list(loaded) == list(team)
    assert loaded["proposer_0"] is loaded["reviewer_0"]
    assert len({id(controller) for controller in loaded.values()}) == 3
    with np.load(tmp_path / "team.npz") as file:
        assert {name.split("/")[0] for name in file.files} == {"team", "0", "1"}  # once each; one has no arrays
    equal = {"proposer_0": trained(MAKE["ppo"]), "reviewer_0": trained(MAKE["ppo"])}
    save_learned(tmp_path / "equal.npz", equal)
    assert len({id(controller) for controller in load_learned(tmp_path / "equal.npz").values()}) == 2
    save_learned(tmp_path / "empty.npz", {})
    assert load_learned(tmp_path / "empty.npz") == {}


class _Subclass(ReferenceController):
    pass


@pytest.mark.parametrize("other", [TabularController(), GreedyController(FixedController(0.2)), _Subclass()])
def test_other_classes_are_refused_before_anything_is_written(tmp_path, other):
    with pytest.raises(ConfigError, match=type(other).__name__):
        save_learned(tmp_path / "team.npz", {"proposer_0": other})
    assert not list(tmp_path.iterdir())


def test_a_learner_that_diverged_is_not_saved(tmp_path):
    learner = trained(MAKE["reinforce"])
    learner.theta[2] = np.inf
    with pytest.raises(CheckpointError, match="'theta' has numbers that are not finite"):
        save_learned(tmp_path / "team.npz", {"proposer_0": learner})
    assert not list(tmp_path.iterdir())


# --- files that are not whole ----------------------------------------------------------------------------------------


def change(path, header=None, **arrays):
    """Write a file again with another header, and with other arrays; None takes one away."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    if header is not None:
        content["team"] = np.array(header(content["team"].item()))
    content = {name: array for name, array in {**content, **arrays}.items() if array is not None}
    with open(path, "wb") as file:
        np.savez(file, **content)


def in_header(**given):
    return lambda text: json.dumps({**json.loads(text), **given})


def one(**given):
    return in_header(controllers=[{"kind": "q_learning", "given": {}, **given}])


TABLE = {"infosets": np.array(["a", "b"]), "q": np.zeros((2, 2)), "visits": np.zeros((2, 2)), "updates": np.array(3)}
BAD_HEADERS = {
    "another version": (in_header(format=2), "format 2"),
    "no version": (lambda text: "{}", "format"),
    "a list": (lambda text: "[]", ""),
    "no json": (lambda text: "{", ""),
    "an unknown class": (one(kind="os.system"), "os.system"),
    "a class by its path": (one(kind="tracer_agents.controllers.fixed.FixedController"), "kind of controller"),
    "a class that is a list": (one(kind=["fixed"]), ""),
    "an unknown setting": (one(given={"gamma": 0.9}), "gamma"),
    "a setting out of range": (one(given={"epsilon": 2.0}), "epsilon"),
    "another class": (one(kind="reinforce"), "its arrays should be"),
    "no such controller": (in_header(seats={"proposer_0": -1}), ""),
    "fewer controllers": (in_header(controllers=[], seats={}), "belong to no controller"),
}
BAD_ARRAYS = {
    "header taken away": ({"team": None}, "no learned controllers"),
    "one missing": ({"0/q": None}, "its arrays should be"),
    "one too many": ({"0/more": np.zeros(2)}, "more"),
    "of nobody": ({"1/q": np.zeros(2)}, "1/q"),
    "another shape": ({"0/q": np.zeros((2, 3))}, r"'q' is float64 of shape \(2, 3\)"),
    "another rank": ({"0/q": np.zeros(4)}, "'q'"),
    "another type": ({"0/q": np.zeros((2, 2), dtype=np.float32)}, "'q' is float32"),
    "one row too few": ({"0/q": np.zeros((1, 2))}, "one row"),
    "one set twice": ({"0/infosets": np.array(["a", "a"])}, "one row"),
    "not a number": ({"0/q": np.full((2, 2), np.nan)}, "'q' has numbers that are not finite"),
    "infinite": ({"0/visits": np.full((2, 2), np.inf)}, "not finite"),
    "negative visits": ({"0/visits": -np.ones((2, 2))}, "negative"),
    "negative updates": ({"0/updates": np.array(-1)}, "negative"),
    "pickled": ({"0/infosets": np.array(["a", {}], dtype=object)}, "allow_pickle=False"),
    "pickled header": ({"team": np.array({}, dtype=object)}, "allow_pickle=False"),
}


@pytest.fixture
def file(tmp_path):
    learner = QLearningController()
    learner.load_state(TABLE)
    save_learned(tmp_path / "team.npz", {"proposer_0": learner})
    assert load_learned(tmp_path / "team.npz")["proposer_0"].updates == 3
    return tmp_path / "team.npz"


@pytest.mark.parametrize(("header", "match"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_bad_header_is_refused_and_the_file_named(file, header, match):
    change(file, header)
    with pytest.raises(CheckpointError, match=rf"team\.npz.*{match}"):
        load_learned(file)


@pytest.mark.parametrize(("arrays", "match"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused_and_the_file_named(file, arrays, match):
    change(file, **arrays)
    with pytest.raises(CheckpointError, match=rf"team\.npz.*{match}"):
        load_learned(file)


def test_damaged_and_foreign_files_are_refused(file):
    whole = file.read_bytes()
    middle = whole.index(b"infosets.npy") + 150
    flipped = bytes([whole[middle] ^ 1])
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:middle] + flipped + whole[middle + 1 :]):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"team\.npz"):
            load_learned(file)
    with open(file, "wb") as out:
        np.save(out, np.zeros(3))
    with pytest.raises(CheckpointError, match=r"team\.npz"):
        load_learned(file)
    with pytest.raises(CheckpointError, match=r"absent\.npz"):
        load_learned(file.with_name("absent.npz"))


_WIDTH = len(FEATURES)
NEURAL = [
    ("ppo", "updates", np.array(-1)),
    ("ppo", "parameter_0", np.zeros((_WIDTH, 9), dtype=np.float32)),
    ("ppo", "exp_avg_sq_1", np.full(8, np.nan, dtype=np.float32)),
    ("advantage network", "updates", np.array(0)),
    ("advantage network", "updates", np.array(2)),  # there are 3 snapshots
    ("advantage network", "loss", np.zeros(0)),
    ("advantage network", "seen", np.array(49)),  # there are 50 rows
    ("advantage network", "rows", np.zeros((3, _WIDTH + 3))),
    ("advantage network", "snapshots", np.array([1, 2])),
    ("advantage network", "snapshot_1", np.zeros((2, 8))),
    ("advantage network", "generator", np.zeros(5056, dtype=np.uint8)),
    ("advantage network", "stream", np.zeros(5, dtype=np.uint64)),
]


@pytest.mark.parametrize(("learner", "name", "array"), NEURAL)
def test_networks_refuse_what_does_not_fit_and_stay_as_they_were(learner, name, array):
    spoiled, whole = trained(MAKE[learner]), trained(MAKE[learner])
    with pytest.raises(CheckpointError):
        spoiled.load_state({**spoiled.state(), name: array})
    assert_equal(spoiled, whole)


def test_settings_of_another_architecture_are_refused(tmp_path):
    save_learned(tmp_path / "team.npz", {"proposer_0": trained(MAKE["ppo"])})
    change(tmp_path / "team.npz", lambda text: text.replace("[8, 4]", "[8, 8]"))
    with pytest.raises(CheckpointError, match="'parameter_2'"):
        load_learned(tmp_path / "team.npz")


def test_streams_go_on_where_they_were():
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    rng.integers(10, dtype=np.int32)  # leaves half a word behind
    load_stream(other, stream_state(rng))
    drawn = [[g.integers(10, dtype=np.int32) for _ in range(5)] + g.random(3).tolist() for g in (rng, other)]
    assert drawn[0] == drawn[1]


def test_teams_without_networks_are_loaded_without_torch(file):
    code = (
        "import sys; from tracer_agents.controllers.saved import load_learned;"
        "load_learned(sys.argv[1]); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["learned", "tables"])
def test_no_flipped_byte_of_a_packed_file_ends_in_another_error(tmp_path, kind):
    """Nobody here packs files, but whoever tampers with one may: unpacking has errors of its own."""
    path = tmp_path / "team.npz"
    if kind == "learned":
        save_learned(path, {"proposer_0": trained(MAKE["q_learning"])})
    else:
        table = TabularController()
        table.update(batch(0))
        save_controllers(path, {"proposer_0": table})
    load = load_learned if kind == "learned" else load_controllers
    with np.load(path) as file:
        np.savez_compressed(path, **dict(file))
    load(path)
    whole, refused = path.read_bytes(), []
    for k in range(0, len(whole), 3):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1 :])
        try:
            load(path)  # some bytes tell dates and names that nobody reads
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) // 6
    assert all("team.npz" in message for message in refused)
