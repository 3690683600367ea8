# make demo | test | lint: each sets up what it needs in .venv the first time (about two minutes,
# 6 GB) and is quick from then on. `make help` lists the rest.

VENV ?= .venv
# The first Python on this machine that the pins are for; make PYTHON=python3.12 picks another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
READY := $(VENV)/ready
READY_FOR_DEMO := $(VENV)/ready_for_demo
# Written before an environment is made. One without it is a user's own: where torch is in it, pins
# would change what the user has.
MADE := $(VENV)/made_by_make
HAS_TORCH := import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)

DEMO_CONFIG ?= configs/Generated/level_ce_deeplab_v3_plus_lite0.yaml
DEMO_OUTPUT ?= output/demo
DEMO_OPTS ?=
RESULTS_CONFIG ?= configs/CamVid11/adjusted_flat_lite0.yaml
RESULTS_OPTS ?=
TEST_OPTS ?=
# One process per core; the tests of a file stay together, since they share what they have made.
PARALLEL ?= -n auto --dist loadfile

.PHONY: help setup demo results test test-quick lint format docs clean distclean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make demo       train on generated scenes, evaluate, draw, report; into $(DEMO_OUTPUT)"
	@echo "                (DEMO_OPTS='SOLVER.MAX_ITER 20' for a short one)"
	@echo "make results    repeat a row of the results on CamVid, which has to lie below DETECTRON2_DATASETS"
	@echo "                (RESULTS_CONFIG=configs/CamVid11/level_ce_lite0.yaml for another row)"
	@echo "make test       run the tests (TEST_OPTS='-k tree' for some of them)"
	@echo "make test-quick run the quick ones: trees, layers, losses, metrics"
	@echo "make lint       check style; make format fixes what can be fixed"
	@echo "make docs       build the documentation into site/ (open site/index.html)"
	@echo "make setup      only install, into $(VENV) (PYTHON=python3.12 for another Python)"
	@echo "make clean      remove what builds and runs left behind; make distclean also the $(VENV) it made"

setup: $(READY)

# Runs again when a pin, the package metadata or the way Detectron2 is installed changes.
# Build tools first and no isolated builds: source packages are built with the pinned ones.
$(READY_FOR_DEMO): requirements/base.txt requirements/demo.txt setup.py pyproject.toml tools/install_detectron2.py
	@if [ -x $(BIN)/python ] && [ "$(origin VENV)" = file ] && [ ! -e $(MADE) ] && \
	    [ ! -e $@ ] && [ ! -e $(READY) ] && $(BIN)/python -c '$(HAS_TORCH)' 2>/dev/null; then \
	    echo "$(VENV) has a torch that make has not put there: make VENV=$(VENV) installs the pinned" \
	        "versions into it all the same, make VENV=.venv-hiera into one beside it" >&2; \
	    exit 1; \
	elif [ -x $(BIN)/python ] && ! $(BIN)/python -c '$(NEW_ENOUGH)'; then \
	    echo "Python 3.11 or newer is needed, and $(VENV) has $$($(BIN)/python --version 2>&1); take" \
	        "another one: make VENV=.venv-hiera" >&2; \
	    exit 1; \
	elif [ ! -x $(BIN)/python ] || { [ -e $(MADE) ] && ! $(PIP) --version >/dev/null 2>&1; }; then \
	    python="$(PYTHON)"; \
	    if ! "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	        echo "Python 3.11 or newer is needed, found '$$python'; name one: make PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    echo "== $(VENV): a new environment of $$python"; \
	    [ -e $(VENV) ] && new= || new=yes; \
	    mkdir -p $(VENV) && touch $(MADE) && "$$python" -m venv $(VENV) || \
	        { [ -z "$$new" ] || rm -rf $(VENV); exit 1; }; \
	fi
	@echo "== installing the pinned requirements (torch is large: one or two minutes)"
	@$(PIP) install --quiet $$(grep -E '^(setuptools|wheel)==' requirements/base.txt)
	@$(PIP) install --quiet --no-build-isolation -r requirements/demo.txt
	@echo "== installing Detectron2"
	@$(BIN)/python tools/install_detectron2.py
	@echo "== installing hiera_seg from this folder"
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(READY): $(READY_FOR_DEMO) requirements/dev.txt
	@echo "== installing what the tests need"
	@$(PIP) install --quiet --no-build-isolation -r requirements/dev.txt
	@touch $@

demo: $(READY_FOR_DEMO)
	$(BIN)/python tools/train_net.py --config-file $(DEMO_CONFIG) OUTPUT_DIR $(DEMO_OUTPUT) $(DEMO_OPTS)
	$(BIN)/python tools/demo.py --config-file $(DEMO_OUTPUT)/config.yaml --num 6 --output $(DEMO_OUTPUT)/overlays
	$(BIN)/python tools/report.py --run $(DEMO_OUTPUT) --output $(DEMO_OUTPUT)/report.html

results: $(READY_FOR_DEMO)
	$(BIN)/python tools/train_net.py --config-file $(RESULTS_CONFIG) $(RESULTS_OPTS)

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) $(TEST_OPTS)

# What can be tested without training: under two minutes, between edits.
test-quick: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) $(TEST_OPTS) tests/test_architecture.py tests/hierarchy \
		tests/layers tests/losses tests/metrics

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Only who builds the site needs its tools. Warnings are errors (mkdocs.yml); a page that asked for
# anything from the network would be one too.
docs: $(READY) requirements/docs.txt
	@$(PIP) install --quiet -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 PYTHONWARNINGS=ignore $(BIN)/mkdocs build
	$(BIN)/python docs/hooks/check_offline.py site

clean:
	rm -rf output build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	@if [ -e $(MADE) ] || [ -e $(READY) ]; then echo "rm -rf $(VENV)"; rm -rf $(VENV); fi
