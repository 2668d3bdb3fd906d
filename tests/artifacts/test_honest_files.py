"""Real models of every framework that is installed come in, and come back byte for byte."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import warnings
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import onnx
import onnx.helper
import pytest
import skops.io
import xgboost
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.rules import folder_digest
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, PackageManifest, Signature
from modelyard.core.packages import manifest_text

X = np.abs(np.random.default_rng(0).normal(size=(80, 3))).astype(np.float32)
Y = (X[:, 0] > 0.6).astype(int)
MODELS = {
    "forest": RandomForestClassifier(3, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=3),
    "regression": GradientBoostingRegressor(n_estimators=3),
    "neighbours": KNeighborsClassifier(algorithm="kd_tree"),
    "pipeline": make_pipeline(
        ColumnTransformer(
            [("scaled", StandardScaler(), [0, 1]), ("coded", OneHotEncoder(handle_unknown="ignore"), [2])]
        ),
        LogisticRegression(),
    ),
    "function": make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1),
    "xgboost": xgboost.XGBClassifier(n_estimators=2, n_jobs=1),
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request: pytest.FixtureRequest):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[request.param].fit(X, Y)


@pytest.fixture
def artifacts(yard: Path) -> ArtifactStore:
    return ArtifactStore(yard)


def _admitted(artifacts: ArtifactStore, file: Path) -> str:
    found = artifacts.admit(file)
    assert artifacts.fetch(found.digest).read_bytes() == file.read_bytes()
    return found.format


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_fitted_model_is_admitted_as_pickle(model, protocol: int, artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(pickle.dumps(model, protocol))
    assert _admitted(artifacts, tmp_path / "m") == "pickle"


@pytest.mark.parametrize("compress", [0, 3, ("bz2", 3)])
def test_a_fitted_model_is_admitted_as_joblib(model, compress, artifacts: ArtifactStore, tmp_path: Path) -> None:
    joblib.dump(model, tmp_path / "m", compress=compress)
    assert _admitted(artifacts, tmp_path / "m") == {0: "pickle", 3: "zlib+pickle"}.get(compress, "bz2+pickle")


def test_a_fitted_model_is_admitted_as_skops(model, artifacts: ArtifactStore, tmp_path: Path) -> None:
    skops.io.dump(model, tmp_path / "m")
    assert _admitted(artifacts, tmp_path / "m") == "skops"


def test_onnx_is_admitted(artifacts: ArtifactStore, tmp_path: Path) -> None:
    fitted = LogisticRegression().fit(X, Y)
    (tmp_path / "m").write_bytes(to_onnx(fitted, X[:1]).SerializeToString())
    assert _admitted(artifacts, tmp_path / "m") == "onnx"


def test_native_trees_are_admitted(small_model: Path, artifacts: ArtifactStore, tmp_path: Path) -> None:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, Y, nthread=1), 2)
    assert _admitted(artifacts, small_model) == "lightgbm"
    for name, expected in (("m.json", "xgboost-json"), ("m.ubj", "xgboost-ubj")):
        booster.save_model(tmp_path / name)
        plain = (tmp_path / name).rename(tmp_path / f"{name}.bin")
        assert _admitted(artifacts, plain) == expected


def test_arrays_and_tables_are_admitted(artifacts: ArtifactStore, tmp_path: Path) -> None:
    np.save(tmp_path / "a", X)
    np.savez_compressed(tmp_path / "b", a=X, b=Y)
    (tmp_path / "c").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "d").write_text("# Ein Modell für Betrug\n")
    (tmp_path / "e").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    found = [_admitted(artifacts, tmp_path / name) for name in ("a.npy", "b.npz", "c", "d", "e", "f")]
    assert found == ["npy", "npz", "csv", "text", "gzip+csv", "safetensors"]


def _external_onnx(folder: Path, location: str, *, length: int = 16) -> None:
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weights.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
    graph = onnx.helper.make_graph([node], "g", [], [output], [weights])
    folder.mkdir()
    (folder / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    (folder / "weights.bin").write_bytes(b"\0\xff\0\xff" * 4)


def test_onnx_weights_beside_the_model_are_admitted_with_their_folder(artifacts: ArtifactStore, tmp_path: Path) -> None:
    _external_onnx(tmp_path / "m", "weights.bin")
    found = artifacts.admit(tmp_path / "m")
    assert set(found.members) == {"model.onnx", "weights.bin"}
    with pytest.raises(Invalid, match="Register the folder"):
        artifacts.admit(tmp_path / "m" / "model.onnx")


@pytest.mark.parametrize(
    ("location", "length"),
    [
        ("../weights.bin", 16),
        ("/etc/passwd", 16),
        ("missing.bin", 16),
        ("weights.bin", 17),
        ("weights.bin", -1),
        ("", 16),
    ],
)
def test_onnx_weights_outside_the_folder_are_refused(
    location: str, length: int, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    _external_onnx(tmp_path / "m", location, length=length)
    with pytest.raises(Invalid, match="refused"):
        artifacts.admit(tmp_path / "m")


def test_an_operator_of_an_unknown_domain_is_refused(artifacts: ArtifactStore, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Anything", ["x"], ["y"], domain="evil.ops")
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    made = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:]))
    (tmp_path / "m").write_bytes(made.SerializeToString())
    with pytest.raises(Invalid, match=r"evil\.ops"):
        artifacts.admit(tmp_path / "m")


def _package(folder: Path, source: Path, framework: str = "lightgbm") -> Path:
    folder.mkdir()
    (folder / "model.bin").write_bytes(source.read_bytes())
    signature = Signature(inputs=(FeatureSpec(name="a"),), task="binary", classes=(0, 1))
    manifest = PackageManifest(
        name="m", framework=framework, primary=framework, files={framework: "model.bin"}, signature=signature
    )
    (folder / "modelyard.json").write_text(manifest_text(manifest))
    return folder


def test_a_package_is_known_by_its_manifest_and_its_digest_is_that_of_its_members(
    small_model: Path, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    package = _package(tmp_path / "p", small_model)
    found = artifacts.admit(package)
    assert found.format == "modelyard"
    assert found.digest == folder_digest(found.members)
    fetched = artifacts.fetch(found.digest)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in package.iterdir()
    }


def test_a_package_whose_file_is_not_what_it_says_is_refused(
    small_model: Path, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match="onnx, but it is lightgbm"):
        artifacts.admit(_package(tmp_path / "p", small_model, "onnx"))


def test_the_allow_lists_hold_no_name_that_python_2_names_are_mapped_to() -> None:
    """Unpickling protocol 0 to 2 renames globals first: a listed name must not become another."""
    import _compat_pickle

    from modelyard.artifacts import trusted

    for listed in (trusted.PICKLE, trusted.TORCH):
        for module, name in trusted.names(listed):
            renamed = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            renamed = (_compat_pickle.IMPORT_MAPPING.get(renamed[0], renamed[0]), renamed[1])
            assert renamed == (module, name) or module in ("__builtin__", "copy_reg")
            assert "." not in name
