# GamePulse. `make` lists what there is; CONTRIBUTING.md says more.
.DEFAULT_GOAL := help
.PHONY: help up down status test test-containers test-upstream synth deploy admin console prove destroy purge cost load faults outage check bench web dashboards tools
BIN := .venv/bin
PAGE := src/gamepulse/static/index.html

help: ## List the targets (at once)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Settings: DETACH=1 DEMO=0 GAMEPULSE_HOME=.gamepulse GAMEPULSE_PORT_OFFSET=0, as in: make up DETACH=1"

up: .venv/installed $(PAGE) ## Start everything; Ctrl-C stops it (page after 1 min; first time 15 min more to build the rest)
	@$(BIN)/python -m stack up

down: .venv/installed ## Stop everything; the data stays (5 s)
	@$(BIN)/python -m stack down

status: .venv/installed ## Say what runs, since when, and what is wrong (1 s)
	@$(BIN)/python -m stack status

test: .venv/installed $(PAGE) tools ## Run all tests, on the real programs (45 to 55 min; first time 10 min more to build them)
	@$(BIN)/python -m stack build
	$(BIN)/pytest --durations=40 --durations-min=5

test-containers: .venv/installed ## Make all images without a registry, start compose.yaml and AWS's tasks on them, test both (10 min; needs Debian and an engine)
	$(BIN)/pytest tests/containers --timeout=1800

test-upstream: .venv/installed tools ## The same on the makers' images, Grafana included (needs a registry and an engine)
	UPSTREAM=1 $(BIN)/pytest tests/containers --timeout=1800

ENV ?= staging
synth: .venv/installed ## Write the AWS templates into cdk.out, without an account: ENV=staging|production (20 s)
	@$(BIN)/python -m deploy synth $(ENV)

deploy: .venv/installed ## Deploy to AWS: ENV=staging|production; docs/deploy.md says what is needed first (1 h the first time)
	@$(BIN)/python -m deploy deploy $(ENV) $(if $(VERSION),--version $(VERSION))

admin: .venv/installed ## Make an account on AWS, an admin of a studio: ENV=… NAME=… STUDIO=…; the password comes into Secrets Manager (1 min)
	@$(BIN)/python -m deploy admin $(ENV) "$(NAME)" --studio "$(STUDIO)"

console: .venv/installed ## Reach a program of ENV=… from here, by SSM: NAME=prometheus|alertmanager|loki|jaeger (until Ctrl-C)
	@$(BIN)/python -m deploy console $(ENV) $(NAME)

prove: .venv/installed ## Show on a real account what cannot be shown without: ENV=staging, evidence.json (3 h; up to 50 USD)
	@$(BIN)/python -m deploy prove $(ENV)

destroy: .venv/installed ## Take ENV=staging away from AWS, but for what has data (40 min)
	@$(BIN)/python -m deploy destroy $(ENV)

purge: .venv/installed ## Take away what `make destroy` has left, after asking: ENV=staging, SNAPSHOTS=1 for the database's last one too (5 min)
	@$(BIN)/python -m deploy purge $(ENV) $(if $(SNAPSHOTS),--snapshots)

cost: .venv/installed ## Reckon what AWS costs a month for 10, 50 and 200 thousand players (1 s); more: python -m deploy cost --help
	@$(BIN)/python -m deploy cost

FAULTS ?= 1000
faults: .venv/installed $(PAGE) ## Strike at random under load: FAULTS=1000, SEED=… for the same faults again (25 min)
	$(BIN)/python -m tests.faults.campaign --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

MINUTES ?= 10
SCENARIO ?= smoke
load: .venv/installed ## Send k6's players to what runs: SCENARIO=smoke|load|stress|spike|soak, soak for MINUTES=10 (15 s to 4 min)
	@MINUTES=$(MINUTES) $(BIN)/python -m tests.load $(SCENARIO)

outage: .venv/installed $(PAGE) ## Stop each store for MINUTES=10 of load, and kill the Collector meanwhile (25 min)
	$(BIN)/python -m tests.outage --minutes $(MINUTES)

check: .venv/installed ## Check format, lint and types (1 min; 3 the first time, and 1 more without Go on the PATH)
	$(BIN)/ruff format --check src stack deploy operations bench tests observability
	$(BIN)/ruff check src stack deploy operations bench tests observability
	$(BIN)/mypy --strict src stack deploy operations bench tests observability
	$(BIN)/python -m stack.web check
	$(BIN)/python -m bench.programs

bench: .venv/installed $(PAGE) tools ## Measure the service against its peers and its targets (25 min)
	$(BIN)/python -m bench

web: .venv/installed ## Build the live page into the package (20 s)
	$(BIN)/python -m stack.web build

dashboards: .venv/installed ## Make Grafana's dashboards of observability/grafana/dashboards (1 s)
	$(BIN)/python -m observability.grafana.dashboards

$(PAGE): .venv/installed web/package-lock.json web/build.mjs $(shell find web/src -type f 2>/dev/null)
	$(BIN)/python -m stack.web build
	@touch $@

# Everything pinned with hashes: pip fetches only uv, as the lock names it, and uv the rest.
.venv/installed: requirements-dev.lock pyproject.toml
	@python=$$(for p in python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' \
		2>/dev/null && echo $$p && break; done); \
	test -n "$$python" || { echo "Python 3.13 is needed: no python3.13 on the PATH"; exit 1; }; \
	echo "Installing into .venv (1 min)"; $$python -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' $< > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	@$(BIN)/python -m uv pip sync --quiet --require-hashes $<
	@$(BIN)/python -m uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# tests/browser and bench/ look at the live page in a real browser; bench/ sends with wrk.
tools:
	@{ command -v chromium && command -v wrk; } >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		echo "Installing Chromium and wrk (1 min)" && apt-get -qq update && apt-get -qq install -y chromium wrk >/dev/null; } || \
		{ echo "Chromium and wrk are needed: install both, or run as root on Debian"; exit 1; }
