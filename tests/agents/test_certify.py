"""The certificate: what it checks, that it can fail, and what it measures on a game."""

import json
import shutil

import numpy as np
import pytest

from tracer_agents import cli
from tracer_agents.certify import NOT_CERTIFIED, certify, plot_regret
from tracer_agents.controllers.minimisers import FORGETTING, MINIMISERS, NO_REGRET
from tracer_agents.controllers.storage import save_controllers
from tracer_agents.controllers.table import TabularController
from tracer_agents.errors import CertificateError
from tracer_agents.fit import fit_exact
from tracer_agents.report import print_certificate
from tracer_env import Costs, Game, OutcomeRewards
from tracer_env.exact import best_policy, build_tree, coarse_gaps, deviation_gains, evaluate

TASK = "simulated:default"


def tree_of(abstraction="paper", cost=0.0):
    return build_tree(Game(TASK, abstraction=abstraction, rewards=OutcomeRewards(costs=Costs(per_1k_tokens=cost))))


def tracer(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "run"
    assert (
        tracer("fit", "--task", TASK, "--iterations", 40, "--starts", 2, "--cost-per-1k-tokens", 1, "--out", folder)
        == 0
    )
    return folder


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimiser", MINIMISERS)
def test_rows_of_every_minimiser(minimiser):
    controllers = fit_exact(tree_of(), minimiser, iterations=30).controllers()
    certificate = certify(controllers)
    assert certificate.holds
    assert certificate.minimiser == minimiser
    assert certificate.game is None
    for row in certificate.rows:
        controller = controllers[row.seat]
        k = controller.infosets.index(row.infoset)
        assert row.regret == controller.column("external_regret")[k].max()
        assert row.updates == controller.column("updates")[k] > 0
        assert row.bound == controller.bound(row.infoset)
        assert (row.bound is None) == (row.ratio is None) == (minimiser == "discounted" or minimiser in FORGETTING)
        if row.bound:
            assert row.ratio == row.regret / row.bound <= 1.0 + 1e-9


@pytest.mark.parametrize("minimiser", [*NO_REGRET, "geometric"])
def test_a_broken_promise_is_seen(minimiser):
    controllers = fit_exact(tree_of(), minimiser, iterations=30).controllers()
    table = controllers["reviewer_0"].table
    name = "discounted_regret" if minimiser in ("discounted", "geometric") else "external_regret"
    row = int(np.argmax(table.columns["updates"]))
    table.columns[name][row, 0] = 1.0 + (100.0 if table.bound() is None else table.bound()[row])
    certificate = certify(controllers)
    assert not certificate.holds
    assert [r.infoset for r in certificate.rows if not r.holds] == [controllers["reviewer_0"].infosets[row]]


def test_nothing_to_certify():
    with pytest.raises(CertificateError, match="no controllers"):
        certify({})


# --- on a game -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [None, 2])
def test_what_is_measured_on_a_game(start):
    tree = tree_of("round", cost=1.0)
    fit = fit_exact(tree, iterations=25, start=start)
    game = certify(fit.controllers(), tree, TASK).game
    best = best_policy(tree)
    assert game.team_return == pytest.approx(
        {name: evaluate(tree, getattr(fit, name)).team_return for name in ("last", "average", "greedy")}, abs=1e-12
    )
    assert game.deviation_gain == pytest.approx(deviation_gains(tree, fit.last).max(), abs=1e-12)
    profiles = [dict(zip(tree.infosets, profile, strict=True)) for profile in fit.profiles]
    assert [g.gain for g in game.coarse_gaps] == pytest.approx([g.gain for g in coarse_gaps(tree, profiles)], abs=1e-12)
    assert (game.optimum, game.upper_bound, game.is_optimum) == (best.team_return, best.upper_bound, best.is_optimum)
    assert (game.profiles, game.task) == (25, TASK)


def test_live_controllers_know_their_sets_one_after_the_other():
    tree = tree_of()
    team = {seat.name: TabularController(default_speak=0.25) for seat in tree.seats}
    for k in range(3):
        for (seat, key), may in zip(tree.infosets, np.isin(range(len(tree.infosets)), tree.node_infoset), strict=True):
            if may and len(key) % 3 <= k:
                team[seat.name].apply([team[seat.name].increments_of([key], np.array([[0.0, 1.0]]), np.ones(1))])
    counts = {len(c.history["profiles"]) for c in team.values()}
    game = certify(team, tree, TASK).game
    assert (game.coarse_gaps is None) == (len(counts) > 1)
    assert game.unseen == sum(
        key not in team[seat.name].infosets
        for seat, key in (tree.infosets[s] for s in np.unique(tree.node_infoset[tree.may_skip]))
    )


def test_a_game_that_cannot_be_measured_is_refused(tmp_path, fitted, capsys):
    controllers = fit_exact(tree_of(), iterations=5).controllers()
    with pytest.raises(CertificateError, match="no seat has a choice"):
        certify(controllers, build_tree(Game(TASK, rounds=1)), TASK)
    with pytest.raises(CertificateError, match="not learned: proposer_1, reviewer_1"):
        certify(controllers, build_tree(Game(TASK, proposers=2, reviewers=2, rounds=6)), TASK)
    run = tmp_path / "run"
    shutil.copytree(fitted, run)
    (run / "config.json").write_text(json.dumps({"task": TASK, "abstraction": "paper"}))
    assert tracer("certify", run) == 1
    assert "['cost_per_call', 'cost_per_1k_tokens']" in capsys.readouterr().err


def test_a_game_of_another_abstraction_is_refused():
    controllers = fit_exact(tree_of("round"), iterations=5).controllers()
    with pytest.raises(CertificateError, match="another abstraction"):
        certify(controllers, tree_of("history"), TASK)


# --- the commands ----------------------------------------------------------------------------------------------------


def test_fit_and_certify(fitted, capsys):
    assert tracer("certify", fitted) == 0
    printed = capsys.readouterr().out
    assert "bounds hold" in printed
    assert "Measured on simulated:default" in printed
    assert "Not certified" in printed
    assert tracer("certify", fitted, "--json") == 0
    certificate = json.loads(capsys.readouterr().out)
    assert certificate["not_certified"] == NOT_CERTIFIED
    assert set(certificate["rows"][0]) >= {"seat", "infoset", "visits", "updates", "regret", "bound"}
    summary = json.loads((fitted / "summary.json").read_text())
    assert certificate["game"]["team_return"] == pytest.approx(summary["team_return"])
    assert len(summary["starts"]) == 2


def test_certify_exits_1_when_a_bound_does_not_hold(tmp_path, capsys):
    controllers = fit_exact(tree_of(), iterations=10).controllers()
    controllers["proposer_0"].table.columns["external_regret"][:] += 50.0
    (tmp_path / "final").mkdir()
    save_controllers(tmp_path / "final" / "controllers.npz", controllers)
    (tmp_path / "config.json").write_text(json.dumps({"task": "arithmetic"}))
    assert tracer("certify", tmp_path) == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plot(fitted, tmp_path, ending):
    assert tracer("certify", fitted, "--plot", tmp_path / f"regret.{ending}") == 0
    assert (tmp_path / f"regret.{ending}").stat().st_size > 5_000


def test_a_plot_needs_two_updates(tmp_path):
    with pytest.raises(CertificateError, match="two updates"):
        plot_regret(fit_exact(tree_of(), iterations=1).controllers(), str(tmp_path / "x.png"))


def test_bad_input(fitted, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    for words, message in (
        (("certify", tmp_path / "nowhere"), "no folder of tracer train or tracer fit"),
        (("certify", tmp_path), "the run is not finished, or trained no controllers"),
        (("certify", fitted, "--on", "arithmetic"), "needs a generator"),
        (("certify", fitted, "--on", "recorded:none"), "unknown recording"),
        (("certify", fitted, "--plot", tmp_path / "x.gifx"), "cannot draw"),
        (("fit", "--task", "arithmetic"), "needs a generator"),
        (("fit", "--out", fitted), "is there already"),
        (("fit", "--starts", 0), "--starts must be at least 1"),
        (("fit", "--task", TASK, "--minimiser", "regret"), "unknown regret minimiser"),
        (("fit", "--task", TASK, "--iterations", 0), "iterations must be"),
        (("fit", "--task", TASK, "--abstraction", "papers"), "Did you mean 'paper'"),
    ):
        assert tracer(*words) == 1, words
        assert message in capsys.readouterr().err, words


def test_what_is_promised_and_what_is_not(tmp_path, capsys):
    for minimiser, promises, sentence in [
        ("hedge", "external", "bounds hold"),
        ("geometric", "discounted", "bound on the discounted regret holds"),
        ("windowed", "none", "it forgets"),
    ]:
        certificate = certify(fit_exact(tree_of(), minimiser, iterations=10).controllers())
        assert (certificate.promises, certificate.stale, certificate.holds) == (promises, 0, True)
        print_certificate(certificate)
        assert sentence in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("minimiser", ["regret_matching", "discounted"])
def test_asynchronous_merging_is_labelled_approximate(minimiser, capsys):
    learner = TabularController(minimiser)
    old = learner.increments_of(["proposer|x"], np.array([[0.0, 1.0]]), np.ones(1))
    for _ in range(2):
        learner.apply([old], asynchronous=True)
    certificate = certify({"proposer_0": learner})
    assert (certificate.promises, certificate.stale, certificate.rows[0].bound) == ("none", 1, None)
    print_certificate(certificate)
    assert "Approximate: 1 updates merged stale increments" in " ".join(capsys.readouterr().out.split())
