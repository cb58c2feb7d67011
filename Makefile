# `make run` and `make test` need Python 3.11, 3.12 or 3.13, git and make, and set up the rest in .venv.
#
#   PYTHON    the Python that .venv is made from       make run PYTHON=/opt/python3.12/bin/python3
#   SETTINGS  settings of the run (docs/reference/settings.md)   make run SETTINGS="data.shift=conflicting seed=3"
#   GPU_ARGS  materials of make gpu                make gpu GPU_ARGS="--language-model <folder> --language-data <file>"
#   PIP_ARGS  further arguments for pip                make test PIP_ARGS="--extra-index-url <PyTorch's of CPU builds>"

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c '' 2>/dev/null && echo $$name && break; done)
SETTINGS ?=
GPU_ARGS ?=
PIP_ARGS ?=
BIN := .venv/bin
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help run deploy test unit slow style quality bench gpu faults results methods zoo clean

help:  ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# torch goes first and alone: asked for through another package's open range, pip may take a build
# with gigabytes of CUDA libraries instead of the pinned one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
		{ echo "error: Python 3.11, 3.12 or 3.13 is needed; name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about two minutes, once)"
	@$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	@$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(INSTALLED)  ## run the embedded default through flwr run; prints the results and where they are
	@$(BIN)/potara run --runtime flwr $(SETTINGS)

deploy: $(INSTALLED)  ## the same on a real federation: TLS, node keys, 3 SuperNodes (docs/guides/deployment.md)
	@$(BIN)/potara deploy $(SETTINGS)

test: $(INSTALLED)  ## unit and integration tests
	@$(BIN)/python -m pytest -q $(WORKERS) -m 'not slow'

unit: $(INSTALLED)  ## unit tests only (a minute)
	@$(BIN)/python -m pytest -q $(WORKERS) tests/unit

slow: $(INSTALLED)  ## tests that CI leaves out (minutes)
	@$(BIN)/python -m pytest -q -m slow

style: $(INSTALLED)  ## mend formatting and what the linter can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

quality: $(INSTALLED)  ## lint, formatting, types, who imports whom, dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/deptry potara_flwr
	@$(BIN)/deptry simulations tests tests/helpers --exclude '\.venv' --ignore DEP002,DEP004

bench: $(INSTALLED)  ## measure the runtimes against bare PyTorch; writes docs/research/benchmarks.md (an hour)
	@$(BIN)/python -m simulations.bench

gpu: $(INSTALLED)  ## what only a CUDA GPU shows: tests, then measurements for docs/research/benchmarks.md (minutes)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "error: torch finds no CUDA GPU here")'
	@$(BIN)/python -m pytest -q -m gpu tests/gpu; tests=$$?; \
		$(BIN)/python -m simulations.bench.gpu $(GPU_ARGS) && exit $$tests

faults: $(INSTALLED)  ## kill processes of real federations 20 times; all runs must end well (half an hour)
	@$(BIN)/python -m simulations.faults

results: $(INSTALLED)  ## docs/research/merge-quality.md and the README table from stored measures; what lacks is measured
	@$(BIN)/python -m simulations.merge_quality

methods: $(INSTALLED)  ## docs/research/results.md from stored runs of all methods; what lacks is run (hours)
	@$(BIN)/python -m simulations.method_quality

zoo: $(INSTALLED)  ## docs/reference/models.md from stored walks of every architecture; what lacks is walked (hours)
	@$(BIN)/python -m simulations.zoo

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
