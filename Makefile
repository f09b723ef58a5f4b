# Two commands for people: `make demo` and `make test`. Each makes its own virtual environment in .venv once;
# a stamp file remembers that, until pyproject.toml or constraints.txt changes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check clean

demo: $(DEMO_STAMP)
	$(BIN)/verinet verify models/digits_relu.onnx vnnlib_specs/digits_relu_radius_0.02.vnnlib --timeout 60 -v

test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

# What CI runs after the tests: style, types, layers, sizes.
check: $(TEST_STAMP)
	bash .ci/check

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(TEST_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev,sdp,cluster]"
	@touch $(DEMO_STAMP) $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
