# `make demo` and `make test` do all their own set-up. They need make and Python >= 3.10, nothing else.
# Options: make demo PYTHON=/path/to/python PARAMS='-p target_sparsity 0.5'

BIN    := .venv/bin
RECIPE := dp_avhubert
DEMO   := runs/demo
PARAMS :=

# The first Python that is new enough and can make a virtual environment.
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && command -v "$$p" && break; done)

# The environment is ready when this file exists. Its name changes with what the environment is made from and with
# the folder it lies in, so that an edit, a new version or a moved checkout leads to a new set-up.
READY := .venv/.ready-$(shell { cat constraints.txt settings.ini setup.py; echo "$(CURDIR)"; } | cksum | tr -s ' ' -)

.PHONY: help setup demo test check test-notebooks test-python prepare readme lab clean
.NOTPARALLEL:

help:
	@echo 'make demo      compress the small teacher on the embedded corpus; the report goes to $(DEMO)'
	@echo 'make test      run every test: what check, test-notebooks and test-python run'
	@echo 'make lab       open the notebooks in JupyterLab'
	@echo 'make prepare   write modules and README.md from the notebooks, clean the notebooks'
	@echo 'make setup     only make the environment, .venv'
	@echo 'make clean     remove the environment; runs/ stays'

setup: $(READY)

# .venv/.unfinished stands while packages are being installed: what an interrupted set-up left is thrown away.
$(READY):
	@test -n "$(PYTHON)" || { echo 'No Python >= 3.10 with the venv module was found. Install one' \
		'(on Debian and Ubuntu: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python' >&2; exit 1; }
	@if test -e .venv/.unfinished || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; fi
	@mkdir -p .venv && touch .venv/.unfinished && rm -f .venv/.ready-*
	@echo "Setting up .venv with $(PYTHON); the first time takes some minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	@rm .venv/.unfinished && touch $@

demo: $(READY)
	@mkdir -p $(DEMO)
	$(BIN)/python -m papermill nbs/recipes/$(RECIPE).ipynb $(DEMO)/$(RECIPE).ipynb --progress-bar --stdout-file - --stderr-file - $(PARAMS)
	@$(BIN)/python -m avcomp.evaluate.page $(DEMO)/$(RECIPE).ipynb >/dev/null
	@echo && echo 'The report, as a page:     $(DEMO)/$(RECIPE).html' && echo 'The report, as a notebook: $(DEMO)/$(RECIPE).ipynb'

# Three processes keep two cores busy: tests often wait, for a kernel, a browser or the processes of a training.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal

test: $(READY)
	@$(PYTEST) tests

check: $(READY)
	@echo '== notebooks, modules and README.md agree, no notebook escapes the tests, ruff finds nothing'
	@$(BIN)/python -m pytest -q tests/test_repository.py

test-notebooks: $(READY)
	@$(PYTEST) tests/test_notebooks.py

test-python: $(READY)
	@$(PYTEST) tests --ignore tests/test_repository.py --ignore tests/test_notebooks.py

prepare: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/fold_recipes.py
	$(BIN)/python tests/readme.py

readme: $(READY)
	$(BIN)/python tests/readme.py

lab: $(READY)
	$(BIN)/python -m jupyterlab nbs

clean:
	rm -rf .venv
