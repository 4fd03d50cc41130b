# Everything here works on a fresh clone: each target installs what it needs into .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/compiled
CLIENTS := .venv-clients
SEED ?= 1
WORLD ?= calculator

.DEFAULT_GOAL := check
.PHONY: check install test test-fast compiled test-compiled test-providers test-clients lint fmt types layers demo example benchmark-gateway up down clean

check: lint types layers test ## all of it

install: $(STAMP) ## make .venv with every package, vLLM's CPU build included

$(STAMP): pyproject.toml constraints.txt tools/cpu_stub_wheels.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/cpu_stub_wheels.py $(VENV)/stub-wheels
	$(BIN)/pip install --quiet --disable-pip-version-check --find-links $(CURDIR)/$(VENV)/stub-wheels \
	  -c constraints.txt -e ".[gateway,otel,workers,s3,trainer,inference,demo,dev]"
	touch $@

test: $(STAMP) ## the whole suite, real Redis and real vLLM on CPU included
	$(BIN)/python -m pytest

test-fast: $(STAMP) ## the suite without the tests that start vLLM
	$(BIN)/python -m pytest -m "not vllm"

compiled: $(COMPILED)/.made ## the packages with the hot path compiled (needs gcc), beside the sources

$(COMPILED)/.made: $(STAMP) pyproject.toml tools/compiled_wheel.py \
  $(shell find trajectories gateway workers trainer ratchet -name '*.py')
	rm -rf $(COMPILED)
	HATCH_BUILD_HOOKS_ENABLE=1 RATCHET_COMPILE=required $(BIN)/pip install --quiet \
	  --disable-pip-version-check --no-deps --no-build-isolation --target $(COMPILED) .
	touch $@

# The processes that tests start find it first too, whatever directory they start in.
test-compiled: $(COMPILED)/.made ## the gateway's tests, against what was compiled
	RATCHET_EXPECT_COMPILED=1 PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED) \
	  $(BIN)/python -m pytest -o "pythonpath=$(COMPILED) ." -m "not vllm" tests/gateway tests/story

test-clients: $(STAMP) ## real clients, unmodified: installs them (no torch), then runs them
	$(BIN)/python tools/client_environments.py $(CLIENTS)
	$(BIN)/python -m pytest tests/clients tests/examples tests/gateway/test_quirks.py

# litellm asks for older packages than constraints.txt holds: an environment of its own.
test-providers: ## the tests of foreign providers, with litellm
	test -x $(VENV)/providers/bin/python || $(PYTHON) -m venv $(VENV)/providers
	$(VENV)/providers/bin/pip install --quiet --disable-pip-version-check \
	  -c constraints-providers.txt -e ".[gateway,workers,providers,dev]" httpx2
	$(VENV)/providers/bin/python -m pytest tests/gateway/test_provider.py tests/gateway/test_foreign.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

demo: $(STAMP) ## watch a model get better from its own traffic: SEED=2 varies it
	$(BIN)/ratchet demo --seed $(SEED)

example: $(STAMP) ## an agent of a real framework that learns: WORLD=calculator SEED=1, docs/examples.md
	$(BIN)/python tools/client_environments.py $(CLIENTS) openai3
	$(BIN)/python -m examples.run $(WORLD) --seeds $(SEED) --out example-results

benchmark-gateway: $(STAMP) ## gateways side by side; installs the others on first use, writes docs/benchmarks.md
	$(BIN)/python benchmarks/gateway.py

up: $(STAMP)
	$(BIN)/ratchet up

clean:
	rm -rf $(VENV) $(CLIENTS) ratchet-data ratchet-demo demo-results.json example-results .mypy_cache .pytest_cache .ruff_cache
