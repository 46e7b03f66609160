# make demo | make test | make lint: each makes a virtual environment in the checkout first, with what it
# needs.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
STEPS ?= 1
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What the demo needs is enough for it; an environment for development has that too.
FOR_DEMO := $(or $(wildcard $(INSTALLED)),$(VENV)/.demo)

.PHONY: demo test lint notebooks clean

# Writes to the first free of out, out-2, out-3, ...: what a run has kept is never touched by another.
demo: $(FOR_DEMO)
	@out=$(OUT); n=1; \
	while [ -n "$$(ls -A "$$out" 2>/dev/null)" ]; do n=$$((n + 1)); out=$(OUT)-$$n; done; \
	[ $$n -eq 1 ] || echo "$(OUT) is used; writing to $$out"; \
	set -x; $(BIN)/zkjax demo --out "$$out" --steps $(STEPS) && $(BIN)/zkjax verify "$$out"

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --nbmake notebooks tests

# Runs the notebooks and keeps their outputs.
notebooks: $(INSTALLED)
	$(BIN)/python -m pytest --nbmake --overwrite notebooks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Whoever uses both gets both: pip adds what is missing.
$(VENV)/.demo: EXTRAS := models,plot
$(INSTALLED): EXTRAS := dev
$(VENV)/.demo $(INSTALLED): pyproject.toml
	@echo "installing into $(VENV), which takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) $(OUT)-[0-9]* build dist .pytest_cache .ruff_cache .mypy_cache
