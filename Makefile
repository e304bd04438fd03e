# Every target makes what it needs first; none asks anything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-s3 test-faults check fix bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# A plain path entry (compat), not an import hook: on a Dask worker the scratch folder holds a directory "storage",
	# which would win against a hook but loses against a real package anywhere on the path.
	# Compiled below on all cores, without the packages' own tests and the hundreds of models of transformers, instead of
	# on one core and with them: what is left out is compiled when it is first loaded.
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --config-settings editable_mode=compat --editable ".[test,dev]"
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/transformers/models/' $(VENV)/lib || true
	touch $@

demo: setup
	$(BIN)/cdlabel demo

# Two processes, a file at a time so that what a file prepares is prepared once; networks this small want one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

test: setup
	$(PYTEST)

# What goes through S3, against a real server instead of the one in Python: see tests/with_s3_server.sh.
test-s3: setup
	OMP_NUM_THREADS=1 sh tests/with_s3_server.sh $(BIN)/pytest tests/integration/storage tests/e2e/test_labeling.py \
		-k "storage or through_s3 or bucket"

# What takes too long for every day: whole runs killed at every moment (CDLABEL_FAULT_SEED=N draws other times), three nights
# of a served schedule, the long real videos, budgets at random.
test-faults: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m matrix

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q -m fast

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	mkdir -p benchmarks/results
	for script in benchmarks/bench_*.py benchmarks/decode.py; do \
		$(BIN)/python $$script --json > benchmarks/results/$$(basename $$script .py).json || exit 1; \
	done

docs: setup
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) demo-out demo-videos build *.egg-info
