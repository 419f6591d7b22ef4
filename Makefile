# The commands of this repository. Each does its own set-up (scripts/setup.sh), once.
# What belongs to the agent runs on the Node 24 that npm puts on node_modules/.bin.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)

SEEDS ?= 1000
run := node --run

.PHONY: help setup demo test sim bench agent provider lint format clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## system and npm packages; every other target does it too
	@scripts/setup.sh

demo: agent ## two real VMs moved by one Pulumi stack: protect, preview, fail over, come home; needs root
	@$(run) demo -- $(ARGS)

test: setup ## lint, types, agent build, all tests, the simulation with SEEDS=1000 seeds
	@node scripts/test.ts --seeds $(SEEDS)

sim: setup ## the seeded simulation: SEEDS=n seeds, or SEED=s to replay one
	@$(run) sim -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

bench: agent ## speed and memory beside nbdkit and qemu-nbd
	@scripts/setup.sh bench
	@$(run) bench -- $(ARGS)

agent: setup ## dist/tidemark: one self-contained executable
	@$(run) agent

provider: setup ## dist/provider: the Pulumi provider, for Pulumi.yaml's plugins.providers
	@node scripts/build-provider.ts

lint: setup ## eslint, prettier, import cycles, types
	@$(run) lint
	@$(run) typecheck

format: setup ## rewrite sources with prettier
	@$(run) format

clean: ## remove what was built; the cache outside the checkout stays
	@rm -rf dist coverage
