"""A diagnostic model with an approval, and a proof of it that is checked without the database.

    python examples/diagnosis_audit.py

Writes into ./yard and ./auditor. The data are scikit-learn's breast cancer records (569 samples, 30 measurements).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

from modelyard import Yard
from modelyard.audit import EventType
from modelyard.governance import ComplianceFramework
from modelyard.pipeline import PipelineConfig

OFFLINE = """
import sys
from pathlib import Path
from modelyard.audit import check_proof
found = check_proof(Path(sys.argv[1]).read_text(), Path(sys.argv[2]).read_text())
record = found.record
print(f"proved: {record['event_type']} of {record['resource_id']} by {record['actor']}, event {found.index + 1} of {found.size}")
"""


def main() -> None:
    """The whole example."""
    frame = load_breast_cancer(as_frame=True).frame.rename(columns=lambda name: name.replace(" ", "_"))
    auditor = Path("auditor")
    auditor.mkdir(exist_ok=True)
    with Yard("./yard") as yard:
        yard.governance.register_dataset(
            "wdbc",
            "Breast Cancer Wisconsin (Diagnostic)",
            "scikit-learn",
            contains_pii=False,
            contains_phi=True,
            rows=len(frame),
        )
        config = PipelineConfig(
            name="diagnosis",
            target_column="target",
            model_class="LogisticRegression",
            cross_validation_folds=3,
            threads=1,
        )
        run = yard.pipelines.train(config, frame=frame, created_by="ana@example.org")
        print(
            f"accuracy {run.metrics['test_accuracy']:.3f}, recall {run.metrics['test_recall']:.3f} on the held-out part"
        )
        yard.registry.register_model(
            "diagnosis",
            "v1.0.0",
            run.artifacts["model"],
            "sklearn",
            "ana@example.org",
            metrics=dict(run.metrics),
            training_data="wdbc",
        )
        yard.governance.register_model("diagnosis", "v1.0.0", "wdbc", created_by="ana@example.org")

        doctors = ["ben@example.org", "eva@example.org"]
        yard.registry.request_promotion(
            "diagnosis", "v1.0.0", "production", "ana@example.org", "Recall above 0.95.", reviewers=doctors, quorum=2
        )
        try:
            yard.registry.approve_promotion("diagnosis", "v1.0.0", "ana@example.org")
        except PermissionError as refusal:
            print("refused:", refusal)
        for doctor in doctors:
            yard.registry.approve_promotion("diagnosis", "v1.0.0", doctor, comment="Reviewed the misses.")
        print("stage:", yard.registry.get_model("diagnosis", "v1.0.0").stage.value)

        rows = yard.governance.controls("diagnosis:v1.0.0", ComplianceFramework.EU_AI_ACT)
        print("controls proved by events:", ", ".join(row.control for row in rows if row.status.value == "proved"))

        approval = yard.audit.query_events(EventType.APPROVAL_GRANTED)[-1]
        (auditor / "approval.tlog-proof").write_text(yard.audit.prove(approval.event_id))
        (auditor / "audit.pub").write_bytes(Path(yard.audit.keys.public_file).read_bytes())
        print("the log is whole:", yard.audit.verify().ok)

    # Another process, with the two files alone: neither the database nor the yard is asked.
    checked = subprocess.run(
        [sys.executable, "-c", OFFLINE, "approval.tlog-proof", "audit.pub"],
        cwd=auditor,
        check=True,
        capture_output=True,
        text=True,
    )
    print(checked.stdout.strip())


if __name__ == "__main__":
    main()
