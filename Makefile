# Everything a developer or a user runs, and exactly what continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo report-paper test check format

setup: $(VENV)/.installed

# The stamp is newer than what it was made from, so an edited dependency list installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster,dev]'
	touch $@

demo: setup
	$(BIN)/python -m study launch study/presets/digits.yaml --storage runs

report-paper: setup
	$(BIN)/python -m study report --paper -o runs/reports/paper.html

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
