# `make demo` and `make test` need nothing but root and the package registries on a fresh Debian 12 or 13.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test unit integration conformance check lint types fences format protos bench fuzz deps clean

demo: deps  ## install what is missing, run a pod with two containers, show it, remove it
	@$(BIN)/acri demo

test: $(VENV)/.dev deps test-deps  ## the whole suite, unit and integration
	$(PYTEST) tests

unit: $(VENV)/.dev
	$(PYTEST) tests/unit

integration: $(VENV)/.dev deps test-deps
	$(PYTEST) tests/integration

conformance: $(VENV)/.dev deps  ## critest against acri, where critest is on PATH
	$(PYTEST) tests/conformance

check: lint types fences

lint: $(VENV)/.dev
	$(BIN)/ruff check acri tests protos
	$(BIN)/ruff format --check acri tests protos

types: $(VENV)/.dev
	$(BIN)/mypy acri

fences: $(VENV)/.dev
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix acri tests protos
	$(BIN)/ruff format acri tests protos

protos: $(VENV)/.dev  ## regenerate acri/proto from protos/
	$(BIN)/python protos/generate.py

bench: $(VENV)/.dev deps  ## p50/p90 of each RPC beside containerd's own CRI plugin
	$(BIN)/python tests/perf/bench_cri.py

fuzz: $(VENV)/.dev
	$(BIN)/python tests/perf/fuzz_wire.py

# The user's environment: acri and its command line, nothing for development.
deps: $(VENV)/.acri
	@tests/fixtures/install-packages

.PHONY: test-deps
test-deps:
	@tests/fixtures/install-packages tests

$(VENV)/.acri: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cli]' --group dev
	@touch $@ $(VENV)/.acri

$(VENV)/bin/python:
	@tests/fixtures/install-packages python
	@python3 -m venv $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
