"""Files of TensorFlow, Keras, PyTorch, CatBoost and HDF5: what only computes comes in, what reaches further does not."""

from __future__ import annotations

import base64
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.admission import inspect
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, PackageManifest, Signature
from modelyard.core.packages import manifest_text

SAMPLES = {
    name: zlib.decompress(base64.b85decode(text))
    for name, text in json.loads(Path(__file__).with_name("network_samples.json").read_text()).items()
}
FORMATS = {
    "model.cbm": "catboost",
    "model.json": "catboost-json",
    "model.keras": "keras",
    "model.h5": "keras-h5",
    "model.weights.h5": "hdf5",
    "saved_model.pb": "saved-model",
    "program.pt2": "torch-program",
    "state.pt": "torch",
}


def _inspected(data: bytes) -> Inspection:
    return inspect(io.BytesIO(data), len(data))


def _why_not(data: bytes) -> str:
    try:
        return "; ".join(_inspected(data).unsafe)
    except Malformed as error:
        return str(error)


@pytest.fixture
def artifacts(yard: Path) -> ArtifactStore:
    return ArtifactStore(yard)


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if name.startswith("honest")))
def test_what_only_computes_comes_in(name: str) -> None:
    found = _inspected(SAMPLES[name])
    assert found == Inspection(format=FORMATS.get(name.removeprefix("honest: "), "hdf5"))


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if name.startswith("hostile")))
def test_what_reaches_further_does_not(name: str, artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(SAMPLES[name])
    with pytest.raises(Invalid, match="refused"):
        artifacts.admit(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if "honest" in name))
def test_a_file_cut_short_is_refused(name: str) -> None:
    data = SAMPLES[name]
    for length in (len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        assert _why_not(data[:length]) or _inspected(data[:length]).format in ("binary", "json"), length


# --- HDF5


def test_addresses_that_lead_past_the_end_or_in_circles_are_refused() -> None:
    data = bytearray(SAMPLES["honest: groups, earliest.h5"])
    root = 64  # the root group's object header, in the symbol table entry of superblock version 0
    for address in (len(data), 2**63, 0):
        changed = bytearray(data)
        changed[root : root + 8] = address.to_bytes(8, "little")
        assert _why_not(bytes(changed))


def test_the_model_within_an_hdf5_file_is_judged_as_that_of_a_keras_file() -> None:
    assert "Lambda" in _why_not(SAMPLES["hostile: Lambda.h5"])
    assert "Lambda" in _why_not(SAMPLES["hostile: Lambda.keras"])


# --- Keras


def _rezipped(data: bytes, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (more or {}).items():
            new.writestr(name, content)
    return made.getvalue()


def _keras(**layer: Any) -> bytes:
    def change(name: str, content: bytes) -> bytes:
        if name != "config.json":
            return content
        config = json.loads(content)
        config["config"]["layers"].append(layer)
        return json.dumps(config).encode()

    return _rezipped(SAMPLES["honest: model.keras"], change)


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "keras.layers", "class_name": "Lambda", "config": {}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "x"}},
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}},
        {"module": "keras.models", "class_name": "load_model", "config": {}},
        {"module": "keras.utils", "class_name": "get_file", "config": {}},
        {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}},
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"},
        {"module": "os", "class_name": "system", "config": {}},
        {"module": "os"},
        {"class_name": "Dense.__init__", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
        {"module": "keras.layers", "class_name": "Dense", "config": {}, "registered_name": "custom>Evil"},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        {"module": "keras.layers", "class_name": ["Dense"], "config": {}},
    ],
)
def test_a_keras_configuration_names_only_keras_own_layers(layer: dict[str, Any]) -> None:
    assert _why_not(_keras(**layer))
    honest = {"module": "keras.layers", "class_name": "Dropout", "config": {"rate": 0.1}, "registered_name": None}
    assert not _why_not(_keras(**honest))


def test_hostile_weights_within_a_keras_file_are_found() -> None:
    hostile = SAMPLES["hostile: external storage, earliest.h5"]
    data = _rezipped(SAMPLES["honest: model.keras"], lambda name, content: hostile if name.endswith(".h5") else content)
    assert "external files" in _why_not(data)


# --- PyTorch's exported programs


