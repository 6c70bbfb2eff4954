# Every target sets up .venv from nothing; what is already done is not done again.
#
#   make demo     train the handwritten digits         make test     the whole suite (FAST=1: without the slow tests)
#   make check    ruff, mypy --strict, import-linter   make test-gpu the tests that need a CUDA device
#   make bench    the overhead table of the README     make chaos    kills runs at random instants, resumes them
#   make setup    .venv alone                          make test-trackers  the tests with the trackers' own libraries

PYTHON ?= python3
BIN := .venv/bin
TRACKERS := .venv-trackers
FAST ?=
GPU_PYTHON ?=
PYTEST_ARGS ?=
CHAOS_ARGS ?=

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test check test-trackers test-gpu chaos bench
.DELETE_ON_ERROR:

setup: .venv/stamp

.venv/stamp: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python examples/digits.py

test: setup
	$(BIN)/python -m pytest --timeout 300 -m "not trackers$(if $(FAST), and not slow)" $(PYTEST_ARGS)

test-trackers: $(TRACKERS)/stamp
	$(TRACKERS)/bin/python -m pytest --timeout 300 -m trackers tests/trackers $(PYTEST_ARGS)

# An environment of its own, since not all trackers go together with transformers. torch and Lightning are links to .venv.
$(TRACKERS)/stamp: .venv/stamp .ci/trackers.txt tests/environments/links.py
	test -x $(TRACKERS)/bin/python || $(BIN)/python -m venv --without-pip $(TRACKERS)
	$(BIN)/uv pip sync -q --python $(TRACKERS)/bin/python .ci/trackers.txt
	$(BIN)/python tests/environments/links.py $(TRACKERS)
	$(BIN)/uv pip install -q --python $(TRACKERS)/bin/python --no-deps --no-build-isolation -e .
	touch $@

# GPU_PYTHON=python3 runs them with an interpreter that has torch and Lightning already, and sets nothing up.
test-gpu: $(if $(GPU_PYTHON),,setup)
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m pytest -m gpu $(PYTEST_ARGS)

# CHAOS_ARGS="--kills 20 --only later --seed 3" kills fewer, and others.
chaos: setup
	$(BIN)/python tests/reliability/chaos.py $(CHAOS_ARGS)

bench: setup
	$(BIN)/python tests/benchmarks/step_overhead.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
