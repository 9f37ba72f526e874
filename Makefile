# make demo: set up everything and run the main job end to end. make test: set up and pass the tests.
PYTHON ?= python3
VENV ?= .venv
HOME_DIR ?= .tunery
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test serve setup loops check browser conformance bench

demo: setup
	$(BIN)/tunery demo

# Two processes share the tests, a file at a time; their threads sleep soon while they wait for each other.
test: setup browser
	GOMP_SPINCOUNT=3000 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

serve: setup
	$(BIN)/tunery serve --home $(HOME_DIR)

setup: $(STAMP)
	@$(BIN)/tunery models fetch

# Processes compile them at their first import otherwise, each for itself.
loops: $(STAMP)
	$(BIN)/python -c "import tunery.serving.blocks, tunery.training.kernels"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Studio's tests need a Chromium; without one they are skipped and say so.
browser:
	@.ci/browser

# The real clients against a live service; prints one line a check.
conformance: setup
	$(BIN)/python -m tests.conformance.run

bench: setup
	$(BIN)/python benchmarks/checking.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/serving.py

# torch is asked for by its exact version first: a range would pull a CUDA build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)
