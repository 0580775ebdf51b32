# `make demo`: from three CSV files to recommendations with evidence. `make test`: lint, types, layers, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := data/prepared_data
DEMO := checkpoints/demo

.PHONY: demo test lint lock table

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages (a few minutes on a first run) ..."
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/installed
	@echo "\n1. The demo shop: a year of a grocer, as three CSV files."
	$(BIN)/aejax data completejourney --out $(DATA)
	@echo "\n2. Are the files sound? Every row is accounted for."
	$(BIN)/aejax check $(DATA)
	@echo "\n3. Five models learn from the first 80% of the year, are chosen on the next 10%, and tested on the last 10%."
	$(BIN)/aejax compare $(DATA) --models popularity,ae,vae,multdae,multvae --split time --out $(DEMO) --overwrite
	@echo "\n4. Ten products for every customer, by the model that was best on validation."
	$(BIN)/aejax recommend $(DEMO)/best --top 10 --out $(DEMO)/recommendations.csv
	@echo "\nDone. Look at $(DEMO)/report.html and $(DEMO)/recommendations.csv."

test: $(VENV)/installed lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The README's results table; about half an hour on 2 cores.
table: $(VENV)/installed
	$(BIN)/python scripts/results_table.py $(DATA)

# Pins versions and hashes for every platform; needs uv (pip install uv).
lock:
	uv pip compile pyproject.toml --extra dev --extra demo --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --output-file requirements.lock
