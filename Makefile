# DCloud. `make up` needs Python >= 3.11 and make, nothing else.
#   make up ARGS="--simulated-gpus 4"      arguments of `dcloud up`
.DEFAULT_GOAL := help
.PHONY: help up down status doctor install install-dev test test-sqlite test-postgresql lint bench soak clean

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
PYTEST := $(BIN)/python -m pytest

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

up: install  ## install what is missing, start everything, print the address
	@$(BIN)/dcloud up $(ARGS)

down:  ## stop all programs; users' servers keep running (ARGS=--servers stops them too)
	@$(BIN)/dcloud down $(ARGS)

status:  ## engine, GPUs, queue and servers
	@$(BIN)/dcloud status $(ARGS)

doctor:  ## what is in order and what is not, each with its mend
	@$(BIN)/dcloud doctor $(ARGS)

install:
	@$(PYTHON) deploy/bootstrap.py

install-dev:
	@$(PYTHON) deploy/bootstrap.py --dev

test: install-dev  ## the whole suite on SQLite, and beside it on PostgreSQL what may differ there
	@$(BIN)/python -m tests.suite prepare
	@$(BIN)/python -m tests.suite run $(ARGS)

test-sqlite: install-dev
	@$(BIN)/python -m tests.suite run --database sqlite $(ARGS)

test-postgresql: install-dev
	@$(BIN)/python -m tests.suite run --database postgresql $(ARGS)

lint: install-dev  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: install-dev  ## write bench/results.json
	@$(BIN)/python -m bench $(ARGS)

soak: install-dev  ## the fault test for DCLOUD_SOAK_MINUTES (60), and a hundred deaths of the controller
	@DCLOUD_SOAK_MINUTES=$${DCLOUD_SOAK_MINUTES:-60} $(PYTEST) -m soak --timeout=0 tests/faults tests/docker tests/storage $(ARGS)

clean:  ## remove what was installed here; state and homes stay
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
