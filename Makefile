# make book       the executed book: makes the environment, runs the chapters, writes _build/html
# make read       the book's pages from the outputs that the chapters hold, without PyTorch: _build/read/_build/html
# make single     the executed book as one page, to print or to search with the browser's own search: _build/singlehtml/index.html
# make test       every test: pytest over tests/, nbval over every notebook, ruff; TESTS="tests/test_worlds.py" chooses
# make test-everywhere   the same under every arithmetic that this processor has, one after another; BOOK=1: and the book each time
# make notebooks  runs every notebook again and saves its outputs in place, for committing
# make results    makes every result of the embedded world that is missing, by Snakemake on all cores (book/scaling.md says how long)
# make clean      removes what the above made, except the environment (.venv)
# make help       these lines
#
# PYTHON=python3.12 chooses the interpreter that the environment is made with (3.11 or newer).

PYTHON ?= python3

# Paths are relative to this file's folder, so that a space in its own path does no harm.
BIN := .venv/bin

# Nothing asks, nothing reports, nothing is fetched after the installation; and neither the user's IPython profile nor
# a plotting backend from the shell gets into a chapter.
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export IPYTHONDIR := $(CURDIR)/_build/ipython
unexport MPLBACKEND PYTHONHOME

.PHONY: help book read single test test-everywhere notebooks results clean environment
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

book: environment
	@$(BIN)/jupyter-book build . -n -W --keep-going || { \
	  status=$$?; \
	  for report in $$(cd _build/html 2>/dev/null && find reports -name '*.log' 2>/dev/null | sort); do \
	    printf '\nFailed: %s (its traceback, once more):\n' "$${report#reports/}" >&2; \
	    cat "_build/html/$$report" >&2; \
	  done; \
	  echo 'The book was NOT built: a cell failed or Sphinx warned, see above.' >&2; \
	  exit $$status; }
	@printf '\nThe book is built. Open this page:\n%s\n' '$(CURDIR)/_build/html/index.html'

# What the pages need that are not executed, at the versions of requirements.txt.
READING := jupyter-book sphinx-mathjax-offline filelock ipywidgets matplotlib networkx pyyaml threadpoolctl tqdm tyro

read:
	@key=$$({ pwd -P; cat requirements.txt; echo '$(READING)'; } | cksum); \
	if [ "$$(cat .venv-read/.ready 2>/dev/null)" != "$$key" ]; then \
	  echo 'Making the environment in .venv-read (about a minute and 600 MB) ...'; \
	  '$(PYTHON)' -m venv --clear .venv-read && \
	  .venv-read/bin/python -m pip install --quiet -c requirements.txt $(READING) && \
	  echo "$$key" > .venv-read/.ready; \
	fi
	@BOOK_READ=1 PYTHONPATH=.:book .venv-read/bin/jupyter-book build . -n -W --keep-going --path-output _build/read
	@printf '\nThe pages are there. Open this one:\n%s\n' '$(CURDIR)/_build/read/_build/html/index.html'

# Sphinx writes the page's own addresses as if it lay in the top folder, so it is put there.
single: environment
	@$(BIN)/jupyter-book build . -n -W --keep-going --builder singlehtml
	@mv _build/singlehtml/book/preface.html _build/singlehtml/index.html
	@printf '\nThe whole book is on this page:\n%s\n' '$(CURDIR)/_build/singlehtml/index.html'

# Cells tagged nbval-check-output have to print what the notebook holds; of all others only an exception fails (images and
# timings differ from machine to machine). Files run side by side, one thread each: two threads on one core are slower than one.
TESTS := tests notebooks book/preface.ipynb book/explorer.ipynb
PYTEST = -n auto --maxprocesses 4 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=1200 $(TESTS)

test: environment
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

test-everywhere: environment
	@$(BIN)/python tests/helpers/everywhere.py $(if $(BOOK),--book) $(PYTEST)

notebooks: environment
	@$(BIN)/python book/_ext/run_notebooks.py book/*.ipynb notebooks/*.ipynb

# Goes on where it was stopped.
results: environment
	@$(BIN)/snakemake --cores all cells

clean:
	@rm -rf _build .pytest_cache .hypothesis
	@find mae_lib tests book notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

# The environment is whole when .venv/.ready holds the key of the present requirements at the present place (an environment
# that was moved points to where it was). .venv/.installing stands while pip works: one left over marks an environment that
# was interrupted, which is made anew from nothing.
environment:
	@mkdir -p _build/ipython
	@key=$$({ pwd -P; cat requirements.txt pyproject.toml; } | cksum); \
	if [ -f .venv/.ready ] && [ "$$(cat .venv/.ready)" = "$$key" ] && $(BIN)/python -c '' 2>/dev/null; then exit 0; fi; \
	if ! '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "error: '$(PYTHON)' is no Python 3.11 or newer: install one, or name it: make book PYTHON=python3.12" >&2; exit 1; \
	fi; \
	echo 'Making the environment in .venv (about two minutes and 6 GB) ...'; \
	if [ -e .venv/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1 || { [ -f .venv/.place ] && [ "$$(cat .venv/.place)" != "$$(pwd -P)" ]; }; then \
	  '$(PYTHON)' -m venv --clear .venv || exit; \
	fi; \
	rm -f .venv/.ready && touch .venv/.installing && pwd -P > .venv/.place && \
	$(BIN)/python -m pip install --quiet -r requirements.txt && \
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . && \
	echo "$$key" > .venv/.ready && rm .venv/.installing
