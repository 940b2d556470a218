# Everything here needs python3 (3.11 or later) and make, no more: .venv is made from the lock file
# when it is missing or older than what it was made from.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV_VERSION := 0.13.9

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(STAMP) ## a mesh on this machine that loses a node and no message
	$(BIN)/p2pmq demo

.PHONY: test
test: $(STAMP) ## the whole test suite, a file at a time on each core
	$(BIN)/python -m pytest -q -n auto --dist loadfile

.PHONY: check
check: $(STAMP) ## lint, format, types, import contracts, tidiness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/test_tidy.py

.PHONY: bench
bench: $(STAMP) ## measure this machine
	$(BIN)/p2pmq bench

.PHONY: api
api: $(STAMP) ## write docs/api.md anew from the docstrings
	$(BIN)/python docs/api_page.py docs/api.md

.PHONY: fix
fix: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: venv
venv: $(STAMP) ## make .venv, and nothing else

.PHONY: lock
lock: ## choose the newest versions that pyproject.toml allows
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install uv==$(UV_VERSION)
	build/lock/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --upgrade --quiet --no-config --no-emit-index-url \
		--no-emit-find-links --custom-compile-command "make lock" \
		--output-file requirements-dev.lock

.PHONY: clean
clean: ## remove .venv and all caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find p2pmq tests examples simulations -name __pycache__ -prune -exec rm -rf {} +

# p2pmq itself is installed editable and without build isolation: its build backend is in the lock
# file too, so that every byte that comes from a registry has been checked against a hash.
$(STAMP): requirements-dev.lock pyproject.toml p2pmq/_version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "p2pmq needs Python 3.11 or later, and '$(PYTHON)' is not." \
			"Name another one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' cannot make virtual environments." \
			"On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --requirement requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
