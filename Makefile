# make demo   install on first use, then fit the sleep study three ways and write a report
# make test   install on first use, then run every test
#
# Any Python from 3.12 to 3.14 serves; name one with `make setup PYTHON=/path/to/python`.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
JOBS ?= 2
SUPPORTED := import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 15))
CANDIDATES := python3 python3.14 python3.13 python3.12 \
	$(HOME)/.pyenv/versions/3.13*/bin/python $(HOME)/.pyenv/versions/3.14*/bin/python \
	$(HOME)/.pyenv/versions/3.12*/bin/python
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-fast lint format types layers docs bench clean

help:
	@echo "make demo       fit models/sleepstudy three ways; the report goes to out/sleepstudy"
	@echo "make test       every test;  make test-fast leaves out the slow ones"
	@echo "make lint       ruff;  make types: mypy;  make layers: who may import whom;  make format"
	@echo "make docs       the site, its notebooks executed: build/docs/index.html"
	@echo "make bench      speed against other packages (and lme4, where Rscript has it)"
	@echo "make clean      remove caches and outputs"

setup: $(VENV)/.installed

# A name on the PATH may be a shim that exits 127, so each candidate has to run before it is believed.
$(BIN)/python:
	@found=; \
	for candidate in $(or $(PYTHON),$(CANDIDATES)); do \
		if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then \
			found=$$("$$candidate" -c 'import sys; print(sys.executable)'); break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "bayeslmm needs Python 3.12, 3.13 or 3.14 and found none. Tried: $(or $(PYTHON),$(CANDIDATES))" >&2; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.13" >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$found"; \
	rm -rf $(VENV); \
	if command -v uv >/dev/null 2>&1; then uv venv --quiet --python "$$found" $(VENV); \
	else "$$found" -m venv $(VENV); fi

# $(call install,extras): the package in place, with the versions of constraints.txt.
define install
	@$(BIN)/python -c '$(SUPPORTED)' || \
		{ echo "$(VENV) holds an unsupported Python: remove it and run make again." >&2; exit 1; }
	@echo "Installing bayeslmm[$(1)] into $(VENV)"
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(1)]'; \
	else \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
		$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(1)]'; \
	fi
	@touch $@
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev)
	@echo "Compiling the numerical kernels (once)"
	@$(BIN)/bayeslmm compile

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/.installed
	$(call install,bench)

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.installed
	$(call install,docs)

demo: setup
	$(BIN)/bayeslmm fit models/sleepstudy/model.toml --out out/sleepstudy

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

docs: setup $(VENV)/.docs
	rm -rf build/docs
	$(BIN)/python -m sphinx -j $(JOBS) -n -W --keep-going -q docs build/docs

bench: setup $(VENV)/.bench
	$(BIN)/python tests/speed/bench.py

clean:
	rm -rf build dist out docs/api docs/examples docs/models bayeslmm/exact/__pycache__ .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find bayeslmm tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
