# Everything a developer types. Needs Python 3.11 or newer, git and make; the rest is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# Test files are dealt out to as many processes as there are cores, at most four; PROCESSES= runs them in one. They go
# in the order of their names, which begins with the long ones: in xdist's own, files of few tests come last, and one
# process would end with a long one of them.
PROCESSES ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help quickstart test coverage check docs bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

quickstart: $(STAMP) ## Run the whole recipe on generated data and leave a report with pictures
	PATH="$(BIN):$$PATH" bash pipelines/shapes/run.sh

# A clean tree is worth less here than modules that are compiled once: the tests start hundreds of processes.
test coverage: export PYTHONDONTWRITEBYTECODE =

test: $(STAMP) ## Run all tests, with the checks of types, lint and imports among them
	@$(BIN)/python -m pytest $(PROCESSES) $(PYTEST_ARGS)

coverage: $(STAMP) ## Run all tests and print the branch coverage, with a floor
	@$(BIN)/python -m pytest $(PROCESSES) --cov --cov-report=term --cov-fail-under=95

check: $(STAMP) ## Run the checks alone: types, lint, formatting, imports
	@$(BIN)/python -m mypy
	@$(BIN)/python -m ruff check ecocli tests docs/tools
	@$(BIN)/python -m ruff format --check ecocli tests docs/tools
	@$(BIN)/lint-imports --no-cache

docs: $(STAMP) ## Write the generated pages and build the documentation into site/
	@$(BIN)/python docs/tools/pages.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(STAMP) ## Measure the speed of the parts that decide it
	@for script in tests/benchmarks/bench_*.py; do \
		echo "== $$script"; PYTHONPATH=tests $(BIN)/python "$$script" || exit 1; \
	done

clean: ## Remove what builds and tests leave; the store and the virtual environment stay
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find ecocli tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed in place, so that a change of the source needs no second installation. Where pip is configured to find a
# CPU build of torch, the pinned version takes it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is too old; name Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
