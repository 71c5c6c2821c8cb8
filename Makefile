# The commands of this repository; `make help` lists them. Without make (Windows), the recipes
# below can be typed as they stand, with .venv\Scripts in place of .venv/bin.
PYTHON ?= python3
MODEL ?= pocket
JOBS ?= 2
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
EXERCISES := $(wildcard notebooks/exercises/*.ipynb)
ROOT_FLAG := $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root)
# One thread a process, strict claims, no network: how the tests run.
STRICT := OMP_NUM_THREADS=1 MI_STRICT=1 MI_MODEL=$(MODEL) HF_HUB_OFFLINE=1
# Seconds for a cell, whose error shows the cell, and for a notebook, whose error cannot.
NB_LIMITS := --nbmake-timeout=300 --timeout=900

.DEFAULT_GOAL := help
.PHONY: help lab test run env lint unit test-notebooks test-twice test-browser notebooks readme bench \
	pocket lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: env ## open JupyterLab on the start notebook (makes the environment on first use)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" $(ROOT_FLAG) \
		--LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
		$(LAB_ARGS) notebooks/00_start_here.ipynb

test: env ## run linters, unit tests and every notebook on the embedded model
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory test-notebooks

run: env ## execute all notebooks and write build/gallery (MODEL=gpt2 for GPT-2 small)
	$(BIN)/python tools/gallery.py --model $(MODEL) --jobs $(JOBS)

env: ## make or update .venv (does nothing when it is up to date)
	@$(PYTHON) tools/setup_env.py

lint: env ## check style, types, stripped outputs and generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id $(NOTEBOOKS) $(EXERCISES)
	$(BIN)/python tools/build_notebooks.py --check
	$(BIN)/python tools/readme.py --check
	$(BIN)/mypy

unit: env ## run the unit tests
	$(STRICT) $(BIN)/pytest -n $(JOBS) --dist loadgroup --ignore=tests/browser -m "not notebooks"

test-notebooks: env ## run every notebook, full and learner's, with strict claims
	$(STRICT) MI_CLAIMS_DIR="$(CURDIR)/build/claims" $(BIN)/pytest --nbmake $(NB_LIMITS) \
		-n $(JOBS) --durations=0 $(NOTEBOOKS) $(EXERCISES)

test-twice: env ## run every notebook's cells twice in a row (after make test-notebooks)
	$(STRICT) MI_CLAIMS_DIR="$(CURDIR)/build/claims" $(BIN)/pytest -m notebooks -n $(JOBS) \
		tests/test_notebook_sources.py

test-browser: env ## run the tests that look at JupyterLab in a Chromium
	$(STRICT) $(BIN)/pytest tests/browser

notebooks: env ## write the notebooks from notebooks/src
	$(BIN)/python tools/build_notebooks.py

readme: env ## bring the README's tables up to date with the last `make run`
	$(BIN)/python tools/readme.py

bench: env ## run the benchmarks and write benchmarks/README.md
	@for script in $(sort $(wildcard benchmarks/bench_*.py)); do \
		OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

pocket: env ## train the embedded model anew (hours on a CPU, resumable)
	$(BIN)/python -m mi_data.pocket.train

lock: env ## resolve requirements.lock anew from pyproject.toml (LOCK_ARGS=--upgrade for newer)
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.10 --all-extras \
		--excludes tools/lock-excludes.txt --no-annotate --custom-compile-command "make lock" \
		$(LOCK_ARGS) pyproject.toml -o requirements.lock

clean: ## delete .venv and everything built
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
