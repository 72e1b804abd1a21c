# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STUDY  := sdw-studies/hopper-quickstart

.PHONY: quickstart smoke test test-slow lint types check pages site bench clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# A study that was interrupted goes on; one that is finished shows its table again.
quickstart: $(VENV)/.installed
	if [ -e $(STUDY) ]; then $(BIN)/sdw resume $(STUDY); else $(BIN)/sdw launch quickstart; fi

# Within a minute: does this checkout work? Docstring examples, the method against its engines, one
# distillation and one study, each to its export and evaluation.
STUDIES := tests/integration/test_study.py
SMOKE   := sdw_core search_spaces study tests/sdw_core/test_examples.py \
  tests/study/test_cli.py::test_distill_exports_and_evaluate_finds_the_same_score \
  $(STUDIES)::test_stdout_is_one_document_of_complete_trials \
  $(STUDIES)::test_the_winner_is_exported_and_evaluates_to_what_its_manifest_says
smoke: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --exitfirst $(SMOKE)

# Within six minutes on two cores: two processes of one thread each. Tests with Ray come first, so
# that neither process waits for the other in the end.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadscope --no-loadscope-reorder

# Within three quarters of an hour, in two processes: real processes that are killed, stopped and
# starved, hosts, a SLURM, browsers, and training at full size.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -n 2 --dist loadscope --timeout 1800

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.convergence

# Only what these commands make here; an environment elsewhere (`VENV=...`) is its owner's.
clean:
	rm -rf .venv sdw_obd.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The documentation as a site, in `site/`: its files, at their places, and what they show.
PAGES := README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs sdw_core/distill/README.md examples \
  benchmarks/results search_spaces
pages:
	rm -rf build/site
	mkdir -p build/site
	cp -r --parents $(PAGES) build/site
site: $(VENV)/.installed-dev pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