def _program(change: Callable[[Any], None], more: dict[str, bytes] | None = None) -> bytes:
    def changed(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return _rezipped(SAMPLES["honest: program.pt2"], changed, more)


def _folder() -> str:
    with zipfile.ZipFile(io.BytesIO(SAMPLES["honest: program.pt2"])) as archive:
        return archive.namelist()[0].partition("/")[0]


def _node(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"][0]


def _set(key: str, value: Any) -> Callable[[Any], None]:
    return lambda program: _node(program).update({key: value})


def _spec(text: str) -> Callable[[Any], None]:
    return lambda program: program["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=text)


HOSTILE_PROGRAMS: dict[str, Callable[[Any], None]] = {
    "an operator that reads files": _set("target", "torch.ops.aten.from_file.default"),
    "an operator of another namespace": _set("target", "torch.ops.evil.run.default"),
    "a function of torch's": _set("target", "torch.load"),
    "a way through torch to os": _set("target", "torch.os.system"),
    "a way through ops": _set("target", "torch.ops.aten.add.default.__class__"),
    "a function of the operator module": _set("target", "_operator.methodcaller"),
    "a function of another module": _set("target", "os.system"),
    "an extension": _set("target", "#evil:run"),
    "a higher-order operator": _set("target", "torch.ops.higher_order.cond"),
    "an operator that is no text": _set("target", ["torch.ops.aten.add.default"]),
    "an operator with another key beside it": lambda program: _node(program).update(target="os.system", kind=1),
    "a guard that is code": lambda program: program.update(guards_code=["__import__('os').system('x')"]),
    "a guard that calls": lambda program: program.update(guards_code=["L.size(0).__class__()"]),
    "a size that is code": lambda program: program["graph_module"].update(
        x={"as_expr": {"expr_str": "__import__('os').system('x')"}}
    ),
    "a size that is no text": lambda program: program["graph_module"].update(x={"as_expr": {"expr_str": 1}}),
    "an enumeration of another module": _spec(
        '[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": true, \\"fqn\\": \\"os:system\\"}", "children_spec": []}]'
    ),
    "a class of another module": _spec('[1, {"type": "evil.Thing", "context": "null", "children_spec": []}]'),
    "a default factory": _spec(
        '[1, {"type": "collections.defaultdict", "context": "{\\"default_factory_module\\": \\"os\\"}", "children_spec": []}]'
    ),
    "arguments in no known form": _spec("{}"),
    "a named tuple": lambda program: program["graph_module"].update(treespec_namedtuple_fields={"a": ["b"]}),
    "an object": lambda program: program["graph_module"]["graph"].update(custom_obj_values={"a": {"class_fqn": "x"}}),
    "an input that is an object": lambda program: program["graph_module"]["signature"]["input_specs"].append(
        {"custom_obj": {"arg": {"name": "x", "class_fqn": "y"}, "custom_obj_name": "z"}}
    ),
    "a graph within": lambda program: _node(program)["inputs"].append(
        {"arg": {"as_graph": {"name": "g", "graph": {}}}}
    ),
    "no graph": lambda program: program.pop("graph_module"),
}


@pytest.mark.parametrize("name", HOSTILE_PROGRAMS)
def test_a_program_that_does_more_than_compute_is_refused(name: str) -> None:
    assert not _why_not(_program(lambda program: None))
    assert _why_not(_program(HOSTILE_PROGRAMS[name]))


def test_a_program_may_guard_sizes() -> None:
    guards = ["L['args'][0].size()[0] <= 8", "2 <= L['args'][0].stride()[1] and L['args'][0].size()[1] == 3"]
    assert not _why_not(_program(lambda program: program.update(guards_code=guards)))


@pytest.mark.parametrize(
    "member",
    ["data/aotinductor/model/x.so", "data/constants/custom_obj_0", "code/__torch__.py", "extra/x.py", "data.pkl",
     "data/weights/weight_x"],
)  # fmt: skip
def test_a_program_with_a_member_that_it_does_not_need_is_refused(member: str) -> None:
    data = _program(lambda program: None, {f"{_folder()}/{member}": b"x"})
    assert _why_not(data)


def test_weights_that_are_pickled_are_refused() -> None:
    def change(name: str, content: bytes) -> bytes:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')

    assert "is pickled" in _why_not(_rezipped(SAMPLES["honest: program.pt2"], change))


def test_sample_inputs_that_hold_code_are_refused() -> None:
    def change(name: str, content: bytes) -> bytes:
        return SAMPLES["hostile: module.pt"] if name.endswith("sample_inputs/model.pt") else content

    assert "not on the list" in _why_not(_rezipped(SAMPLES["honest: program.pt2"], change))


def _package(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.pt2").write_bytes(SAMPLES["honest: program.pt2"])
    signature = Signature(inputs=tuple(FeatureSpec(name=name) for name in "abc"), task="binary", classes=(0, 1))
    manifest = PackageManifest(
        name="m", framework="torch", primary="torch", files={"torch": "model.pt2"}, signature=signature
    )
    (folder / "modelyard.json").write_text(manifest_text(manifest))
    return folder


def test_a_pytorch_program_is_admitted_and_then_answers(artifacts: ArtifactStore, tmp_path: Path) -> None:
    """The way from torch.export.save to an answer; the answer itself where PyTorch is installed."""
    found = artifacts.admit(_package(tmp_path / "p"))
    assert (found.format, found.admission) == ("modelyard", "accepted")
    torch = pytest.importorskip("torch")
    from modelyard.engines.loading import load_model

    rows = torch.rand(5, 3)
    answer = load_model(artifacts.fetch(found.digest)).predict_proba(rows.numpy())
    assert answer.shape == (5, 2)


# --- SavedModel


def _number(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _field(number: int, *contents: bytes | str) -> bytes:
    parts = [content.encode() if isinstance(content, str) else content for content in contents]
    return b"".join(_number(number << 3 | 2) + _number(len(part)) + part for part in parts)


def _op(op: str, name: str = "n", *inputs: str, calls: str = "", listed: str = "") -> bytes:
    """A NodeDef."""
    attribute = _field(10, _field(1, calls)) if calls else _field(1, _field(9, _field(1, listed))) if listed else b""
    attributes = _field(5, _field(1, "f") + _field(2, attribute)) if attribute else b""
    return _field(1, name) + _field(2, op) + _field(3, *inputs) + attributes


def _function(name: str, *nodes: bytes) -> bytes:
    return _field(1, _field(1, _field(1, name)) + _field(3, *nodes))


def _model(*nodes: bytes, functions: bytes = b"", more: bytes = b"") -> bytes:
    """A SavedModel with one graph of these nodes; `more` are further fields of the MetaGraphDef."""
    graph = _field(1, *nodes) + (_field(2, functions) if functions else b"")
    return b"\x08\x01" + _field(2, _field(2, graph) + more)


SAVING = _function("save", _op("ShardedFilename", "a"), _op("SaveV2", "b"))
SAVER = _field(3, _field(1, "filename:0") + _field(2, "saver:0") + _field(3, "restore"))
SERVED = _field(
    5, _field(1, "serving_default") + _field(2, _field(2, _field(1, "out") + _field(2, _field(1, "saver:0"))))
)
LOADED = _field(7, _field(2, _field(1, "save")))

HOSTILE_GRAPHS = {
    "reads a file": _model(_op("ReadFile")),
    "maps a file": _model(_op("ImmutableConst")),
    "writes a file": _model(_op("WriteFile")),
    "calls Python": _model(_op("PyFunc")),
    "calls Python in a function": _model(_op("NoOp"), functions=_function("f", _op("EagerPyFunc"))),
    "reads a table from a file": _model(_op("InitializeTableFromTextFileV2")),
    "uses an operator of another library": _model(_op("EvilOp")),
    "prints": _model(_op("PrintV2")),
    "saves in the graph itself": _model(_op("SaveV2")),
    "restores in the graph itself": _model(_op("RestoreV2", "restore"), more=SAVER),
    "saves in a function that a node calls": _model(_op("PartitionedCall", "x", calls="save"), functions=SAVING),
    "saves in a listed function": _model(_op("Case", "x", listed="save"), functions=SAVING),
    "saves two calls deep": _model(
        _op("PartitionedCall", "x", calls="f"), functions=SAVING + _function("f", _op("PartitionedCall", calls="save"))
    ),
    "saves by a function's own name": _model(
        _op("PartitionedCall", "x", calls="f"), functions=SAVING + _function("f", _op("save"))
    ),
    "answers with its saver": _model(
        _op("StatefulPartitionedCall", "saver", calls="save"), functions=SAVING, more=SAVER + SERVED
    ),
    "feeds on its saver": _model(
        _op("StatefulPartitionedCall", "saver", calls="save"), _op("Identity", "x", "saver:0"), functions=SAVING, more=SAVER
    ),
    "waits for its saver": _model(
        _op("StatefulPartitionedCall", "saver", calls="save"), _op("NoOp", "x", "^saver"), functions=SAVING, more=SAVER
    ),
    "gives its saver out as a function": _model(_op("NoOp"), functions=SAVING, more=LOADED),
    "has an asset outside": _model(_op("NoOp"), more=_field(6, _field(2, "../../etc/passwd"))),
    "names an operator twice": _model(_op("NoOp") + _field(2, "ReadFile")),
    "has two functions of one name": _model(
        _op("NoOp"), functions=_function("f", _op("NoOp")) + _function("f", _op("Add"))
    ),
    "has a second graph": _model(_op("NoOp")) + _field(2, _field(2, _field(1, _op("ReadFile")))),
    "has a second list of nodes": b"\x08\x01" + _field(2, _field(2, _field(1, _op("NoOp"))) + _field(2, _field(1, _op("ReadFile")))),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_GRAPHS)
def test_a_graph_that_does_more_than_compute_is_refused(name: str) -> None:
    assert _why_not(HOSTILE_GRAPHS[name])


def test_a_graph_with_a_saver_as_tensorflow_writes_it_comes_in() -> None:
    nodes = (
        _op("Placeholder", "filename"),
        _op("StatefulPartitionedCall", "saver", "filename", calls="save"),
        _op("Add"),
    )
    assert _inspected(_model(*nodes, functions=SAVING, more=SAVER)) == Inspection(format="saved-model")


def _saved(folder: Path, graph: bytes) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(graph)
    (folder / "fingerprint.pb").write_bytes(b"\x08\xff\xfe\x01\x10\x05")
    (folder / "variables" / "variables.index").write_bytes(b"\x00\xff\x00\x01" * 9)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"\x00\xff\x00\x01" * 9)
    return folder


def test_a_saved_model_folder_comes_in_with_its_variables(artifacts: ArtifactStore, tmp_path: Path) -> None:
    found = artifacts.admit(_saved(tmp_path / "m", SAMPLES["honest: saved_model.pb"]))
    assert (found.format, found.admission) == ("saved-model", "accepted")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("saved_model.pbtxt", b"schema_version: 1"),
        ("saved_model.cpb", b"text"),
        ("keras_metadata.pb", b"text"),
        ("variables/other", b"\x00\xff"),
        ("assets.extra", b"\x00\xff"),
    ],
)
def test_a_saved_model_with_files_of_another_form_is_refused(
    name: str, content: bytes, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    folder = _saved(tmp_path / "m", SAMPLES["honest: saved_model.pb"])
    (folder / name).write_bytes(content)
    with pytest.raises(Invalid, match="refused"):
        artifacts.admit(folder)


def test_an_onnx_file_that_tensorflow_would_read_as_a_saved_model_is_refused(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    """A reader of SavedModels skips the fields that make it ONNX."""
    graph = HOSTILE_GRAPHS["reads a file"] + _field(7, b"") + _field(8, b"\x10\x11")
    assert _inspected(graph).format == "onnx"
    with pytest.raises(Invalid, match="read as a SavedModel"):
        artifacts.admit(_saved(tmp_path / "m", graph))


# --- MLflow's folders

MLMODEL = """
flavors:
  python_function: {loader_module: mlflow.lightgbm, data: model.txt, env: {conda: conda.yaml}}
  lightgbm: {data: model.txt, code: null}
"""


def _mlflow(folder: Path, source: Path, manifest: str = MLMODEL, more: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    (folder / "model.txt").write_bytes(source.read_bytes())
    for name, text in {
        "MLmodel": manifest,
        "conda.yaml": "channels: [x]\n",
        "requirements.txt": "a==1\n",
        **(more or {}),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_an_mlflow_folder_of_a_known_flavour_comes_in(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    assert artifacts.admit(_mlflow(tmp_path / "m", small_model)).format == "mlflow"


@pytest.mark.parametrize(
    ("manifest", "more"),
    [
        (MLMODEL.replace("mlflow.lightgbm", "mlflow.pyfunc.model"), {}),
        (MLMODEL.replace("mlflow.lightgbm", "os"), {}),
        (MLMODEL.replace("code: null", "code: code"), {}),
        (MLMODEL.replace("data: model.txt,", "data: /etc/passwd,"), {}),
        (MLMODEL.replace("data: model.txt,", "data: ../../x,"), {}),
        (MLMODEL.replace("data: model.txt,", "data: 's3://bucket/x',"), {}),
        (MLMODEL, {"code/evil.py": "import os\n"}),
        (MLMODEL, {"evil.PTH": "import os\n"}),
        (MLMODEL + "x: &a [1]\ny: [*a, *a]\n", {}),
        (MLMODEL + "x: !!python/object/apply:os.system ['true']\n", {}),
        (MLMODEL, {"conda.yaml": "a: &a [x]\nb: [*a]\n"}),
        (MLMODEL + "x: " + "[" * 40 + "]" * 40 + "\n", {}),
        (MLMODEL + "x: [" + "1, " * 30_000 + "]\n", {}),
        ("flavors: []\n", {}),
        ("[", {}),
        ("flavors: {python_function: x}\n", {}),
    ],
)
def test_an_mlflow_folder_that_brings_code_or_reaches_outside_is_refused(
    manifest: str, more: dict[str, str], artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match="refused"):
        artifacts.admit(_mlflow(tmp_path / "m", small_model, manifest, more))
