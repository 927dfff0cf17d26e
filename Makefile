# Two commands: `make train` and `make test`. Both set up .venv first, and can be run again at any time.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: controllers train test test-rllib test-benchmarl soak results performance model recordings lint clean

# One installation for everything; pip's own settings (index, proxy, cache) are the user's.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

train: $(READY)  ## the main job; ARGS="--help" lists every setting
	$(BIN)/python examples/train_tracer.py $(ARGS)

test: $(READY)  ## the tests, on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal $(ARGS)

# Two libraries whose pins conflict with the rest, each in an environment of its own; `make test` skips their tests.
test-rllib: .venv-rllib/.ready  ## RLlib learns the control decision
	RAY_USAGE_STATS_ENABLED=0 .venv-rllib/bin/python -m pytest tests/learners/test_rllib.py $(ARGS)

test-benchmarl: .venv-benchmarl/.ready  ## BenchMARL learns the control decision
	.venv-benchmarl/bin/python -m pytest tests/learners/test_benchmarl.py $(ARGS)

.venv-%/.ready: requirements/%.txt pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< --editable .
	test $* != benchmarl || .venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps benchmarl==1.5.2
	touch $@

soak: $(READY)  ## the long series
	$(BIN)/python -m pytest -m slow --timeout 7200 $(ARGS)

results: $(READY)  ## re-make the figures of docs/results.md (hours)
	$(BIN)/python benchmarks/results.py $(ARGS)

controllers: $(READY)  ## re-make the tables of controllers and the plot of docs/results.md (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/controllers.py --ballot-train arithmetic-ballot-train \
	  --ballot-test arithmetic-ballot-test --out runs/controllers.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/comparison.py --out runs/comparison.json --plot docs/images/controllers.svg
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.voting --out runs/voting.json

performance: $(READY)  ## measure the speeds of docs/performance.md (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/performance.py $(ARGS)

model: $(READY)  ## re-train the shipped model (about two hours)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m scripts.tiny_model.train --out tracer_agents/models/tiny $(ARGS)
	$(BIN)/python -m scripts.tiny_model.measure tracer_agents/models/tiny
	$(BIN)/python -m scripts.tiny_model.card tracer_agents/models/tiny

recordings: $(READY)  ## re-make the shipped recordings (half an hour); existing ones are left alone
	for split in train test; do OMP_WAIT_POLICY=PASSIVE $(BIN)/tracer record --task arithmetic --split $$split \
	  --questions 1000 --seed 0 --threads 1 --out tracer_env/recordings/arithmetic-$$split.npz $(ARGS) || exit 1; done
	for split in train test; do OMP_WAIT_POLICY=PASSIVE $(BIN)/tracer record --task arithmetic --split $$split \
	  --decide ballot --rounds 7 --questions 500 --seed 0 --threads 1 \
	  --out tracer_env/recordings/arithmetic-ballot-$$split.npz $(ARGS) || exit 1; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CONTRIBUTING.md docs tracer_env tracer_agents examples scripts benchmarks

clean:
	rm -rf $(VENV) .venv-rllib .venv-benchmarl build dist *.egg-info
