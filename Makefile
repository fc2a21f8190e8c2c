# The two commands of the README, and what a change passes before it is committed.
# Everything is installed into .venv: with uv where it is there, else with venv and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
# One more than there are cores: some tests wait for programs.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

.DEFAULT_GOAL := help
# Services and tests start many processes: without bytecode each of them compiles everything again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test test-real lint format bench grafana lock clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 16

demo: $(READY)  ## the shop, and its orders as flows (ARGS=--once: one order in each mode)
	@$(BIN)/tracekit demo $(ARGS)

test: $(READY)  ## all tests (ARGS="-k case_12": some)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-real: $(READY)  ## the tests with the real Kafka, Collector, Jaeger, Prometheus (made once, 25 minutes)
	@$(BIN)/python -m tests.integration.servers
	@TEST_SERVERS=required $(BIN)/python -m pytest -m "real or server" $(ARGS)

lint: $(READY)  ## format, style, types and import order
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)  ## put the layout right
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(READY)  ## what tracekit costs beside its peers, as ratios
	@$(BIN)/python -m benchmarks $(ARGS)

grafana: $(READY)  ## write the dashboards and the alerts anew, from grafana/source
	@$(BIN)/python -m grafana.source

lock: $(READY)  ## resolve the dependencies anew (needs uv)
	@uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --upgrade --output-file requirements.lock

clean:  ## remove what make made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(READY): requirements.lock pyproject.toml
	@echo "tracekit: setting up $(VENV) (once; one to two minutes)"
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --clear --python $(PYTHON) $(VENV) && \
	    uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock && \
	    uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . ; \
	else \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tracekit needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")' && \
	    $(PYTHON) -m venv --clear $(VENV) && \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock && \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . ; \
	fi
	@touch $@
