# `make demo` and `make test` set everything up in .venv by themselves; they need Python (3.11 to 3.14) and make alone.
.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-cluster lint bench clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests side by side. Three keep two cores busy, since whole searches wait for processes to start and to end.
BESIDE := --numprocesses 3 --maxschedchunk 1

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | sort

ifeq ($(origin PYTHON),command line)
.PHONY: $(READY) # whether the environment is of that one
endif
$(READY): pyproject.toml constraints.txt install.sh
	@sh install.sh "$(PYTHON)" "$(VENV)" "$(origin PYTHON)"

demo: $(READY) ## Search the demo, print its front, export the smallest good network
	@$(BIN)/cascade search demo --resume
	@$(BIN)/cascade export demo --pick smallest --max-drop 0.015 --overwrite
	@echo "look at it in a browser: $(BIN)/cascade ui"

test: $(READY) lint ## Check style, types and layers, then run all tests
	@$(BIN)/pytest -q $(BESIDE) -m "not cluster"

test-unit: $(READY) ## Run the tests that take seconds
	@$(BIN)/pytest -q $(BESIDE) -m "not integration"

test-cluster: $(READY) ## Start clusters on this machine over SSH, and search on them; not as root, it ends every Ray of yours
	@sh tests/apart.sh $(BIN)/pytest -q -m cluster

lint: $(READY) ## Check style, types and layers
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --cache-dir .import_linter_cache >/dev/null || $(BIN)/lint-imports --no-logo

bench: $(READY) ## Measure what docs/benchmarks.md says
	@$(BIN)/python -m benchmarks

clean: ## Remove the environment and caches; searches in runs/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build
