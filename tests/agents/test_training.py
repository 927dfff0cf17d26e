"""The whole training run, for real: shipped model, TRL, checkpoints, resuming, evaluation. Small sizes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tracer_agents import Candidate, Group, cli, record, refit
from tracer_agents.assembly import make_game, questions_of, seed_of
from tracer_agents.config import TrainConfig
from tracer_agents.errors import CollapseError
from tracer_agents.refit import ITERATIONS, kind_of_refit
from tracer_agents.trainers.tracer import CollapseGuard
from tracer_env.recordings import load_recording, save_recording

ROOT = Path(__file__).parents[2]
SMALL = [
    "--smoke", "--updates", "2", "--questions-per-update", "6", "--groups-per-update", "4",
    "--refit-questions", "8", "--eval-questions", "12", "--seed", "5", "--threads", "1",
]  # fmt: skip
FIGURES = {
    "num_questions", "accuracy", "accuracy_ci95", "tokens_per_question", "calls_per_question", "correction",
    "preservation", "corruption",
}  # fmt: skip


def train(folder, *options):
    return cli.main(["train", *SMALL, "--run-dir", str(folder), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train(folder) == 0
    return folder


def test_the_controllers_are_certified(finished, capsys):
    refit = json.loads((finished / "summary.json").read_text())["refit"]
    for options, task in (([], f"recorded:{finished / 'refit.npz'}"), (["--on", "recorded:arithmetic-test"],) * 2):
        assert cli.main(["certify", str(finished), *options, "--json"]) == 0
        certificate = json.loads(capsys.readouterr().out)
        assert certificate["rows"]
        assert max(row["updates"] for row in certificate["rows"]) == ITERATIONS
        game = certificate["game"]
        assert game["profiles"] == ITERATIONS  # what is deployed is from the re-fit
        assert game["task"] == (task if isinstance(task, str) else task[1])
        own = (refit["team_return"], refit["optimum"])
        assert ((game["team_return"]["greedy"], game["optimum"]) == pytest.approx(own)) == (not options)
    assert refit["kind"] == "recording"
    assert refit["team_return"] == max(refit["starts"])


def test_run_directory_layout(finished):
    present = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    expected = {"config.json", "manifest.json", "episodes.jsonl", "timing.jsonl", "summary.json"} | {
        f"final/{name}"
        for name in (
            "controllers.npz",
            "adapters/proposer_0/adapter_model.safetensors",
            "adapters/reviewer_0/adapter_model.safetensors",
        )
    }
    assert expected <= present
    assert any(name.startswith("tb/events") for name in present)
    assert (finished / "checkpoints" / "000002" / "state.json").exists()
    assert not [name for name in present if name.endswith((".pt", ".pth", ".bin", ".pkl"))]


def test_summary_has_every_row_and_figure(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for row in ("before", "after", "single_greedy", "single_sampled", "self_consistency_3", "always_speak"):
        assert set(summary[row]) >= FIGURES
        assert summary[row]["num_questions"] == 12
    assert summary["after"]["speak_rates"]
    followed = summary["cotraining_regret"]
    assert followed["updates"] == 2
    assert followed["dynamic"] >= max(followed["windowed"], followed["external"]) - 1e-9 > -1e-9
    assert {"after_sampled_average", "after_greedy_decoding", "trained_single_greedy"} <= summary.keys()
    assert summary["resumed_from_update"] is None
    assert (summary["seed"], summary["task"], summary["model"]) == (5, "arithmetic", "shipped")
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["packages"]["trl"]


def test_episodes_are_complete_and_hold_no_times(finished):
    lines = [json.loads(line) for line in (finished / "episodes.jsonl").read_text().splitlines()]
    phases = {line["phase"] for line in lines}
    assert {"before", "train", "after", "after_greedy_decoding", "always_speak"} <= phases
    assert len({line["episode_id"] for line in lines}) == len(lines)
    for line in lines:
        assert list(line) == [
            "episode_id", "phase", "update", "question_id", "seed", "turns", "final", "correct", "error",
        ]  # fmt: skip
        assert len(line["turns"]) == 5
        assert list(line["turns"][0]) == [
            "round", "agent", "control", "utterance", "answer", "verdict", "tokens_in", "tokens_out", "reward",
            "infoset",
        ]  # fmt: skip
        assert line["turns"][0]["utterance"]


def test_training_moves_both_layers(finished):
    adapters = load_file(finished / "final" / "adapters" / "proposer_0" / "adapter_model.safetensors")
    assert any(np.abs(value).max() > 0 for name, value in adapters.items() if "lora_B" in name)
    with np.load(finished / "final" / "controllers.npz", allow_pickle=False) as file:
        assert file["updates"].max() == ITERATIONS  # the re-fit starts anew
    timing = [json.loads(line) for line in (finished / "timing.jsonl").read_text().splitlines()]
    assert timing[-1]["proposer_0/steps"] > 0
    assert timing[-1]["proposer_0/ratio_max"] != 1.0


def episodes_of(folder):
    """Episodes by phase."""
    phases = {}
    for line in (folder / "episodes.jsonl").read_text().splitlines():
        record = json.loads(line)
        phases.setdefault(record["phase"], []).append(record)
    return phases


def test_deployed_is_the_greedy_average_of_the_refit(finished):
    rates = json.loads((finished / "summary.json").read_text())["after"]["speak_rates"]
    with np.load(finished / "final" / "controllers.npz", allow_pickle=False) as file:
        total = file["strategy_sum"]
        average = dict(zip(file["keys"].tolist(), total / total.sum(axis=1, keepdims=True), strict=True))
    learned = [key for key in rates if key in average]
    assert len(learned) >= 3
    for key in learned:
        assert rates[key]["speak_rate"] == (average[key][1] >= 0.5)
    assert {average[key][1] >= 0.5 for key in average} == {True, False}  # or always-speak would pass as well


def test_questions_are_fresh_and_evaluations_paired(finished):
    phases = episodes_of(finished)
    questions = {phase: [e["question_id"] for e in episodes] for phase, episodes in phases.items()}
    questions["refit"] = [q.question_id for q in load_recording(finished / "refit.npz").questions]
    for phase in ("train", "refit"):
        assert len(set(questions[phase])) == len(questions[phase])
        assert not set(questions[phase]) & set(questions["before"])
    assert not set(questions["train"]) & set(questions["refit"])
    evaluations = ["before", "after", "after_sampled_average", "after_last_iterate", "after_greedy_decoding"]
    for phase in (*evaluations, "always_speak"):
        assert questions[phase] == questions["before"]
        assert [e["seed"] for e in phases[phase]] == [e["seed"] for e in phases["before"]]


def adapters_of(folder):
    return {
        f"{seat}/{name}": value
        for seat in ("proposer_0", "reviewer_0")
        for name, value in load_file(folder / "final" / "adapters" / seat / "adapter_model.safetensors").items()
    }


def test_interrupted_and_resumed_equals_uninterrupted(finished, tmp_path):
    folder = tmp_path / "run"
    code = (
        "import sys; from tracer_agents import cli; from tracer_agents.trainers import tracer\n"
        "real = tracer.Training.update\n"
        "def stop(self, update):\n"
        "    if update == 2: raise KeyboardInterrupt\n"
        "    return real(self, update)\n"
        "tracer.Training.update = stop\n"
        f"sys.exit(cli.main(['train', *{SMALL!r}, '--run-dir', {str(folder)!r}]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 130, out.stderr
    assert "--resume" in out.stdout
    assert (folder / "checkpoints" / "000001" / "state.json").exists()
    assert not (folder / "summary.json").exists()
    assert train(folder, "--resume") == 0
    ours, theirs = adapters_of(folder), adapters_of(finished)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    summary, other = (json.loads((f / "summary.json").read_text()) for f in (folder, finished))
    assert summary["resumed_from_update"] == 1
    assert summary["after"] == other["after"]
    assert (folder / "episodes.jsonl").read_bytes() == (finished / "episodes.jsonl").read_bytes()


def test_a_real_interrupt_leaves_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "examples/train_tracer.py", *SMALL, "--updates", "400", "--run-dir", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "000001").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert f"--run-dir {folder} --resume" in output.replace("\n", " ")


def test_run_directory_errors(finished, capsys, tmp_path):
    assert train(finished) == 1
    assert "--resume" in capsys.readouterr().err
    assert train(finished, "--resume") == 0  # finished: nothing to do
    assert "finished" in capsys.readouterr().out
    assert train(finished, "--resume", "--seed", "6") == 1
    assert "seed: 5 then, 6 now" in capsys.readouterr().err
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "file").write_text("x")
    assert train(tmp_path / "junk", "--resume") == 1
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "gsm8"], "'gsm8k'"),
        (["--task", "math500"], "split"),
        (["--eval-split", "train"], "--eval-split"),
        (["--task", "./no/such.jsonl"], "--eval-task"),
        (["--task", "no/such.jsonl", "--eval-task", "./no/../no/such.jsonl"], "--eval-task"),
        (["--model", "no/such/folder/here"], "no/such/folder/here"),
        (["--schedule", "round-robin"], "'round_robin'"),
        (["--preset", "papers"], "'paper'"),
        (["--model", ""], "model must not be empty"),
        (["--lora-targets", "q_proj,v_pro"], "'v_proj'"),
        (["--refit-updates", "1"], "at least 2"),
        (["--refit", "record"], "'recording'"),
        (["--refit", "live", "--refit-questions", "1"], "raise --refit-questions"),
        (["--refit", "recording", "--estimator", "local"], "--refit live"),
        (["--refit", "live", "--refit-updates", "0"], "--refit none"),
    ],
)
def test_bad_input_is_one_clear_line(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("TRACER_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert train(tmp_path / "run", *options) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "run" / "config.json").exists()  # nothing was begun
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("settings", [["--layers", "controllers"], ["--layers", "generators"], ["--preset", "paper"]])
def test_each_layer_alone_and_the_paper_s_preset(settings, tmp_path):
    assert train(tmp_path / "run", "--updates", "1", "--policies", "role", *settings) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["num_questions"] == 12


def test_without_a_refit_the_controllers_of_training_are_deployed(tmp_path):
    assert train(tmp_path / "run", "--updates", "1", "--layers", "controllers", "--refit", "none") == 0
    with np.load(tmp_path / "run" / "final" / "controllers.npz", allow_pickle=False) as file:
        assert file["updates"].tolist() == [1] * len(file["keys"])
        assert len(file["keys"]) >= 3


def test_a_live_refit_learns_from_fresh_dialogues(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "--updates", "1", "--layers", "controllers", "--refit", "live") == 0
    assert json.loads((run / "summary.json").read_text())["refit"] == {"kind": "live"}
    assert not (run / "refit.npz").exists()
    phases = episodes_of(run)
    asked = {phase: [e["question_id"] for e in phases[phase]] for phase in ("train", "refit")}
    assert len(set(asked["refit"])) == 8
    assert not set(asked["train"]) & set(asked["refit"])
    capsys.readouterr()
    assert cli.main(["certify", str(run), "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert certificate["game"] is None
    assert max(row["updates"] for row in certificate["rows"]) == 2


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "recording"),
        ({"rounds": 7}, "recording"),
        ({"rounds": 8}, "live"),
        ({"estimator": "local"}, "live"),
        ({"rounds": 8, "refit": "recording"}, "recording"),
        ({"refit": "live"}, "live"),
        ({"layers": "generators"}, "none"),
        ({"rounds": 1}, "none"),
        ({"proposers": 2, "reviewers": 2, "schedule": "simultaneous"}, "live"),
    ],
)
def test_the_kind_of_the_refit(settings, kind):
    config = TrainConfig(**settings)
    assert kind_of_refit(config, make_game(config, task="arithmetic", split="train")) == kind


def test_a_tree_that_is_too_large_is_an_error_before_anything_is_loaded(tmp_path, capsys):
    assert train(tmp_path / "run", "--rounds", "20", "--refit", "recording") == 1
    assert "524,288 leaves" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_questions_of_the_recording_are_distinct_and_fresh_while_there_are_some(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"question": f"q{i}", "answer": str(i)}) + "\n" for i in range(10)))
    for updates, count, fresh in ((1, 6, True), (2, 2, True), (3, 5, False)):
        config = TrainConfig(updates=updates, questions_per_update=4, refit_questions=5 if updates != 1 else 6)
        game = make_game(config, task=str(file), split="train")
        trained = questions_of(game, seed_of(0, "questions"), 0, 4 * updates)
        questions, is_fresh = refit.questions_to_record(config, game)
        ids = {q.question_id for q in questions}
        assert (len(questions), len(ids), is_fresh) == (count, count, fresh)
        assert fresh != bool(ids & {q.question_id for q in trained})


def test_a_recording_of_another_team_is_made_again(tmp_path):
    """After an interruption in the re-fit: the parts that are there belong to adapters that are not."""
    run, options = tmp_path / "run", ["--updates", "1", "--layers", "controllers", "--refit-questions", "3"]
    assert train(run, *options) == 0
    made = json.loads((run / "summary.json").read_text())
    recording = load_recording(run / "refit.npz")
    other = {**recording.manifest, "model": {**recording.manifest["model"], "adapters_sha256": "of another team"}}
    save_recording(run / "refit.npz", replace(recording, manifest=other))
    parts = run / "refit.npz.parts"
    parts.mkdir()
    (parts / "manifest.json").write_text("{")
    (run / "summary.json").unlink()
    assert train(run, *options, "--resume") == 0
    assert load_recording(run / "refit.npz").manifest["model"] == recording.manifest["model"]
    assert json.loads((run / "summary.json").read_text())["refit"] == made["refit"]


def test_what_a_certificate_says_without_its_recording(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:500]), Path.unlink):
        damage(run / "refit.npz")
        capsys.readouterr()
        assert cli.main(["certify", str(run), "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["game"] is None
        assert "refit.npz" in printed.err
        assert "--on" in printed.err
        assert cli.main(["certify", str(run), "--estimators"]) == 1
        assert "--on" in capsys.readouterr().err


def test_an_interrupted_recording_goes_on(tmp_path, monkeypatch, capsys):
    """The same team and controllers, and no chunk is written twice."""
    record_chunk, chunks = record.record_chunk, []

    def interrupted(game, write, questions, plan):
        if len(chunks) == 1:
            chunks.append(None)
            raise KeyboardInterrupt
        chunks.append([q.question_id for q in questions])
        return record_chunk(game, write, questions, plan)

    monkeypatch.setattr(record, "record_chunk", interrupted)
    monkeypatch.setattr(refit, "_PLAN", replace(refit._PLAN, chunk=5))
    run, options = tmp_path / "run", ["--updates", "1", "--refit-questions", "12"]
    assert train(run, *options) == 130
    assert "--resume" in capsys.readouterr().out
    assert train(run, *options, "--resume") == 0
    asked = [question for chunk in chunks if chunk for question in chunk]
    assert len(asked) == len(set(asked)) == 12
    assert not (run / "refit.npz.parts").exists()
    assert train(tmp_path / "whole", *options) == 0
    names = ("refit.npz", "final/controllers.npz")
    one, other = ([hashed(folder / name) for name in names] for folder in (run, tmp_path / "whole"))
    assert one == other


def hashed(path):
    """Return the arrays of a file by name, but for the manifest, which holds paths."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name].tobytes() for name in file.files if name != "manifest"}


