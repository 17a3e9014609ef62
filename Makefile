# Targets and their arguments are listed by `make`; PYTHON names the Python that makes .venv.
# make itself ends with 2 whatever went wrong; edgeprune's own exit codes (docs/cli.md) are seen
# by calling .venv/bin/edgeprune directly.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
MCU    := $(VENV)/.installed-microcontroller

JOB    ?= examples/fashion_mnist/job.toml
BUDGET ?=
RESUME ?=
DEVICE ?= mobile_cpu
WHAT   ?= $(JOB)
RUN    ?= deploy/mobile_cpu/fashion_resnet

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	      /^## / { printf "\n%s\n", substr($$0, 4) } \
	      /^[a-z0-9_-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "make ends with 2 on any failure; for edgeprune's exit codes call $(BIN)/edgeprune itself."

## Set up

.PHONY: setup
setup: $(STAMP) ## Make the virtual environment in .venv; the targets below do so themselves [PYTHON=python3]

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) was not found: install Python 3.11 or later, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another: make setup PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,examples]'
	@touch $@

$(MCU): $(STAMP)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[microcontroller]'
	@touch $@

.PHONY: arm64
arm64: $(STAMP) ## Install the ARM64 emulator for this user (85 MB to fetch, without root)
	$(BIN)/python -m edgeprune.devices.arm64

.PHONY: webgpu
webgpu: ## Install WebGPU on software Vulkan for this user: the device webgpu_software
	@edgeprune/devices/webgpu.sh "$(PYTHON)"

## Use

.PHONY: mobile_cpu
mobile_cpu: $(STAMP) ## Run the whole job on this CPU [JOB=job.toml] [BUDGET=50%] [RESUME=1]
	$(BIN)/edgeprune run "$(JOB)" --device mobile_cpu $(if $(BUDGET),--budget "$(BUDGET)") $(if $(RESUME),--resume)

.PHONY: edge_gpu
edge_gpu: $(STAMP) ## The same on this machine's GPU, or on the estimate of one where none answers
	$(BIN)/edgeprune run "$(JOB)" --device edge_gpu $(if $(BUDGET),--budget "$(BUDGET)") $(if $(RESUME),--resume)

.PHONY: microcontroller
microcontroller: JOB = examples/fashion_mnist/microcontroller.toml
microcontroller: $(MCU) ## The same in int8 on an emulated Cortex-M4
	$(BIN)/edgeprune run "$(JOB)" --device microcontroller $(if $(BUDGET),--budget "$(BUDGET)") $(if $(RESUME),--resume)

.PHONY: profile
profile: $(STAMP) ## Show cost and memory of each layer [DEVICE=mobile_cpu] [WHAT=job.toml]
	$(BIN)/edgeprune profile "$(WHAT)" --device "$(DEVICE)"

.PHONY: report
report: $(STAMP) ## Rewrite report.html of a finished run [RUN=deploy/DEVICE/JOB]
	$(BIN)/edgeprune report "$(RUN)"

.PHONY: train
train: $(STAMP) ## Train the dense network of the Fashion-MNIST example again (about 40 minutes)
	$(BIN)/python examples/fashion_mnist/train.py

## Develop

# Tests of devices that need tools of their own are apart: .ci/run installs the tools and runs both.
DEVICE_TESTS := arm64 or c_compiler or microcontroller or qemu or ssh or webgpu

.PHONY: test
test: $(STAMP) ## Run the tests that need nothing but Python, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not ($(DEVICE_TESTS))"

.PHONY: test-slow
test-slow: $(STAMP) ## Run the slow ones of these
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "slow and not ($(DEVICE_TESTS))"

.PHONY: test-devices
test-devices: $(STAMP) ## Run the tests of emulators, ssh and WebGPU, skipping what is not installed [QUICK=1]
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "($(DEVICE_TESTS))$(if $(QUICK), and not slow)"

.PHONY: check
check: $(STAMP) ## Lint, formatting, types, import contracts, generated documentation
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_cli.py --check

.PHONY: docs
docs: $(STAMP) ## Write docs/cli.md from the help of the command line
	$(BIN)/python docs/generate_cli.py

.PHONY: clean
clean: ## Remove caches and built packages; keeps .venv, deploy/ and bench/
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find benchmarks docs edgeprune examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

## Benchmark

