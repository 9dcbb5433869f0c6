# make run     install what is missing, then run the scenario of lab.yaml (ARGS="--waves" adds options)
# make test    the same set-up, then lint, types and every test
# make setup   the set-up alone
# make lock    resolve requirements.lock anew from pyproject.toml
# make formal  prove all that hdl/formal claims, and refuse its broken copies (ARGS=key_lock: one set)
# make coverage  run the benches of the gates with coverage (ARGS=tests/hdl/rtl/test_ghash.py: some)
# make mutants  break the gates in many small ways, and see that a bench notices each
# make powerup  run benches and rig with random initial values (ARGS="--seeds 3")
# make widths  run the benches of the gates at every width (ARGS="8 4": some)
# make sizes   synthesize the gates at every width, and keep their sizes (ARGS=1: some)
# make fuzz    feed what parses bytes from the network, guided by coverage (ARGS="--seconds 600")
# make docs    write the reference pages from the code, and build the site: build/site/docs/index.html
# make format  let ruff rewrite the Python sources

BIN := .venv/bin
PYTHON_SOURCES := rig hsm hdl tests docs

.PHONY: run test setup formal coverage mutants powerup widths sizes fuzz docs lint lock format

run: setup
	@$(BIN)/rig run $(ARGS)

test: lint
	@.ci/setup --tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

formal: setup
	@$(BIN)/python -m hdl.formal.prove $(ARGS)

coverage: setup
	@$(BIN)/python -m hdl.verilator.coverage $(ARGS)

mutants: setup
	@$(BIN)/python tests/mutants/run.py $(ARGS)

powerup: setup
	@$(BIN)/python -m hdl.verilator.power_up $(ARGS)

widths: setup
	@$(BIN)/python -m hdl.verilator.widths $(ARGS)

sizes: setup
	@$(BIN)/python -m hdl.fpga.sizes $(ARGS)

fuzz: setup
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

docs: setup
	$(BIN)/python -m docs.generate
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/site

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict $(PYTHON_SOURCES)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m hdl.verilator.lint

setup:
	@.ci/setup

lock: setup
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --generate-hashes --no-header --no-annotate -o requirements.lock pyproject.toml

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
