# Two commands do everything: `make demo` and `make test`. Both make their own environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install kernels demo test cpp-tests lint bench chaos behaviour peers clean

help:
	@echo "make demo     install, then run a complete FBNet search on real images (no download of data)"
	@echo "make test     install, then run linters, type checks and all tests"
	@echo "make bench    what takes longer: speed and memory, results in benchmarks/results/"
	@echo "make chaos    what takes longer: searches killed and resumed, many times over"
	@echo "make behaviour  what takes longer: do searches come out as at an earlier commit, to the bit? BASE=COMMIT"
	@echo "make peers    what takes longer and needs the internet: timm's own tests over our networks"
	@echo "make kernels  compile csrc again; make cpp-tests: its C++ tests under AddressSanitizer and UBSan"
	@echo "make install  make $(VENV) with archloom and its development tools"
	@echo "make clean    remove what the others made"

install: $(STAMP)

# What builds archloom is installed first and the build is not isolated: that spares a second torch.
$(STAMP): pyproject.toml setup.py csrc/manifest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel "torch>=2.10" "pybind11>=2.13" "ninja>=1.11"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/archloom search examples/demo.yaml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

bench: $(STAMP)
	$(BIN)/python benchmarks/imagenet_supernet.py
	$(BIN)/python benchmarks/cream_step.py
	$(BIN)/python benchmarks/latency_check.py
	$(BIN)/python benchmarks/trainer_overhead.py --out benchmarks/results
	$(BIN)/python benchmarks/efficientnet_speed.py --out benchmarks/results
	$(BIN)/archloom bench --quick --compile

chaos: $(STAMP)
	$(BIN)/python benchmarks/chaos.py

behaviour: $(STAMP)
	$(BIN)/python benchmarks/behaviour.py $(if $(BASE),--base $(BASE))

peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py

# For the developer of csrc: compile again after a change, and the C++ tests under both sanitizers.
kernels: $(STAMP)
	$(BIN)/python setup.py build_ext --inplace

cpp-tests:
	cmake -S . -B build/cpp -G Ninja -DARCHLOOM_LIBRARY=OFF && cmake --build build/cpp && ctest --test-dir build/cpp

clean:
	rm -rf $(VENV) build dist *.egg-info core/*.egg-info runs .pytest_cache .mypy_cache .ruff_cache
