"""Empty yards, files to register, and one yard in which something of everything has happened."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.core.instants import FixedClock
from modelyard.core.models import ModelStage
from modelyard.core.work import Store
from modelyard.deployment import DeploymentStrategy

collect_ignore_glob = ["mlflow_scripts/*.py"]  # run by the Python of MLflow's own environment

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    Store.at(folder).close()
    return folder


@pytest.fixture
def new_yard(migrated: Path, tmp_path: Path) -> Callable[[str], Yard]:
    """An empty yard in a folder of the test, which is migrated already."""

    def made(name: str) -> Yard:
        shutil.copytree(migrated, tmp_path / name)
        return Yard(tmp_path / name)

    return made


@pytest.fixture(scope="session")
def files(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model file, the same bytes under another name, a package folder, and a pickle that imports a function."""
    folder = tmp_path_factory.mktemp("files")
    other = folder / "Étage 2 (copy).txt"
    shutil.copy(small_model, other)
    package = folder / "package"
    package.mkdir()
    shutil.copy(small_model, package / "model.txt")
    (package / "notes").mkdir()
    (package / "notes" / "READ me.json").write_text(json.dumps({"a": 1}))
    bad = folder / "bad.pkl"
    bad.write_bytes(pickle.dumps(print))
    return {"file": small_model, "other": other, "package": package, "pickle": bad}


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def lived(new_yard: Callable[[str], Yard], files: dict[str, Path]) -> Yard:
    """A yard in which something of everything has happened."""
    yard = new_yard("lived")
    registry = yard.registry
    for number, version in enumerate(("v1.0.0", "v2.0.0", "v3.0.0")):
        kind = ("file", "package", "other")[number]
        registry.register_model("Fraud", version, files[kind], "lightgbm", "ana", metrics={"auc": 0.9}, tags=["risk"])
    registry.request_promotion("Fraud", "v1.0.0", ModelStage.PRODUCTION, "ana", "better", reviewers=["max", "zoe"])
    registry.approve_promotion("Fraud", "v1.0.0", "max", "looks good")
    registry.request_promotion("Fraud", "v2.0.0", ModelStage.STAGING, "ana")
    registry.set_alias("Fraud", "challenger", "v2.0.0", user="zoe")
    test = yard.ab_tests.create_test("checkout", control_variant="Fraud:v1.0.0", treatment_variant="Fraud:v2.0.0")
    yard.ab_tests.start_test(test.test_id)
    yard.ab_tests.hold_out("all-year", 0.05)
    yard.ab_tests.record_request(test.test_id, "control", success=True, latency=0.1)
    yard.deployments.start("Fraud", "v1.0.0", strategy=DeploymentStrategy.DIRECT)
    yard.deployments.start("Fraud", "v2.0.0", strategy=DeploymentStrategy.SHADOW, created_by="zoe")
    yard.deployments.shadow_deploy("Fraud:v1.0.0", "Fraud:v2.0.0")
    registry.store_scores("Fraud", "v1.0.0", "cases of May", [0.25, 0.5], "zoe")
    policy = registry.propose_policy("churn", ModelStage.STAGING, "ana", justification="care", quorum=2)
    registry.approve_policy(policy.policy_id, "zoe")
    move = registry.break_glass("Fraud", "v3.0.0", ModelStage.STAGING, "rex", reason="outage", incident="INC-7")
    registry.review_break_glass(move.break_id, "zoe", "justified")
    yard.audit.generate_compliance_report(user="zoe")
    return yard
