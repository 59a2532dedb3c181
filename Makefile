# Everything a contributor runs. Each target makes .venv and installs what it needs, once.
#
#   make test PYTHON=/usr/bin/python3.12      another interpreter (used when .venv is made)
#   make test PYTEST_OPTIONS='-k pgd -x'      other options for pytest
#   make test PIP_OPTIONS=                    pip with its progress shown

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PIP_OPTIONS ?= --quiet
PYTEST_OPTIONS ?= --numprocesses=auto --maxprocesses=4 --dist=worksteal

# The first interpreter that really runs, is new enough and can make an environment.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c '$(USABLE)' >/dev/null 2>&1 && echo $$python && break; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PRECIOUS: .venv-%/installed
.PHONY: help setup demo test lint types check docs reference scorecards clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(STAMP)  ## make .venv and install into it (the other targets do it by themselves)

demo: $(STAMP)  ## train three small networks, attack them, write one page that compares them
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/rblite demo  # networks this small lose by a second thread

test: $(STAMP)  ## run the tests, warnings as errors
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest $(PYTEST_OPTIONS)

lint: $(STAMP)  ## formatter and linter
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)  ## type checker
	@$(BIN)/mypy

check: lint types test  ## the contract: lint, types and test; green before anything is merged

# An extra that is large, or that needs other versions than constraints.txt pins, is tested in an environment
# of its own: make test-mlflow, for one, installs '.[mlflow]' there and runs tests/extras/test_mlflow*.py.
test-%: .venv-%/installed
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} .venv-$*/bin/pytest -W ignore::ResourceWarning tests/extras/test_$**.py

.venv-%/installed: pyproject.toml
	@$(PYTHON) -m venv --clear .venv-$*
	@.venv-$*/bin/python -m pip install $(PIP_OPTIONS) --editable '.[$*]' 'hypothesis>=6.100,<7'
	@touch $@

docs: $(VENV)/docs  ## build the site of docs/ into build/docs, warnings as errors
	@$(BIN)/sphinx-build -W --keep-going --quiet -b html docs build/docs
	@echo 'build/docs/index.html'

$(VENV)/docs: $(STAMP)
	@$(BIN)/python -m pip install $(PIP_OPTIONS) --constraint constraints.txt --editable '.[docs]'
	@touch $@

reference: $(STAMP)  ## write docs/reference anew, from the code
	@$(BIN)/python docs/make_reference.py

scorecards: $(STAMP)  ## train and evaluate the small networks of docs/scorecards anew, and write its pages
	@OMP_NUM_THREADS=1 $(BIN)/python docs/make_scorecards.py

clean:  ## remove the environments, caches and builds (the next run installs again)
	@rm -rf $(VENV) .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp holds the checkout's folder and is written last: an install that was interrupted, or a checkout
# that was moved or copied together with its .venv, is set up again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@$(BIN)/pip --version 2>/dev/null | grep -qF '$(CURDIR)/$(VENV)/' || { \
		python='$(PYTHON)'; \
		"$$python" -c '$(USABLE)' 2>/dev/null || { \
			echo "Python 3.11 or later with its venv module is needed; found: $${python:-none}." >&2; \
			echo 'On Debian: apt install python3 python3-venv. Or name one: make PYTHON=/path/to/python3' >&2; \
			exit 1; }; \
		echo "Making $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV); }
	@echo 'Installing into $(VENV) (the first time several GB, most of it torch: minutes)'
	@$(MAKE) --no-print-directory --jobs=2 environment
	@echo '$(CURDIR)' > $@

# Two cores at once, as pip keeps one busy for minutes: one installs torch and what it runs on, the other the rest.
# A list that has what this machine can't have (CUDA on a Mac) is passed over: at the end pip chooses what it can.
# Compiled without others' tests. Ours too: where PYTHONDONTWRITEBYTECODE is set, each process that a test starts
# would compile them anew.
LARGE := ^(cuda|nvidia|torch|triton)
PINNED := $(BIN)/python -m pip install $(PIP_OPTIONS) --no-compile --no-deps --requirement /dev/stdin || \
	echo 'Not all of constraints.txt is for this machine: going on with what is.'
COMPILE := $(BIN)/python -W ignore -m compileall -qq -x 'site-packages/.*/tests?/' $(VENV)/lib/python3*/site-packages \
	robustbench_lite attacks defenses reports || true
.PHONY: environment editable compiled pinned-large pinned-rest
environment: editable compiled

editable: pinned-large pinned-rest
	@$(BIN)/python -m pip install $(PIP_OPTIONS) --constraint constraints.txt --editable '.[dev]'

compiled: pinned-large pinned-rest
	@$(COMPILE)

pinned-large:
	@grep -E '$(LARGE)' constraints.txt | $(PINNED)

pinned-rest:
	@sed '/^# .*docs/,$$d' constraints.txt | grep -vE '$(LARGE)' | $(PINNED)
	@$(COMPILE)
