# One door for all chores. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Without compiled files each process of the tests would compile, and rewrite, all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup fmt lint test test-all soak escape-gvisor proto bench up down

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/.ready: pyproject.toml deploy/setup.sh
	@PYTHON=$(PYTHON) sh deploy/setup.sh
	@touch $@

.venv/.ready-tests: .venv/.ready
	@PYTHON=$(PYTHON) sh deploy/setup.sh tests
	@touch $@

setup: .venv/.ready ## the virtual environment and the system's packages

fmt: setup ## format and sort
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup ## ruff, mypy, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

test: .venv/.ready-tests ## everything that proves a change, within ten minutes
	$(BIN)/pytest -m "not slow" -n 3 --no-loadscope-reorder

test-all: .venv/.ready-tests ## with the slow ones
	$(BIN)/pytest -n 3 --no-loadscope-reorder

MINUTES ?= 10
soak: .venv/.ready-tests ## the mesh under load and faults, judged: MINUTES=10, SEED=n to have the same faults again
	$(BIN)/python -m tests.faults --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

escape-gvisor: .venv/.ready-tests ## the attacks of tests/escape, on gVisor; needs runsc
	RUNMESH_ISOLATION=gvisor $(BIN)/pytest tests/escape -n 2 --timeout 180 -rx

proto: setup ## generate Python and Envoy's descriptors from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

bench: setup ## the tables of docs/benchmarks.md, measured here
	$(BIN)/python -m tests.bench

up: setup ## the whole mesh in the foreground, on http://127.0.0.1:8080
	@exec $(BIN)/runmesh up

down: setup ## stop the mesh that `make up` started
	@$(BIN)/runmesh down
