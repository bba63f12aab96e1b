# Everything a developer or a user runs, and exactly what continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo report-paper test test-cluster chaos fuzz mutate check format

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

# In two processes, each of which runs whole files: what a file's tests share is made once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The documented commands of docs/cluster.md against a mock of AWS, Ray's autoscaler, and jobs; needs root, an SSH server, rsync,
# iproute2 and nftables. It runs in namespaces of its own: nothing in there can reach another Ray, and all of it ends with them. Bash
# reaps what others leave.
test-cluster: setup
	LABELSCALE_NAMESPACES=private unshare --net --mount --pid --uts --ipc --fork --kill-child=SIGKILL --mount-proc \
	    bash -c 'ip link set lo up; "$$@"; exit $$?' bash $(BIN)/python -m pytest tests/cluster

# A small study is killed, stopped, starved and cut off at random moments, each round in namespaces of its own (root, or a
# system that lets users make them), and must end as the undisturbed one. `make chaos CHAOS=--help` lists the options.
chaos: setup
	PYTHONPATH=tests $(BIN)/python -m chaos $(CHAOS)

# Random damage to everything that is read. `make fuzz FUZZ=--help` lists the options.
fuzz: setup
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

# The code is changed in one place at a time, and the tests must notice. `make mutate MUTATE=--help` lists the options.
mutate: setup
	PYTHONPATH=tests $(BIN)/python -m mutants $(MUTATE)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
