# `make demo` shows it, `make test` checks everything.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test setup format lint determinism build core turmoil kernel fuzz doc dependencies advisories fmt clippy

help: ## this list
	@sed -n 's/^\([a-z ]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 34

demo: ## a cluster with Postgres behind NATs on this machine, and a failover to watch
	@deploy/setup.sh demo
	@. deploy/env.sh && cargo build --release --locked --quiet -p holdfast
	@deploy/demo.sh

demo-down: ## remove what `make demo` left running
	@deploy/demo.sh down

test: ## set up, then every check below
	@deploy/setup.sh test
	@deploy/check.sh

setup: ## install what is missing for all of this
	@deploy/setup.sh test

format lint determinism build core turmoil kernel fuzz doc dependencies advisories: ## one check
	@deploy/check.sh $@

fmt: ## format the code
	@. deploy/env.sh && cargo fmt --all

clippy: lint ## the same as lint
