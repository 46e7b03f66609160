# make demo | make test | make lint: each makes a virtual environment in the checkout first.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
STEPS ?= 1
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/zkjax demo --out $(OUT) --steps $(STEPS)
	$(BIN)/zkjax verify $(OUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest --nbmake tests notebooks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .ruff_cache .mypy_cache
