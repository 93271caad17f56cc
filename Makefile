# Two commands do everything: `make demo` and `make test`. Both make their own environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint bench chaos clean

help:
	@echo "make demo     install, then run a complete FBNet search on real images (no download of data)"
	@echo "make test     install, then run linters, type checks and all tests"
	@echo "make bench    what takes longer: speed and memory, results in benchmarks/results/"
	@echo "make chaos    what takes longer: searches killed and resumed, many times over"
	@echo "make install  make $(VENV) with archloom and its development tools"
	@echo "make clean    remove what the others made"

install: $(STAMP)

$(STAMP): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/archloom search examples/demo.yaml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) lint
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python benchmarks/imagenet_supernet.py

chaos: $(STAMP)
	$(BIN)/python benchmarks/chaos.py

clean:
	rm -rf $(VENV) build dist *.egg-info core/*.egg-info runs .pytest_cache .mypy_cache .ruff_cache
