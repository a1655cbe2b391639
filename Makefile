# Two commands: `make demo` classifies the drawn cells that come with the package, `make test` runs every check.
# Both make the environment that they need; set PYTHON to use another interpreter.

PYTHON ?= python3
DEMO_VENV := .venv-demo
TEST_VENV := .venv

.PHONY: demo test clean

demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/python -m runtime.classify --demo

test: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/mypy
	$(TEST_VENV)/bin/lint-imports
	$(TEST_VENV)/bin/python -m pytest

$(DEMO_VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --editable ".[cpu]"
	touch $@

$(TEST_VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) build *.egg-info
