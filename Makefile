# Every target does its own set-up: a fresh clone needs Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
# The sweep whose pages `make ui` serves.
SWEEP ?= pusht-quick
# Two processes; the tests that share a Ray stay in one of them.
PARALLEL ?= -n 2 --dist loadscope
# How many of the parts of `make check` run at a time.
JOBS ?= 2
FAST := -p no:cacheprovider -p no:xdist --durations=5 -m "not ray and not slow"
# pytest rewrites every test module. Bytecode is kept, or each process of each run would rewrite them all again.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check check-trainables check-sweeper check-types check-style bench interop ui clean install

demo: $(STAMP)
	$(BIN)/sweeper demo

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

# The two halves of the fast tests import other packages, so they are two runs, not one run in two processes.
check: $(STAMP)
	$(MAKE) --jobs=$(JOBS) --keep-going --output-sync=target check-trainables check-sweeper check-types check-style

check-trainables: $(STAMP)
	$(BIN)/python -m pytest $(FAST) --ignore=tests/sweeper

check-sweeper: $(STAMP)
	$(BIN)/python -m pytest $(FAST) tests/sweeper

check-types: $(STAMP)
	$(BIN)/mypy

check-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# The comparison with LeRobot itself, in environments of its own (9 GB each, .interop/); not part of the tests.
# LeRobot 0.4.4 needs Python 3.11, 0.6.1 needs Python 3.12.
interop: $(STAMP)
	sh tests/interop/make_environment.sh 0.4.4
	$(BIN)/python -m tests.interop.run --lerobot 0.4.4
	sh tests/interop/make_environment.sh 0.6.1
	$(BIN)/python -m tests.interop.run --lerobot 0.6.1

ui: $(STAMP)
	$(BIN)/sweeper ui $(SWEEP)

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py scripts/prepare_system.sh scripts/install.py
	sh scripts/prepare_system.sh $(PYTHON)
	$(PYTHON) scripts/install.py --into $(VENV) ".[pusht,samplers,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
