# Two commands: `make demo` classifies the drawn cells that come with the package, `make test` runs every check.
# `make test-pythons` runs the tests of the runtime under the other versions of Python that are found.
# Each makes the environment that it needs; set PYTHON to use another interpreter.

PYTHON ?= python3
DEMO_VENV := .venv-demo
TEST_VENV := .venv
# An interpreter by its version: one on the path that really runs, or one of pyenv's.
python = $(firstword $(shell python$(1) -c 'import sys; print(sys.executable)' 2>/dev/null) \
	$(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python$(1)))
OTHER_PYTHONS := $(foreach version,3.10 3.12 3.13,$(if $(call python,$(version)),$(version)))

.PHONY: demo test test-pythons clean
.PRECIOUS: .venv-%/ready

demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/python -m runtime.classify --demo

test: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/mypy
	$(TEST_VENV)/bin/lint-imports
	$(TEST_VENV)/bin/python -m pytest

test-pythons: $(OTHER_PYTHONS:%=test-python-%)

test-python-%: .venv-%/ready
	.venv-$*/bin/python -m pytest tests/runtime

.venv-%/ready: pyproject.toml
	$(call python,$*) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --editable ".[test-runtime]"
	touch $@

$(DEMO_VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --editable ".[cpu]"
	touch $@

$(TEST_VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) $(OTHER_PYTHONS:%=.venv-%) build *.egg-info
