# `make` lists the targets. Each target prints the commands it runs.
#
# Everything is installed into .venv. Each step leaves a stamp file there and runs again only if a file that it depends on
# is newer. PYTHON is the interpreter that creates .venv; ARGS is passed to pytest.

PYTHON ?= python3
KIT_PYTHON ?= python3.12
VENV := .venv
python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check
native_sources := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')
formatted_sources := $(native_sources) $(shell find tests/sanitized -name '*.cpp' -o -name '*.h')
clang_format := $(VENV)/bin/clang-format
main_detectron2 := .cache/detectron2-main

# As in flash_internimage/cli, for the tests: a compiler may use the cores at the same time.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/.extension ## Create or update .venv with torch, detectron2 and this package.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make: Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": name another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.requirements: requirements/torch.txt requirements/development.txt requirements/constraints.txt $(VENV)/.python
	$(pip) install -r requirements/torch.txt -r requirements/development.txt
	$(python) tools/cuda_toolkit.py | xargs -r $(pip) install
	@touch $@

$(VENV)/.detectron2: tools/install_detectron2.py tools/detectron2_patches.py $(VENV)/.requirements
	PIP_CONSTRAINT=requirements/constraints.txt $(python) tools/install_detectron2.py
	@touch $@

$(VENV)/.package: setup.py pyproject.toml $(VENV)/.detectron2
	$(pip) install --no-build-isolation -c requirements/constraints.txt -e .
	@touch $@

$(VENV)/.extension: $(native_sources) $(VENV)/.package
	$(python) setup.py -q build_ext --inplace
	@touch $@

# Two processes with one thread each: most tests are too small to gain from a second thread.
PROCESSES ?= 2
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -n $(PROCESSES) --dist loadfile

.PHONY: test
test: install ## Run the tests, except the slow ones; ARGS="tests/ops -k dcnv4" selects some.
	$(pytest) -m 'not slow' $(ARGS)

.PHONY: test-slow
test-slow: install ## Run the slow tests: large models, training until something is learned, launchers, the wheel.
	$(pytest) -m slow $(ARGS)

.PHONY: test-all
test-all: test test-slow ## Run all tests, the slow ones last, as CI does.

.PHONY: mutants
mutants: install ## Check that the sanitized kernel tests catch seeded bugs; WORD=shuffle selects some.
	$(python) -m tests.sanitized.mutants $(WORD)

MINUTES ?= 60

.PHONY: fuzz
fuzz: install ## Fuzz all kernels under sanitizers; MINUTES=5 sets the time, PROGRAMS=cpu or cuda selects one kind.
	$(python) -m tests.sanitized.fuzz --minutes $(MINUTES) $(if $(PROGRAMS),--programs $(PROGRAMS))

.PHONY: fuzz-readers
fuzz-readers: install ## Fuzz the readers of files with mutated valid files; MINUTES=5 sets the time.
	$(python) -m tests.hostile.fuzz --minutes $(MINUTES)

$(main_detectron2)/.unpacked: requirements/detectron2-main.txt $(VENV)/.requirements
	rm -rf $(main_detectron2) && mkdir -p $(main_detectron2)
	$(pip) download --no-deps --only-binary=:all: --python-version 3.10 --dest $(main_detectron2) -r $<
	cd $(main_detectron2) && ../../$(python) -m zipfile -e sal_detectron2-*.whl . && rm -r sal_detectron2-* tools
	@touch $@

.PHONY: test-detectron2-main
test-detectron2-main: install $(main_detectron2)/.unpacked ## Run the tests with a detectron2 close to upstream main.
	PYTHONPATH=$(main_detectron2) $(pytest) $(ARGS)

CLANG ?= clang++

.PHONY: compile-clang
compile-clang: install ## Check that Clang compiles the CPU part, in a minute; CLANG=clang++-14 names the compiler.
	$(python) tools/compile_clang.py $(CLANG)

.PHONY: test-aarch64
test-aarch64: install ## Run the sanitized kernels compiled for AArch64; needs g++-aarch64-linux-gnu and qemu-user.
	SANITIZED_TARGET=aarch64 $(python) -m tests.sanitized.build
	SANITIZED_TARGET=aarch64 $(python) -m pytest tests/sanitized/test_fuzz.py -k random $(ARGS)

VERSION ?= 2.11

.PHONY: test-torch
test-torch: ## Compile the CPU kernels for another PyTorch and test operators and layers; VERSION=2.8 PYTHON=python3.10.
	$(PYTHON) tools/test_torch.py $(VERSION) $(ARGS)

# Where there is no complete .venv, but a kit with what the machine lacks, nothing is installed.
on_bare_machine := $(if $(wildcard $(VENV)/.extension),,$(wildcard build/gpu-kit/kit.json))

.PHONY: gpu
gpu: $(if $(on_bare_machine),,install) ## Run all checks that need a GPU, in eight minutes; writes benchmarks/results/gpu_NAME.md.
	$(if $(on_bare_machine),$(PYTHON),$(python)) tools/gpu_check.py $(ARGS)

