"""What holds for the whole package: no cycles, small pieces, engines behind one adapter each."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from source import Module, imports, modules, own_lines

PORTS = "modelyard.core.ports"

# heavy engine -> the only modules that may import it
ADAPTERS = {
    "pandas": {"modelyard.engines.frames"},
    "sklearn": {"modelyard.engines.sklearn"},
    "lightgbm": {"modelyard.engines.lightgbm"},
    "xgboost": {"modelyard.engines.xgboost"},
    "onnx": {"modelyard.engines.onnx_export", "modelyard.engines.trees_onnx"},
    "onnxruntime": {"modelyard.engines.onnx"},
    "skl2onnx": {"modelyard.engines.onnx_export"},
    "onnxmltools": {"modelyard.engines.onnx_export"},
    "skops": {"modelyard.engines.sklearn"},
    "optuna": {"modelyard.engines.optuna"},
    "shap": {"modelyard.engines.shap"},
    "lime": {"modelyard.engines.lime"},
    "torch": {"modelyard.engines.torch"},
    "tensorflow": {"modelyard.engines.tensorflow"},
    "ray": {"modelyard.engines.ray"},
    "grpc": {"modelyard.serving.grpc_service"},
    "duckdb": {"modelyard.storage.duckdb"},
    "psycopg": {"modelyard.storage.postgres"},
    "redis": {"modelyard.storage.redis"},
    "obstore": {"modelyard.storage.objects"},
    "sqlalchemy": {"modelyard.storage.migrations.upgrade"},
    "alembic": {"modelyard.storage.migrations.upgrade", "modelyard.storage.migrations.env"},
    "fastapi": {"modelyard.server.openapi"},
}


def owners(engine: str) -> set[str]:
    return {m.name for m in modules() if any(name.partition(".")[0] == engine for name in imports(m))}


@pytest.mark.parametrize("engine", sorted(ADAPTERS))
def test_a_heavy_engine_is_imported_by_its_one_adapter_only(engine: str) -> None:
    allowed = ADAPTERS[engine]
    strangers = {name for name in owners(engine) if not any(name == a or name.startswith(a + "_") for a in allowed)}
    assert not strangers


def test_no_module_imports_itself_through_others() -> None:
    known = {m.name for m in modules()}
    graph = {m.name: {name for name in imports(m) if name in known and name != m.name} for m in modules()}
    for module in known:  # an import of a name from a package also runs the package, not the other way round
        graph[module].discard(module)
    assert not cycles(graph)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected groups of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(group)

    for name in graph:
        if name not in index:
            visit(name)
    return groups


def test_cycles_are_found_where_there_are_some() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_importing_modelyard_loads_no_third_party_package() -> None:
    script = (
        "import sys; before = set(sys.modules); import modelyard; modelyard.ModelStage; "
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}; "
        "print(sorted(n for n in new if n not in sys.stdlib_module_names and n != 'modelyard'))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def definitions(kind: type) -> list[tuple[str, int, Module, ast.AST]]:
    return [
        (f"{m.name}.{node.name}", own_lines(node), m, node)
        for m in modules()
        for node in ast.walk(m.tree)
        if isinstance(node, kind)
    ]


def test_pieces_stay_small(capsys: pytest.CaptureFixture[str]) -> None:
    functions = definitions((ast.FunctionDef, ast.AsyncFunctionDef))
    classes = definitions(ast.ClassDef)
    lengths = sorted(length for _, length, *_ in functions)
    p50, p90, p99 = (lengths[int(len(lengths) * q)] for q in (0.5, 0.9, 0.99))
    files = {m.name: m.lines for m in modules()}
    methods = {
        name: sum(isinstance(b, (ast.FunctionDef, ast.AsyncFunctionDef)) and b.name[0] != "_" for b in node.body)
        for name, _, _, node in classes
    }
    with capsys.disabled():
        print(
            f"\nfunctions p50/p90/p99 {p50}/{p90}/{p99} lines (aim 6/20/45); largest file {max(files.values())} (450);"
        )
        print(
            f"largest class {max(length for _, length, *_ in classes)} (220); most public methods {max(methods.values())} (15)"
        )
    assert p50 <= 12
    assert p90 <= 40
    assert p99 <= 90
    assert not {name: n for name, n in files.items() if n > 900}
    assert not {name: length for name, length, *_ in classes if length > 440}
    assert not {name: n for name, n in methods.items() if n > 30}


def test_ports_have_five_methods_or_fewer() -> None:
    ports = next(m for m in modules() if m.name == PORTS)
    for node in ports.tree.body:
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.dump(base) for base in node.bases):
            assert sum(isinstance(b, ast.FunctionDef) for b in node.body) <= 5, node.name
