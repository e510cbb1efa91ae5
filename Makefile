# One word for each thing a person does here. Every target makes its own environment.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
ROOMS := crypto federation parties simulations
PEERS := build/peers
SIDE_BY_SIDE := -n 2 --dist loadfile
PROTOS := $(wildcard proto/*.proto)
TORTURE := tests/attacks tests/faults/test_nemesis.py $(addprefix tests/test_,$(addsuffix .py,canonical consent_bulk consent_records consent_snapshot decision_laws decoders \
	desensitise_risk failpoints group histogram intervals \
	key_file modulus_proof multiexp overflow_proof packing paillier pairwise_masks preparation psi_ecdh psi_paillier \
	processes resumption_of_runs round scenario_run scorecards_at_once stock_flower secure_sum shamir soak training cheats_kinds))

.PHONY: demo test torture dev check bench protos clean

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
	$(BIN)/pytest $(SIDE_BY_SIDE)

# a hundred times the cases, LIANXIN_FUZZ_SECONDS a decoder; TORTURE="tests/test_packing.py" takes a part
torture: $(VENV)/.test
	LIANXIN_TORTURE=1 $(BIN)/pytest --timeout=0 --durations=20 $(TORTURE)

dev: $(VENV)/.dev

# mypy does not see how rooms map to packages, nor into generated modules: it gets a tree of links, and stubs
check: $(VENV)/.dev
	rm -rf build/types && mkdir -p build/types/lianxin
	for room in $(ROOMS); do ln -s ../../../$$room build/types/lianxin/$$room; done
	$(BIN)/python -m grpc_tools.protoc -Ilianxin/proto=proto --pyi_out=build/types $(PROTOS:%=lianxin/%)
	$(BIN)/ruff check .
	$(BIN)/mypy

# other people's libraries stay in an environment of their own; one that cannot be had here leaves its figures null
$(PEERS)/.built: tests/benchmarks/peers.txt | $(BIN)/pip
	$(BIN)/python -m venv $(PEERS)
	for one in $$(cat $<); do $(PEERS)/bin/pip install --quiet --disable-pip-version-check $$one || \
		echo "$$one cannot be installed here: its figures will be null"; done
	touch $@

bench: $(VENV)/.core $(PEERS)/.built
	$(BIN)/lianxin bench crypto --peers $(PEERS)/bin/python --out build/bench
	$(BIN)/lianxin bench matching --queries 10000 --rows 132000 --protocol paillier --out build/bench
	$(BIN)/lianxin bench matching --queries 100000 --rows 100000 --protocol ecdh --peers $(PEERS)/bin/python --out build/bench

protos: $(VENV)/.dev
	$(BIN)/python tests/generate_protos.py

clean:
	rm -rf build dist *.egg-info $(VENV)