def test_larger_teams_train(tmp_path):
    options = ["--proposers", "2", "--reviewers", "2", "--schedule", "simultaneous", "--rounds", "3", "--updates", "1"]
    assert train(tmp_path / "run", *options, "--refit-questions", "4") == 0
    assert (tmp_path / "run" / "final" / "adapters" / "reviewer_1" / "adapter_model.safetensors").exists()


# --- real questions ------------------------------------------------------------------------------------------------


def test_trains_on_real_gsm8k_questions(shared_datasets, tmp_path, capsys):
    options = [
        "--task",
        "gsm8k",
        "--data-dir",
        str(shared_datasets),
        "--model",
        str(ROOT / "tracer_agents/models/tiny"),
    ]
    assert train(tmp_path / "run", "--updates", "1", "--eval-questions", "6", *options) == 0
    assert "near zero" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "gsm8k"


def test_evaluates_on_every_real_task(shared_datasets, tmp_path, capsys):
    out = tmp_path / "figures.json"
    tasks = ["gsm8k", "math500", "gpqa_diamond"]
    assert cli.main(["eval", "--task", *tasks, "--data-dir", str(shared_datasets), "--questions", "4",
                     "--out", str(out)]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    for task in tasks:
        assert figures[task]["team"]["num_questions"] == 4
        assert task in printed
    assert "near zero" in printed


def test_evaluates_a_finished_run(finished, tmp_path, capsys):
    def figures(*options):
        out = tmp_path / "figures.json"
        assert cli.main(["eval", "--run", str(finished), "--questions", "8", "--out", str(out), *options]) == 0
        return json.loads(out.read_text())["arithmetic"]

    trained, never = figures(), figures("--controllers", "never")
    assert (trained["controllers"], never["controllers"]) == ("trained", "never")
    assert (trained["seed"], trained["temperature"], trained["run"]) == (0, 1.0, str(finished))
    assert trained["team"] != never["team"]
    for row in ("single_greedy", "single_sampled", "self_consistency_3"):  # whatever the team has drawn
        assert trained[row] == never[row]
    assert cli.main(["eval", "--run", str(tmp_path)]) == 1
    assert "not a run directory" in capsys.readouterr().err
    assert cli.main(["eval", "--questions", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
    assert cli.main(["eval", "--out", str(tmp_path / "none" / "x.json")]) == 1
    assert "not a folder" in capsys.readouterr().err


# --- parts ---------------------------------------------------------------------------------------------------------


def group(*rewards):
    blank = Candidate(
        text="", prompt_ids=np.zeros(1, int), token_ids=np.zeros(1, int), logprobs=np.zeros(1, np.float32)
    )
    return Group(policy="p", candidates=(blank,) * len(rewards), rewards=np.array(rewards, dtype=float))


def test_collapse_guard():
    guard = CollapseGuard()
    healthy, fallen = [group(1, -1)] * 10, [group(-1, -1)] * 40
    guard.check("p", healthy)
    guard.check("p", [group(-1, -1)] * 9 + healthy[:1])  # low, but there is spread
    with pytest.raises(CollapseError, match=r"fell from 0\.00 to -1\.00 and 100% of its groups"):
        guard.check("p", fallen)
    CollapseGuard().check("p", fallen)  # a model that never could do the task has not collapsed
    solved = CollapseGuard()
    solved.check("p", healthy)
    solved.check("p", [group(1, 1)] * 40)  # everything right is not a collapse


@pytest.fixture
def weights_ruined_in_update_2(monkeypatch):
    import torch

    from tracer_agents.trainers.gspo import GspoLearner

    real = GspoLearner.update

    def ruins(self, policy, groups, *, seed):
        learned = real(self, policy, groups, seed=seed)
        if policy == "proposer_0" and seed == seed_of(5, "learn", 2):
            draw = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in self._parameters[policy].values():
                    parameter.normal_(std=3.0, generator=draw)
        return learned

    monkeypatch.setattr(GspoLearner, "update", ruins)


@pytest.mark.usefixtures("weights_ruined_in_update_2")
def test_collapse_stops_the_run_at_the_last_good_checkpoint(tmp_path, capsys):
    assert train(tmp_path / "run", "--updates", "4") == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "'proposer_0' has collapsed" in err
    assert "000001" in err  # update 2 made the bad weights, update 3 noticed
    assert "--learning-rate" in err
    assert not (tmp_path / "run" / "checkpoints" / "000002").exists()
    assert (tmp_path / "run" / "checkpoints" / "000001").exists()
    written = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert any(e["phase"] == "train" and e["update"] == 3 for e in written)  # the texts that show why


@pytest.mark.usefixtures("weights_ruined_in_update_2")
def test_a_collapse_in_the_last_update_is_not_deployed(tmp_path, capsys):
    assert train(tmp_path / "run", "--updates", "2") == 1
    assert "'proposer_0' has collapsed" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "checkpoints" / "000002").exists()


def test_damaged_files_are_named(finished, tmp_path, capsys):
    def fails(*arguments):
        capsys.readouterr()
        assert cli.main(list(arguments)) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        return err

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    controllers = run / "final" / "controllers.npz"
    controllers.write_bytes(controllers.read_bytes()[:200])
    assert "controllers.npz" in fails("eval", "--run", str(run), "--questions", "2")
    controllers.unlink()
    assert "controllers.npz" in fails("eval", "--run", str(run), "--questions", "2")
    options = ["train", *SMALL, "--run-dir", str(run), "--resume"]
    summary = (run / "summary.json").read_bytes()
    (run / "summary.json").write_bytes(summary[: len(summary) // 2])
    assert "summary.json" in fails(*options)
    (run / "summary.json").unlink()
    newest = run / "checkpoints" / "000002"
    (newest / "controllers.npz").write_bytes(b"PK")
    assert "controllers.npz" in fails(*options)
    (newest / "state.json").write_text("{}")
    assert "delete that folder" in fails(*options)
    (run / "config.json").write_text("[]")
    assert "config.json" in fails(*options)
    assert "config.json" in fails("eval", "--run", str(run))
    (tmp_path / "file").write_text("x")
    assert "is a file" in fails("train", *SMALL, "--run-dir", str(tmp_path / "file" / "run"))
    assert "is a folder" in fails("eval", "--out", str(tmp_path))


def test_questions_of_a_finite_split_cover_it_once_per_epoch(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"question": f"q{i}", "answer": str(i)}) + "\n" for i in range(7)))
    game = make_game(TrainConfig(), task=str(file), split="train")
    ids = [q.question_id for q in questions_of(game, 3, 0, 21)]
    assert [len(set(ids[k : k + 7])) for k in (0, 7, 14)] == [7, 7, 7]
    assert ids == [q.question_id for k in range(3) for q in questions_of(game, 3, 7 * k, 7)]
    assert len({tuple(ids[k : k + 7]) for k in (0, 7, 14)}) > 1


def test_seeds_differ_by_phase_and_update():
    seeds = {seed_of(s, phase, u) for s in range(3) for phase in ("train", "refit", "learn") for u in range(5)}
    assert len(seeds) == 45
    assert all(0 <= s < 2**63 for s in seeds)
