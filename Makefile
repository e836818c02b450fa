# `make help` lists the targets. The first target that needs .venv creates it; later ones reuse it.
# Settings: PYTHON=python3.11 (creates .venv), WORKERS=2 (test processes), ARGS='-k mae' (passed on to pytest or the demo),
# and pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...).

PYTHON ?=
WORKERS ?= 2
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.installing
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))

# settings of this make are not those of a make that a test or a program started here
unexport ARGS WORKERS PYTHON
MAKEOVERRIDES :=

.PHONY: help install demo test coverage lint docs clean distclean

help:
	@echo 'make demo       pre-train a small MAE on photographs, about three minutes on two cores'
	@echo 'make test       run the tests (ARGS="-k mae" selects, WORKERS=4 uses more processes)'
	@echo 'make coverage   run the tests and print which lines they miss'
	@echo 'make lint       check code and format with ruff, and types with mypy'
	@echo 'make docs       build the site into docs/_build/html; a warning is an error'
	@echo 'make install    create .venv and install the package and the toolboxes into it (the other targets do so when needed)'
	@echo 'make clean      remove caches and build leftovers; make distclean removes .venv too'

install: $(STAMP)

demo: $(STAMP)
	$(PY) tools/demo.py $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term-missing:skip-covered $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(STAMP)
	@$(PY) -c 'import furo, myst_parser, sphinx' 2>/dev/null || $(PY) -m pip install -e '.[docs]' -c constraints.txt
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

# .installing exists until the installation is complete, so that the run after an interrupted one starts over; a complete .venv that is
# older than the files below is updated in place. One pip command: one resolve, no compiler, no build of mmcv's operators.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@set -eu; \
	if [ -e $(UNFINISHED) ] || ! $(PY) -c 'import pip; $(SUPPORTED)' 2>/dev/null; then \
	    python='$(PYTHON)'; \
	    if [ -z "$$python" ]; then \
	        for each in python3 python3.12 python3.11 python3.10; do \
	            if $$each -c '$(SUPPORTED)' 2>/dev/null; then python=$$each; break; fi; \
	        done; \
	        if [ -z "$$python" ]; then \
	            echo "mmssl needs Python 3.10, 3.11 or 3.12; found $$(python3 --version 2>&1 || true)." \
	                'Install one of them, or name it: make install PYTHON=/path/to/python3.11' >&2; \
	            exit 1; \
	        fi; \
	    elif ! "$$python" -c '$(SUPPORTED)' 2>/dev/null; then \
	        echo "PYTHON=$$python is $$("$$python" --version 2>&1 || true); mmssl needs Python 3.10, 3.11 or 3.12:" \
	            'make install PYTHON=/path/to/python3.11' >&2; \
	        exit 1; \
	    fi; \
	    mkdir -p $(VENV); \
	    touch $(UNFINISHED); \
	    find $(VENV) -mindepth 1 -maxdepth 1 ! -name .installing -exec rm -rf {} +; \
	    echo "creating $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV); \
	fi; \
	rm -f $(STAMP); \
	touch $(UNFINISHED); \
	$(PY) -m pip install -e '.[all,test]' -c constraints.txt; \
	mv $(UNFINISHED) $(STAMP)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache docs/_build htmlcov .coverage .coverage.*
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
