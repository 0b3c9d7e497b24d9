# Needs Python (3.11 or newer, with its venv module) and make, nothing else.
#
#   make demo PYTHON=python3.12                  another Python
#   make test ARGS="tests/tokens -x"             part of the tests
#   make demo PIP_ARGS="--find-links ~/wheels"   further options for pip, for example where to find wheels

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install $(PIP_ARGS) --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test hostile docs lint format

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | while IFS='|' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.with-package ## Geneformer at work on real cells; writes demo/ (no GPU, no network)
	MPLBACKEND=agg $(BIN)/scgeneformer demo --overwrite $(ARGS)

test: $(VENV)/.with-test ## run the tests on all cores, saying how many were skipped and why
	MPLBACKEND=agg $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

hostile: $(VENV)/.with-test ## try a thousand hostile inputs and print how many get a clean error
	MPLBACKEND=agg $(BIN)/python -m pytest -q -s tests/hostile $(ARGS)

docs: $(VENV)/.with-doc ## build the documentation, warnings are errors
	rm -rf docs/_build docs/generated
	$(BIN)/python -m sphinx -M html docs docs/_build -W --keep-going $(ARGS)

lint: $(VENV)/.with-lint ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.with-lint ## apply style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pyvenv.cfg is written by venv; the interpreter itself is a link whose date says nothing.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("scgeneformer needs Python 3.11 or newer, this is %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# Installed anew only when the dependencies or their pins have changed. Dependency groups need pip 25.1.
$(VENV)/.with-pip: $(VENV)/pyvenv.cfg constraints.txt
	$(PIP) install --quiet $(PIP_ARGS) --upgrade 'pip>=25.1'
	@touch $@

# torch comes first and alone: once it is there, nothing that depends on it can choose another build of it.
$(VENV)/.with-package: $(VENV)/.with-pip pyproject.toml
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.with-test $(VENV)/.with-doc $(VENV)/.with-lint: $(VENV)/.with-%: $(VENV)/.with-package
	$(INSTALL) --group $*
	@touch $@
