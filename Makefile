# `make run` runs Postroom on this machine; `make up` runs it in containers; `make test` tests it;
# `make check` is what CI runs.
PYTHON ?= python3
VENVS := .venvs
DEV := $(VENVS)/dev/bin

.DEFAULT_GOAL := help
.PHONY: help run demo cli env up down verify-ledger compose-test test faults guards fuzz check lint servers bench bench-long requirements model clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\): *.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# One environment per image, so that neither can lean on what the other installs. Two makes at once
# would destroy each other's: where there is flock, the second one waits and finds it made.
LOCKED := $(if $(shell command -v flock),flock $(VENVS)/lock)
$(VENVS)/%/ready: requirements/%.txt
	@mkdir -p $(VENVS)
	@$(LOCKED) sh -ec '[ "$@" -nt "$<" ] || $(MAKE) --no-print-directory $(VENVS)/$*/new'

$(VENVS)/%/new:
	@echo "postroom: making the environment $(@D)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "postroom: Python 3.11 or newer is needed; set PYTHON=")'
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$*.txt
	@touch $(@D)/ready

run: $(VENVS)/api/ready $(VENVS)/worker/ready $(VENVS)/local/ready  ## run everything here, until Ctrl-C
	@exec $(VENVS)/local/bin/python -m local.run

demo: $(VENVS)/local/ready  ## send a few hundred documents to what `make run` runs
	@$(VENVS)/local/bin/python -m local.demo

cli: $(VENVS)/cli/ready  ## make what the command ./postroom needs; its first call does it, too

env:             ## complete .env with random passwords, for the containers
	@docker/env.sh

up: env          ## run everything in containers; also after changes
	docker compose up -d --build --wait
	@docker/addresses.sh

down:            ## stop the containers; data stays in their volumes
	docker compose down

compose-test: $(VENVS)/dev/ready  ## build the images, run the containers, and test them
	@docker info > /dev/null 2>&1 && docker compose version > /dev/null 2>&1 || { echo "postroom: the containers need Docker with Compose, running"; exit 1; }
	@$(DEV)/python -m local.install chromium
	$(DEV)/pytest --compose tests/compose

verify-ledger: $(VENVS)/api/ready $(VENVS)/local/ready  ## check that all that was accepted is accounted for
	@$(VENVS)/local/bin/python -m local.verify

lint: $(VENVS)/dev/ready  ## style, types and import contracts
	$(DEV)/ruff format --check .
	$(DEV)/ruff check .
	$(DEV)/mypy
	$(DEV)/lint-imports

servers: $(VENVS)/dev/ready
	$(DEV)/python -m local.install rabbitmq chromium prometheus

# Three at a time, as they wait for servers much of the time: 11 minutes on two cores, two at a time took 14.
test: servers  ## tests, on a real PostgreSQL and a real RabbitMQ
	$(DEV)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The container's run is one of its own: it has the broker's cases only, and other names in the table.
FAULTS := $(DEV)/pytest tests/faults --matrix --table docs/reliability.md
faults: $(VENVS)/dev/ready  ## the fault matrix into docs/reliability.md; BROKER=4: on rabbitmq:4, too
	$(DEV)/python -m local.install rabbitmq
	$(FAULTS) $(ARGS)
	$(if $(BROKER),$(FAULTS) --container rabbitmq:$(BROKER) -m broker $(ARGS))

guards: $(VENVS)/dev/ready  ## take each guard away once, and see its fault lose something
	$(DEV)/python -m tests.faults.guards --table docs/reliability.md

fuzz: servers    ## Schemathesis over the running API, thousands of cases (CASES= for each operation and phase)
	$(DEV)/pytest tests/fuzz -rP --examples $(or $(CASES),100)

check: lint test  ## what CI runs

bench: $(VENVS)/dev/ready  ## compare with one Celery task per document
	$(DEV)/python -m benchmarks.pipe

bench-long: $(VENVS)/dev/ready  ## how the cost grows, hours; ARGS="table queue": some parts of it
	$(DEV)/python -m benchmarks.growth $(ARGS)

model: $(VENVS)/dev/ready  ## train the default model again (SCIKIT_LEARN_DATA names the data home)
	$(DEV)/python -m worker.classify.train --dataset 20newsgroups

COMPILE = $(DEV)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command "make requirements"
requirements: $(VENVS)/dev/ready  ## compile requirements/*.in to pinned, hashed requirements/*.txt
	$(COMPILE) requirements/dev.in -o requirements/dev.txt
	for name in api worker local cli; do $(COMPILE) requirements/$$name.in -c requirements/dev.txt -o requirements/$$name.txt; done

clean:           ## remove the environments and caches; data under .data/ stays
	rm -rf $(VENVS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
