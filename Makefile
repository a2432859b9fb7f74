# Everything a fresh machine needs: Python 3.11 or newer, make, and a package index.
#   make sweep       the first study, in a new environment if there is none
#   make test        lint, types and all tests but the longest
#   make test-long   those: lost nodes, shared GPUs
#   make coverage    the tests of `make test`, counting which lines they run: half as long again
#   make lint        lint and types alone
#   make chaos       the figures of docs/reliability.md: studies killed, stopped and cut off
#   make clean       removes what all of these made: the environment, and runs/ with its studies

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE := runs
# pip builds this package in an environment of its own; both variables pin what it uses there.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

# Each run of the target is a study of its own; name one with STUDY=... to resume or repeat it.
STUDY ?= digits_noisy-$(shell date +%Y%m%d-%H%M%S)
SWEEP_ARGS ?=
PYTEST_ARGS ?=
# Two processes: tests that start Ray, one after another, and all others. With a thread each: two
# whose threads wait for each other on the same cores take several times as long.
SIDE_BY_SIDE := --numprocesses 2 --dist loadscope --no-loadscope-reorder

.PHONY: sweep test test-long coverage chaos lint clean

sweep: $(BIN)/.installed
	$(BIN)/esam-tune sweep search_spaces/digits_noisy.yaml --name $(STUDY) --storage $(STORAGE) $(SWEEP_ARGS)

test: $(BIN)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

coverage: $(BIN)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term $(PYTEST_ARGS)

test-long: $(BIN)/.installed-dev
	$(BIN)/python -m pytest -m long --ignore=tests/chaos $(PYTEST_ARGS)

# Each test prints its figures as one line of JSON.
chaos: $(BIN)/.installed-dev
	ESAM_TUNE_CHAOS_HISTORIES=1000 $(BIN)/python -m pytest -m '' -s tests/chaos $(PYTEST_ARGS)
	$(BIN)/python benchmarks/many_trials.py --trials 1000 --trained --samplers random

lint: $(BIN)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs build *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "esam-tune needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "the venv module is missing: on Debian, apt install python3-venv"; exit 1; }

$(BIN)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