.PHONY: gpu-kit
gpu-kit: ## Prepare build/gpu-kit for `make gpu` on a bare machine with Python 3.12, torch 2.11 and torchvision; needs nvcc and python3.12.
	$(KIT_PYTHON) tools/gpu_kit.py $(ARGS)

.PHONY: wheel
wheel: install ## Build a wheel for this PyTorch into dist, and test it in a bare environment; FORCE_CUDA=1 adds CUDA kernels.
	$(python) tools/build_wheel.py --test

program := $(VENV)/bin/flash-internimage
demo := output/demo

.PHONY: demo
demo: install ## Train a small model on the shapes dataset, evaluate it and draw its detections (two CPU cores, minutes).
	$(program) train --overwrite --config-file mask_rcnn_flash_internimage_nano train.output_dir=$(demo) train.max_iter=300
	$(program) draw --dataset shapes_val --predictions $(demo)/inference/coco_instances_results.json --output $(demo)/visualizations

.PHONY: train-shapes
train-shapes: install ## Train the small Cascade, DINO and RetinaNet on the shapes dataset (CPU, within the hour).
	$(program) train --overwrite --config-file cascade_flash_internimage_nano train.output_dir=output/shapes-cascade
	$(program) train --overwrite --config-file dino_flash_internimage_nano train.output_dir=output/shapes-dino
	$(program) train --overwrite --config-file retinanet_flash_internimage_nano train.output_dir=output/shapes-retinanet

CONFIGS ?= $(shell $(python) -c "from flash_internimage import model_zoo; print(*model_zoo.list())")

.PHONY: export-published
export-published: install ## Export the published detectors to verified ONNX files (downloads, hours); CONFIGS="..." selects some.
	mkdir -p output/export
	$(foreach config,$(CONFIGS),$(program) export --config-file $(config) --output output/export/$(config).onnx && ):

.PHONY: export-configs
export-configs: install ## Export the published configs with random weights to verified ONNX files (CPU, hours); ARGS="-k t_1x" selects some.
	$(python) -m pytest tests/export/published.py --timeout=0 --show-capture=no $(ARGS)

.PHONY: parity
parity: install ## Compare every stage of the models with MMDetection's stored outputs; prints the differences.
	$(python) -m pytest tests/golden --parity $(ARGS)

.PHONY: export-programs
export-programs: install ## Export small detectors of all families with dynamic sizes and compile them with AOTInductor (CPU, minutes).
	$(python) -m pytest tests/export/programs.py --timeout=0 $(ARGS)

results := benchmarks/results
on_one_thread := OMP_NUM_THREADS=1 $(python) benchmarks

.PHONY: bench
bench: install ## Benchmark operators, backbone and data loading on the CPU against their peers; tables go to benchmarks/results.
	mkdir -p $(results)
	$(on_one_thread)/operators_cpu.py | tee $(results)/operators_cpu.md
	$(on_one_thread)/operators_cpu.py --no-peers --dtype bfloat16 | tee $(results)/operators_cpu_bfloat16.md
	OMP_NUM_THREADS=2 $(python) benchmarks/operators_cpu.py --no-peers | tee $(results)/operators_cpu_two_threads.md
	$(on_one_thread)/call_overhead_cpu.py | tee $(results)/call_overhead_cpu.md
	$(on_one_thread)/backbone_cpu.py | tee $(results)/backbone_cpu.md
	$(on_one_thread)/backbone_cpu.py --compile | tee $(results)/backbone_cpu_compiled.md
	$(on_one_thread)/backbone_cpu.py --dtype bfloat16 | tee $(results)/backbone_cpu_bfloat16.md
	$(on_one_thread)/detector_cpu.py | tee $(results)/detector_cpu.md
	$(on_one_thread)/detector_cpu.py --dtype bfloat16 --cast-weights | tee $(results)/detector_cpu_bfloat16.md
	$(on_one_thread)/data_loading.py | tee $(results)/data_loading.md
	$(on_one_thread)/data_start.py | tee $(results)/data_start.md

.PHONY: endure
endure: install ## Kill, stop and starve training runs on the CPU (Linux, minutes); WORD=full selects some checks.
	mkdir -p $(results)
	PYTHONPATH=. $(on_one_thread)/endurance.py $(WORD) > $(results)/endurance.md; code=$$?; cat $(results)/endurance.md; exit $$code

.PHONY: lint
lint: install ## Check style and types: ruff, clang-format and mypy.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(clang_format) --dry-run --Werror $(formatted_sources)
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy train_net.py tools $(wildcard projects/*/*/)

.PHONY: format
format: install ## Fix the style findings of lint that have automatic fixes.
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(clang_format) -i $(formatted_sources)

$(VENV)/.docs: requirements/docs.txt requirements/constraints.txt $(VENV)/.python
	$(pip) install -r $<
	@touch $@

.PHONY: docs
docs: $(VENV)/.docs ## Build the documentation into build/docs; warnings are errors.
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

.PHONY: clean
clean: ## Remove build products; keeps .venv, datasets and output.
	rm -rf build dist .cache .pytest_cache .ruff_cache .hypothesis *.egg-info flash_internimage/_C*.so $(VENV)/.extension
