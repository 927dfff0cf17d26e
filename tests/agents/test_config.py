"""Settings: one source, unknown names refused with the nearest, presets and files merged in order."""

import argparse
import json

import pytest

from tracer_agents import cli
from tracer_agents.config import PRESETS, TrainConfig
from tracer_env.errors import ConfigError, UnknownNameError


def parse(*options):
    parser = argparse.ArgumentParser()
    cli.add_train_arguments(parser)
    return cli.config_from(parser.parse_args(options))


def test_options_win_over_files_over_smoke_over_presets(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"updates": 7, "rounds": 3}))
    assert parse("--preset", "paper").estimator == "local"
    assert parse("--smoke").updates < TrainConfig().updates
    assert parse("--smoke", "--config", str(file)).updates == 7
    merged = parse("--preset", "paper", "--config", str(file), "--updates", "9")
    assert (merged.updates, merged.rounds, merged.estimator) == (9, 3, "local")


def test_every_setting_is_an_option_and_survives_json():
    config = parse("--seed", "3", "--learning-rate", "0.01")
    assert TrainConfig.from_settings(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset):
    TrainConfig.from_settings(PRESETS[preset])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updats": 3}, "'updates'"),
        ({"updates": -1}, "updates must be at least 0"),
        ({"updates": 1.5}, "of type int"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"estimator": "roll-out"}, "'rollout'"),
        ({"layers": "none"}, "layers"),
        ({"policies": "seats"}, "'seat'"),
        ({"estimator": "exact"}, "tracer record --run"),
        ({"continuations": 0}, "continuations must be at least 1"),
        ({"continuations": 2, "estimator": "local"}, "plays nothing on"),
        ({"probe_rate": 0.0}, "probe_rate"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"num_candidates": 1}, "num_candidates"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_settings(settings)


def test_bad_files_and_presets(tmp_path):
    with pytest.raises(UnknownNameError, match="'paper'"):
        parse("--preset", "papr")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json"):
        parse("--config", str(broken))
    with pytest.raises(ConfigError, match="missing"):
        parse("--config", str(tmp_path / "missing.json"))


def test_an_unknown_option_names_the_nearest(capsys):
    for slip in ("--learning_rat", "--learning-rat"):  # the second would be an abbreviation
        with pytest.raises(SystemExit):
            cli.main(["train", slip, "1"])
        assert "Did you mean --learning-rate?" in capsys.readouterr().err