# Each figure states its conditions; times need an idle machine. KEEP names a folder to go on with.
# A missing emulator is told before anything is measured. PARTS are those of one program, so `bench`
# hands none on.
ALL := $(or $(KEEP),bench)

.PHONY: bench
bench: arm64-ready $(MCU) ## All below in turn, many hours; goes on with KEEP, but for methods, curves and budgets [KEEP=bench]
	$(MAKE) bench-solver KEEP="$(ALL)/solver"
	for network in fashion mobilenet_v2 resnet18; do \
	  $(MAKE) bench-prediction NETWORK=$$network KEEP="$(ALL)/prediction/$(DEVICE)" || exit 1; done
	$(MAKE) bench-prediction DEVICE=arm64_emulated KEEP="$(ALL)/prediction/arm64_emulated"
	$(MAKE) bench-pairs KEEP="$(ALL)/pairs"
	$(MAKE) bench-methods PARTS=
	for device in mobile_cpu arm64_emulated; do $(MAKE) bench-curves DEVICE=$$device || exit 1; done
	$(MAKE) bench-budgets
	$(MAKE) bench-microcontroller KEEP="$(ALL)/microcontroller"
	$(MAKE) bench-peers KEEP="$(ALL)"
	$(MAKE) bench-measure PARTS= KEEP="$(ALL)/measure"

.PHONY: arm64-ready
arm64-ready: $(STAMP)
	@$(BIN)/python -c 'import sys; from edgeprune.devices.arm64 import place; from edgeprune.devices.protocol import Obstacle; \
	  found = place.installed(); sys.exit(f"{found.why}: run {found.help}" if isinstance(found, Obstacle) else 0)'

.PHONY: bench-measure
bench-measure: $(STAMP) ## Check the measuring itself, hours [KEEP=folder] [PARTS=]
	$(BIN)/python benchmarks/measure.py $(if $(KEEP),--keep "$(KEEP)") $(if $(PARTS),--parts $(PARTS))

.PHONY: bench-solver
bench-solver: $(STAMP) ## Time the exact allocator and its proven gap, 9 to 300 groups [KEEP=bench/solver]
	$(BIN)/python benchmarks/solver.py --keep "$(or $(KEEP),bench/solver)/solver.json"

.PHONY: bench-prediction
bench-prediction: $(STAMP) ## Predict random plans and measure them [DEVICE=] [NETWORK=fashion] [KEEP=folder]
	for part in price prepare measure measure measure measure report; do \
	  $(BIN)/python benchmarks/prediction.py $$part --network $(or $(NETWORK),fashion) \
	    --device "$(DEVICE)" --keep "$(or $(KEEP),bench/prediction/$(DEVICE))" || exit 1; done

.PHONY: bench-pairs
bench-pairs: $(STAMP) ## Bring 20 random networks to random budgets [DEVICE=] [KEEP=folder]
	$(BIN)/python benchmarks/pairs.py --device "$(DEVICE)" --keep "$(or $(KEEP),bench/pairs)/pairs.json"

.PHONY: bench-methods
bench-methods: $(STAMP) ## Time, memory and gain of criteria and reconstruction, half an hour, from the start each time [PARTS=]
	$(BIN)/python benchmarks/methods.py $(if $(PARTS),--parts $(PARTS))

.PHONY: bench-curves
bench-curves: $(STAMP) ## Time sensitivity curves, and how sure their order is, from the start each time [DEVICE=]
	$(BIN)/python benchmarks/curves.py --device "$(DEVICE)"

.PHONY: bench-budgets
bench-budgets: $(MCU) ## Budgets in instructions, MACs and RAM on an emulated Cortex-M4, from the start each time [STEPS=]
	$(BIN)/python benchmarks/budgets.py $(if $(STEPS),--steps $(STEPS))

.PHONY: bench-microcontroller
bench-microcontroller: $(MCU) ## Compare generated C code, emulated; writes docs/benchmarks.md [KEEP=folder]
	$(BIN)/python benchmarks/microcontroller.py --docs docs/benchmarks.md $(if $(KEEP),--keep "$(KEEP)")

.PHONY: bench-peers
bench-peers: arm64-ready ## Compare allocators at equal cost, hours; writes docs/benchmarks.md [STEPS=] [KEEP=bench]
	$(BIN)/python benchmarks/peers.py $(if $(STEPS),--steps $(STEPS)) $(if $(KEEP),--keep "$(KEEP)")
