# `make demo`: from three CSV files to recommendations with evidence. `make test`: lint, types, layers, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := data/prepared_data
DEMO := checkpoints/demo
SETTINGS := scripts/settings/completejourney-time.json
PEERS := .peers
INTER := data/inter
BENCH := bench

.PHONY: demo test lint lock table bench

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages (a few minutes on a first run) ..."
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/installed
	@echo "\n1. The demo shop: a year of a grocer's orders, as three CSV files."
	$(BIN)/aejax data completejourney --out $(DATA)
	@echo "\n2. Are the files sound? Every row is accounted for: kept, merged, cancelled by a return, or dropped and why."
	$(BIN)/aejax check $(DATA)
	@echo "\n3. Five models learn from the first 80% of the year; the next 10% decides how long each learns and which is"
	@echo "   best; then each learns once more from the first 90% and is tested on the last 10%, which none has seen."
	@echo "   A purchase counts only if the customer had never bought the product before."
	$(BIN)/aejax compare $(DATA) --models popularity,ae,vae,multdae,multvae --split time --settings $(SETTINGS) \
		--out $(DEMO) --overwrite
	@echo "\n4. Ten new products for every customer, by the model that was best on validation."
	$(BIN)/aejax recommend $(DEMO)/best --top 10 --out $(DEMO)/recommendations.csv
	@echo "\nDone. Look at $(DEMO)/report.html (tables, curves, five example customers) and $(DEMO)/recommendations.csv."

test: $(VENV)/installed lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The README's results table.
table: $(VENV)/installed
	$(BIN)/python scripts/results_table.py $(DATA) --settings $(SETTINGS)

# An environment of its own for each peer of the benchmark; without one the benchmark says so and goes on. What a file
# names after "no-deps:" asks for versions that cannot stand beside the rest.
$(PEERS)/%/installed: scripts/peers/%.txt
	@echo "Installing the peer $* (minutes on a first run) ..."
	@$(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --quiet -r $< \
		&& sed -n 's/^# no-deps: //p' $< | xargs -r $(@D)/bin/python -m pip install --quiet --no-deps \
		&& touch $@ || { rm -rf $(@D); echo "The peer $* cannot be installed here; it is left out."; }

PEER_ENVIRONMENTS := $(patsubst scripts/peers/%.txt,$(PEERS)/%/installed,$(wildcard scripts/peers/*.txt))

# Speed beside the peers and the machine's limits, to a given quality, and as the data grow; figures and plots in bench/.
# Only on a machine that does nothing else.
bench: $(VENV)/installed $(PEER_ENVIRONMENTS)
	$(BIN)/aejax data completejourney --out $(DATA)
	$(BIN)/python scripts/write_inter.py $(DATA) --out $(INTER) --split-seeds 1
	$(BIN)/python scripts/benchmark.py tasks --split $(INTER)/$(notdir $(DATA))-s0 --shop $(DATA) --peers $(PEERS) \
		--out $(BENCH)
	$(BIN)/python scripts/benchmark.py quality --split $(INTER)/$(notdir $(DATA))-s0 --peers $(PEERS) --out $(BENCH) \
		--settings scripts/settings/completejourney-soon.json \
		--peer-settings scripts/settings/recbole-completejourney-items.json
	$(BIN)/python scripts/benchmark.py growth --out $(BENCH)

# Pins versions and hashes for every platform; needs uv (pip install uv).
lock:
	uv pip compile pyproject.toml --extra dev --extra demo --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --output-file requirements.lock
