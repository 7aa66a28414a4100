# Every target makes .venv by itself when it is missing. Needs Python 3.11 or newer and make.
# Another interpreter: make PYTHON=python3.13 <target>

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; \
	done; echo python3)
VENV := .venv
NAUTILUS := .venv-nautilus
PEERS := .venv-peers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What is read for misspellings.
TEXTS := src docs tests tools examples bench web/src README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md Makefile

DEMO_ARGS ?=
BENCH_ARGS ?=
STORAGE_ARGS ?=
VECTORS_ARGS ?=
COORDINATION_ARGS ?=
PEERS_ARGS ?=
HTTP_ARGS ?=
CLUSTER_ARGS ?=
JOIN_ARGS ?=
PAGE_ARGS ?=
SOAK_ARGS ?=
OVERLOAD_ARGS ?=
MUTATION_ARGS ?=
FLOOD_ARGS ?=
CHAOS_ROUNDS ?= 30
TEST_ARGS ?=
# Processes that share the tests, a file at a time.
WORKERS ?= 2
TESTS := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help demo test test-models test-nautilus test-agentdb test-package mutation licences sbom audit stress check bench bench-storage bench-vectors bench-coordination bench-http soak overload flood chaos page screenshots bench-page docs session fmt clean bench-peers bench-prices bench-cluster bench-join
.DELETE_ON_ERROR:

help:
	@echo 'make demo    a swarm with memory trades real prices; writes demo-report/'
	@echo 'make test    run the tests                    (TEST_ARGS="-k pins")'
	@echo 'make test-models  the tests of trained models; installs torch, some GB'
	@echo 'make test-nautilus  the NautilusTrader example and its tests; installs the platform, 300 MB'
	@echo 'make test-agentdb  AgentDB reads what we wrote and the other way; installs its npm package'
	@echo 'make test-package  wheel and sdist: built, installed into an empty environment, used there'
	@echo 'make mutation  is there a change to the pure cores that no test notices? (MUTATION_ARGS="locks")'
	@echo 'make licences  is every dependency under a licence that is allowed?'
	@echo 'make sbom    what an installation brings, as CycloneDX, into dist/'
	@echo 'make audit   known vulnerabilities of what an installation brings; asks the advisory service'
	@echo 'make stress  the long tests: kill -9 in mid-write, soaks, chaos; 25 minutes on two cores'
	@echo 'make check   format, lint, types, import rules and tests: what CI runs'
	@echo 'make bench   measure, write bench/results/    (BENCH_ARGS="--n 1000000")'
	@echo 'make bench-storage  puts and reads beside other stores and caches (STORAGE_ARGS)'
	@echo 'make bench-vectors  search beside other indexes and databases (VECTORS_ARGS="--n 1000000")'
	@echo 'make bench-coordination  messages, locks and votes beside others (COORDINATION_ARGS)'
	@echo 'make bench-peers  one workload on other memories of agents  (PEERS_ARGS="--peers mem0 Redis")'
	@echo 'make bench-http  put, get and search of nt-memory serve         (HTTP_ARGS="--clients 1 64")'
	@echo 'make bench-prices  33 years of real prices, walked forward by the memory (PRICES_ARGS)'
	@echo 'make bench-cluster  processes over NATS, beside Redis and PostgreSQL (CLUSTER_ARGS)'
	@echo 'make bench-join  a new node joins a swarm of N observations (JOIN_ARGS="--n 1000000")'
	@echo 'make soak    30 minutes of mixed load: does anything grow?   (SOAK_ARGS="--minutes 5")'
	@echo 'make overload  10 minutes of writers faster than the disk    (OVERLOAD_ARGS="--minutes 6")'
	@echo 'make flood   6 minutes of messages that some never read      (FLOOD_ARGS="--minutes 1")'
	@echo 'make chaos   8 processes on 3 servers, 30 + 30 rounds of failures, 15 minutes (CHAOS_ROUNDS=3)'
	@echo 'make page    build the live page from web/; needs Node 20 and npm'
	@echo 'make screenshots  the page as pictures in docs/how-to/; needs Chromium'
	@echo 'make bench-page  100 agents at 1,000 events/s: does the page keep up? Needs Chromium'
	@echo 'make docs    build the documentation into site/'
	@echo 'make session record the session of the tutorial anew: runs its commands, needs port 3000'
	@echo 'make fmt     write sync.pyi and the command reference; format and fix what can be fixed by itself'
	@echo 'make clean   remove .venv, caches and build output'

demo: $(VENV)/.installed
	$(BIN)/nt-memory demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev
	$(TESTS) $(TEST_ARGS)

test-models: $(VENV)/.installed-dev $(VENV)/.installed-models
	$(BIN)/python -m pytest --timeout 300 tests/integration/test_trained_models.py $(TEST_ARGS)

test-nautilus: $(NAUTILUS)/.installed
	$(NAUTILUS)/bin/python examples/nautilus/remembering.py
	$(NAUTILUS)/bin/python -m pytest --timeout 600 tests/integration/test_nautilus_example.py $(TEST_ARGS)

test-agentdb: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m stress --timeout 900 tests/stress/test_agentdb_package.py $(TEST_ARGS)

test-package: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m stress --timeout 900 tests/stress/test_package.py $(TEST_ARGS)

mutation: $(VENV)/.installed-dev $(VENV)/.installed-mutation
	$(BIN)/python tools/mutation.py $(MUTATION_ARGS)

licences: $(VENV)/.installed-dev
	$(BIN)/python tools/licences.py --table

