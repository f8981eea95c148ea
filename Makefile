# `make help` lists the commands. Everything runs in .venv, which the first command creates.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := $(wildcard client server examples bench tests tools)
# Tests run side by side, one more than there are processors, since some wait; unit tests do not. ARGS="-n 0" runs them
# in one process.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + int("-m unit" not in """$(ARGS)"""))')

# A virtual environment has absolute paths, so a moved checkout gets a new one.
PLACE := $(shell cat $(VENV)/place 2>/dev/null)
ifneq ($(PLACE),)
ifneq ($(PLACE),$(CURDIR))
$(shell rm -rf $(VENV))
endif
endif

.PHONY: help demo cluster serve test proofs soak lint style types layers contract format protos reference screens promise clients bench bench-large bench-replicas clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 - /p' Makefile

demo: $(VENV)/demo ## kill a server in the middle of a campaign, and see the campaign complete
	@$(RUN) -m examples.demo $(ARGS)

cluster: $(VENV)/cluster ## kill and stop replicas over PostgreSQL, and see others take over; ARGS="--store URL"
	@$(RUN) -m examples.cluster $(ARGS)

serve: $(VENV)/demo ## serve the example workflows: gRPC on 127.0.0.1:50051, HTTP on 127.0.0.1:3000
	@$(VENV)/bin/mendflow serve examples.campaign examples.order $(ARGS)

test: $(VENV)/dev ## run all tests but the long proofs; ARGS="-m unit" or ARGS="-k watch" runs a part of them
	@$(RUN) -m pytest -m "not proof" -n $(WORKERS) $(ARGS)

# The kills at every boundary run four servers at once by themselves.
proofs: $(VENV)/dev ## run the long proofs: kills at every boundary, clients in four languages, containers
	@$(RUN) -m pytest -m proof -n 2 $(ARGS)

soak: $(VENV)/dev ## run the proofs of the promises in their long form, which takes about an hour
	@MENDFLOW_SOAK=1 $(RUN) -m pytest tests/crash tests/watch tests/fuzz tests/unit $(ARGS)

lint: style types layers contract ## run every static check

style: $(VENV)/dev
	@$(RUN) -m ruff check $(SOURCES)
	@$(RUN) tools/plain_english.py
	@$(RUN) -m ruff format --check --quiet $(SOURCES) || { echo "run make format"; exit 1; }

types: $(VENV)/dev
	@$(RUN) -m mypy $(SOURCES)
	@$(VENV)/bin/basedpyright

layers: $(VENV)/dev
	@$(VENV)/bin/lint-imports

contract: $(VENV)/dev
	@$(VENV)/bin/buf lint protos
	@$(VENV)/bin/buf breaking protos --against tools/contract.binpb

format: $(VENV)/dev ## format the code, and apply the fixes of ruff
	@$(RUN) -m ruff check --fix-only --quiet $(SOURCES)
	@$(RUN) -m ruff format $(SOURCES)

protos: $(VENV)/dev ## generate client/mendflow/v1 from protos/
	@$(RUN) tools/generate_protos.py

reference: $(VENV)/dev ## write docs/reference.md and docs/errors.md from protos/, docs/python-api.md from docstrings
	@$(RUN) tools/generate_reference.py
	@$(RUN) -m tools.generate_errors
	@$(RUN) tools/generate_python_api.py

screens: $(VENV)/dev ## write the screens of docs/command-line.md
	@$(RUN) tools/generate_screens.py

promise: $(VENV)/dev ## at a release, store the contract that later changes are compared with
	@$(VENV)/bin/buf build protos --exclude-source-info --output tools/contract.binpb

clients: $(VENV)/dev ## run the example programs in Python, Go, TypeScript and Java whose tools are installed
	@$(RUN) -m pytest tests/clients -rs $(ARGS)

bench: $(VENV)/dev ## run the benchmarks
	@$(RUN) -m bench $(ARGS)

bench-replicas: $(VENV)/dev ## run the benchmarks of replicas on PostgreSQL
	@$(RUN) -m bench --replicas $(ARGS)

bench-large: $(VENV)/dev ## run the benchmarks with a million workflows in the store; ARGS="--scale 0.1" runs a tenth
	@$(RUN) -m bench --large $(ARGS)

clean: ## remove the files that these commands create
	@rm -rf $(VENV) .clients .demo .cluster build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/place:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Mendflow requires Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1). Use another one: make PYTHON=python3.13 ..."; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot create a virtual environment (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "$(CURDIR)" > $@

# demo has the dependencies of the examples, cluster those of many replicas too, and dev has all dependencies.
$(VENV)/demo: pyproject.toml | $(VENV)/place
	@echo "Installing Mendflow with its server ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[server,examples]'
	@touch $@

$(VENV)/cluster: pyproject.toml | $(VENV)/place
	@echo "Installing Mendflow with its server and PostgreSQL ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[cluster]'
	@touch $@ $(VENV)/demo

$(VENV)/dev: pyproject.toml | $(VENV)/place
	@echo "Installing Mendflow with its development tools ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/demo $(VENV)/cluster
