# Two commands: `make demo` and `make test`. Both set up .venv first; only Python 3.11 to 3.13 and make are needed.
.PHONY: help demo test check lock clean

PY := .venv/bin/python

help:
	@echo "make demo    take a real model through its whole life (about a minute after set-up)"
	@echo "make test    lint, types, import contracts, tests, docstring examples, example scripts"
	@echo "make check   the quick part of make test: lint, types, import contracts"
	@echo "make lock    resolve requirements.lock anew"
	@echo "make clean   remove .venv and caches"

demo:
	@PYTHON="$(PYTHON)" scripts/setup.sh
	@.venv/bin/modelyard demo $(ARGS)

check:
	@PYTHON="$(PYTHON)" scripts/setup.sh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: check
	@.venv/bin/python -m compileall -qq src
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lock:
	@PYTHON="$(PYTHON)" scripts/setup.sh
	.venv/bin/uv pip compile pyproject.toml --extra all --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet --upgrade -o requirements.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
