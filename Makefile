# One word for each thing a person does here. Every target makes its own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test dev check bench torture protos clean

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.core
	$(BIN)/lianxin simulate province --nodes processes --out build/demo

test: $(VENV)/.test
	$(BIN)/pytest

dev: $(VENV)/.dev

check: $(VENV)/.dev
	rm -rf build/types && mkdir -p build/types/lianxin
	for room in proto crypto federation parties simulations; do ln -s ../../../$$room build/types/lianxin/$$room; done
	$(BIN)/ruff check .
	$(BIN)/mypy -p lianxin.crypto -p lianxin.federation -p lianxin.parties -p lianxin.simulations

bench: $(VENV)/.dev
	$(BIN)/pytest tests/benchmarks/bench_*.py --timeout 1800 -s

protos: $(VENV)/.dev
	$(BIN)/python tests/generate_protos.py

clean:
	rm -rf build dist *.egg-info $(VENV)
