# One command each; `make help` lists them. Everything runs in .venv, which the first command makes.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := $(wildcard client server examples bench tests tools)
# Tests run side by side, one more than there are processors, since some wait; ARGS="-n 0" runs them in one process.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(1 + os.cpu_count())')

# A virtual environment holds absolute paths, so a checkout that was moved gets a new one.
PLACE := $(shell cat $(VENV)/place 2>/dev/null)
ifneq ($(PLACE),)
ifneq ($(PLACE),$(CURDIR))
$(shell rm -rf $(VENV))
endif
endif

.PHONY: help demo serve test proofs soak lint style types layers contract format protos reference promise clients bench bench-large clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 - /p' Makefile

demo: $(VENV)/demo ## kill a server in the middle of a campaign, and see it finish
	@$(RUN) -m examples.demo $(ARGS)

serve: $(VENV)/demo ## serve the example workflows: gRPC on 127.0.0.1:50051, HTTP on 127.0.0.1:3000
	@$(VENV)/bin/mendflow serve examples.campaign examples.order $(ARGS)

test: $(VENV)/dev ## all tests but the long proofs; ARGS="-m unit" or ARGS="-k watch" for a part of them
	@$(RUN) -m pytest -m "not proof" -n $(WORKERS) $(ARGS)

# The kills at every boundary run four servers at once by themselves.
proofs: $(VENV)/dev ## the long proofs: kills at every boundary, clients in four languages, containers
	@$(RUN) -m pytest -m proof -n 2 $(ARGS)

soak: $(VENV)/dev ## the proofs of the promises in their long form, for an hour or so
	@MENDFLOW_SOAK=1 $(RUN) -m pytest tests/crash tests/watch tests/fuzz \
	  tests/unit/test_crash_budget.py tests/unit/test_message_lock.py tests/unit/test_message_values.py $(ARGS)

lint: style types layers contract ## every check that runs nothing

style: $(VENV)/dev
	@$(RUN) -m ruff check $(SOURCES)
	@$(RUN) -m ruff format --check --quiet $(SOURCES) || { echo "make format puts that right"; exit 1; }

types: $(VENV)/dev
	@$(RUN) -m mypy $(SOURCES)

layers: $(VENV)/dev
	@$(VENV)/bin/lint-imports

contract: $(VENV)/dev
	@$(VENV)/bin/buf lint protos
	@$(VENV)/bin/buf breaking protos --against tools/contract.binpb

format: $(VENV)/dev ## lay the code out and mend what ruff can mend
	@$(RUN) -m ruff check --fix-only --quiet $(SOURCES)
	@$(RUN) -m ruff format $(SOURCES)

protos: $(VENV)/dev ## generate client/mendflow/v1 from protos/
	@$(RUN) tools/generate_protos.py

reference: $(VENV)/dev ## write docs/reference.md and docs/errors.md from the comments in protos/
	@$(RUN) tools/generate_reference.py
	@$(RUN) -m tools.generate_errors

promise: $(VENV)/dev ## at a release: what later changes of the contract are compared with
	@$(VENV)/bin/buf build protos --exclude-source-info --output tools/contract.binpb

clients: $(VENV)/dev ## the example programs in Python, Go, TypeScript and Java, as far as their tools are here
	@$(RUN) -m pytest tests/clients -rs $(ARGS)

bench: $(VENV)/dev ## measure it
	@$(RUN) -m bench $(ARGS)

bench-large: $(VENV)/dev ## measure it with a million workflows in the store; ARGS="--scale 0.1" for a tenth
	@$(RUN) -m bench --large $(ARGS)

clean: ## remove what these commands made
	@rm -rf $(VENV) .clients .demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/place:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Mendflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1). Name another: make PYTHON=python3.13 ..."; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) could not make a virtual environment (on Debian: apt-get install python3-venv)"; exit 1; }
	@echo "$(CURDIR)" > $@

# demo is what the examples need, dev is everything.
$(VENV)/demo: pyproject.toml | $(VENV)/place
	@echo "Installing Mendflow with its server ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[server,examples]'
	@touch $@

$(VENV)/dev: pyproject.toml | $(VENV)/place
	@echo "Installing Mendflow with what its tests need ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/demo
