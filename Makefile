# One word for each thing a person does here. Every target makes its own environment.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
ROOMS := crypto federation parties simulations
PROTOS := $(wildcard proto/*.proto)

.PHONY: demo test dev check bench protos clean

$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[test]'
	touch $(VENV)/.core $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[dev]'
	touch $(VENV)/.core $(VENV)/.test $@

demo: $(VENV)/.core
	rm -rf build/demo
	$(BIN)/lianxin simulate province --nodes processes --out build/demo

test: $(VENV)/.test
	$(BIN)/pytest

dev: $(VENV)/.dev

# mypy does not see how rooms map to packages, nor into generated modules: it gets a tree of links, and stubs
check: $(VENV)/.dev
	rm -rf build/types && mkdir -p build/types/lianxin
	for room in $(ROOMS); do ln -s ../../../$$room build/types/lianxin/$$room; done
	$(BIN)/python -m grpc_tools.protoc -Ilianxin/proto=proto --pyi_out=build/types $(PROTOS:%=lianxin/%)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/bench_units.py

protos: $(VENV)/.dev
	$(BIN)/python tests/generate_protos.py

clean:
	rm -rf build dist *.egg-info $(VENV)