# Of an installation without extras, in an environment that holds nothing else.
sbom: $(VENV)/.installed-dev $(VENV)/.installed-supply
	rm -rf build/plain && $(BIN)/python -m venv build/plain
	build/plain/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt .
	build/plain/bin/python -m pip uninstall --quiet --yes setuptools pip
	mkdir -p dist
	PYTHONHASHSEED=0 $(BIN)/cyclonedx-py environment build/plain/bin/python --pyproject pyproject.toml \
		--mc-type library --output-reproducible --of JSON -o dist/nt-memory.cdx.json

audit: $(VENV)/.installed-supply
	$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --no-deps -r constraints.txt

# What is marked `alone` judges latencies: by one process, with no other test beside it.
# pytest ends with 5 where TEST_ARGS left nothing to run, which may be so of one of the two.
stress: $(VENV)/.installed-dev
	@$(TESTS) -m "stress and not alone" --timeout 1800 $(TEST_ARGS); beside=$$?; \
	$(BIN)/python -m pytest -m "stress and alone" --timeout 1800 $(TEST_ARGS); alone=$$?; \
	echo "pytest ended with $$beside, and of the tests that run alone with $$alone"; \
	case $$beside,$$alone in 0,0|0,5|5,0) ;; *) exit 1;; esac

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell $(TEXTS)
	$(BIN)/python tools/licences.py
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tools/completeness.py
	$(BIN)/lint-imports
	$(TESTS) $(TEST_ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/run.py $(BENCH_ARGS)

bench-storage: $(VENV)/.installed-dev $(VENV)/.installed-bench
	$(BIN)/python bench/storage.py $(STORAGE_ARGS)

bench-vectors: $(VENV)/.installed-dev $(VENV)/.installed-bench-vectors
	$(BIN)/nt-memory bench vectors --out bench/results $(VECTORS_ARGS)

bench-coordination: $(VENV)/.installed-dev $(VENV)/.installed-bench-coordination
	$(BIN)/nt-memory bench coordination --out bench/results $(COORDINATION_ARGS)

bench-peers: $(VENV)/.installed-dev $(PEERS)/.installed
	PYTHONPATH=bench $(BIN)/python -m peers --python $(PEERS)/bin/python $(PEERS_ARGS)

bench-http: $(VENV)/.installed-dev
	$(BIN)/python bench/serving.py $(HTTP_ARGS)

bench-prices: $(VENV)/.installed-dev $(VENV)/.installed-bench-prices
	$(BIN)/python bench/prices.py --out bench/results $(PRICES_ARGS)

bench-join: $(VENV)/.installed-dev
	$(BIN)/python bench/join.py $(JOIN_ARGS)

bench-cluster: $(VENV)/.installed-dev $(VENV)/.installed-bench-cluster
	$(BIN)/python bench/cluster.py $(CLUSTER_ARGS)

soak: $(VENV)/.installed-dev
	$(BIN)/python bench/soak.py $(SOAK_ARGS)

overload: $(VENV)/.installed-dev
	$(BIN)/python bench/overload.py $(OVERLOAD_ARGS)

flood: $(VENV)/.installed-dev
	$(BIN)/python bench/flood.py $(FLOOD_ARGS)

chaos: $(VENV)/.installed-dev
	CHAOS_ROUNDS=$(CHAOS_ROUNDS) $(BIN)/python -m pytest -m stress tests/stress/test_cluster_chaos.py $(TEST_ARGS)

page:
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run build

screenshots: $(VENV)/.installed-dev $(VENV)/.installed-screenshots
	$(BIN)/python tools/screenshots.py

bench-page: $(VENV)/.installed-dev
	$(BIN)/python bench/page.py $(PAGE_ARGS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

session: $(VENV)/.installed-dev
	$(BIN)/python tools/terminal_session.py

fmt: $(VENV)/.installed-dev
	$(BIN)/python tools/sync_stub.py
	$(BIN)/python tools/cli_reference.py
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(NAUTILUS) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf build dist site demo-report
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"nt-memory needs Python 3.11 or newer, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@echo 'Making $(VENV)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'could not make a virtual environment (on Debian: apt-get install python3-venv)'; \
		exit 1; } >&2

# In an environment of its own: the platform pins older versions of what the tests use.
$(NAUTILUS)/.installed: pyproject.toml examples/nautilus/requirements.txt
	@$(PYTHON) -m venv $(NAUTILUS)
	@echo 'Installing nt-memory and NautilusTrader into $(NAUTILUS)'
	@$(NAUTILUS)/bin/python -m pip install --quiet --disable-pip-version-check -e . -r examples/nautilus/requirements.txt
	@touch $@

# In an environment of its own, without nt-memory: with our pins, pip would find a mem0 of two years ago. What
# is not Python is looked for by the bench, which says in its table what is missing.
$(PEERS)/.installed: bench/peers/requirements.txt bench/peers/package.json bench/peers/package-lock.json
	@$(PYTHON) -m venv $(PEERS)
	@echo 'Installing the peers into $(PEERS)'
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers/requirements.txt
	@mkdir -p $(PEERS)/agentdb && cp bench/peers/package.json bench/peers/package-lock.json $(PEERS)/agentdb/
	@npm ci --prefix $(PEERS)/agentdb --ignore-scripts --no-audit --no-fund --loglevel error || \
		echo 'AgentDB is left out: npm is missing, or could not install it'
	@touch $@

# One stamp for each set of extras; a change of what they depend on installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing nt-memory into $(VENV)'
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing nt-memory and its $* tools into $(VENV)'
	@$(PIP) -e '.[$*]'
	@touch $@
