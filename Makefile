# Needs Python >= 3.10 (for the tests 3.11) and make; everything else goes into .venv.
#   make demo    classify two sentences with the embedded model and show every step
#   make test    the whole test suite
#   make test-frameworks    the tests of the models in Flax and in TensorFlow, each in an environment of its own
#   make check   style and types
#   make bench   the short form of every benchmark
#   make clean   remove what make made

PYTHON ?= python3
BIN := .venv/bin
# Everything below an error is noise here: a package source that is not there, a newer pip.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt

FRAMEWORK_flax := flax optax
FRAMEWORK_tensorflow := keras tensorflow-cpu

.PHONY: demo test test-frameworks check bench clean

demo: .venv/installed
	@HF_HUB_OFFLINE=1 $(BIN)/pellucid run sentiment-analysis --model pellucid/sentiment --trace \
		"I've been waiting for a HuggingFace course my whole life." "I hate this so much!"

test: .venv/installed-test
	@$(BIN)/pytest

test-frameworks: .venv-flax/installed .venv-tensorflow/installed
	@.venv-flax/bin/pytest tests/frameworks/test_flax.py
	@.venv-tensorflow/bin/pytest tests/frameworks/test_tf.py

check: .venv/installed-test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/installed-test
	@for file in startup tokenization cores load encoders decode finetuning; do $(BIN)/python benchmarks/$$file.py --quick || exit 1; done

clean:
	@rm -rf .venv .venv-flax .venv-tensorflow .pytest_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is too old; name a Python >= 3.10: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing pellucid into .venv ..."
	@$(INSTALL) -e .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing pellucid and its test tools into .venv ..."
	@$(INSTALL) -e '.[test]'
	@touch $@ .venv/installed

.venv-%/installed: pyproject.toml constraints.txt
	@echo "installing pellucid and its $* models into .venv-$* ..."
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	@$(subst $(BIN),.venv-$*/bin,$(INSTALL)) -e . pytest pytest-xdist hypothesis $(FRAMEWORK_$*)
	@touch $@
