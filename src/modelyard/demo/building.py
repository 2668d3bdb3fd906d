"""Chapters of building: features with their times, two models, and an approval by someone else."""

from __future__ import annotations

from typing import Any

from modelyard.core.errors import Forbidden
from modelyard.core.models import ModelStage
from modelyard.data.census import COLUMNS, FEATURES, LABEL
from modelyard.demo.scene import MODEL, PEOPLE, Scene
from modelyard.demo.story import Chapter
from modelyard.features import Feature, FeatureType
from modelyard.pipeline import PipelineConfig
from modelyard.pipeline.results import PipelineResult
from modelyard.ui.pages import number, percent

SOURCE = "American Community Survey 2015, Massachusetts"
DATASET = "acs_ma_2015"


def features(scene: Scene, chapter: Chapter) -> None:
    """The records of 2015 go into the feature store with their event times and come back point-in-time."""
    store, frame = scene.yard.features, scene.year(2015)
    for column in COLUMNS:
        if column.name != LABEL:
            feature = Feature(
                name=column.name,
                entity_type="person",
                feature_type=FeatureType.INT,
                description=column.meaning,
                source=SOURCE,
                owner=PEOPLE["ana"],
            )
            store.register_feature(feature, created_by=PEOPLE["ana"])
    chapter.doing("writing the features of 2015")
    wide = frame.rename(columns={"id": "person"})[["person", "event_timestamp", *FEATURES]]
    written = store.write_features(wide, entity_type="person", user=PEOPLE["ana"])
    chapter.doing("joining labels with the features of their time")
    spine = frame.rename(columns={"id": "person"})[["person", "event_timestamp", LABEL]]
    joined = store.get_offline_features(spine, list(FEATURES), user=PEOPLE["ana"])
    one = store.get_online_features([spine["person"].iloc[-1]], list(FEATURES))
    equal = bool((joined[list(FEATURES)].to_numpy(dtype=float) == frame[list(FEATURES)].to_numpy(dtype=float)).all())
    shuffled = joined.sample(frac=1.0, random_state=0).astype(dict.fromkeys(FEATURES, "int64"))
    cut = int(len(shuffled) * 0.8)
    scene.held_back = shuffled.iloc[cut:]
    scene.table("training_2015", shuffled.iloc[:cut][[*FEATURES, LABEL]])
    chapter.facts |= {
        "records": len(scene.records),
        "rows": written.rows,
        "features": len(FEATURES),
        "joined": len(joined),
        "equal": equal,
        "online": one.to_dict(),
        "held_back": len(scene.held_back),
    }
    chapter.say(f"{number(written.rows)} records of 2015 with {len(FEATURES)} features written with their event times.")
    same = "each value as it was at its label's time" if equal else "some values differ from what was written"
    chapter.say(f"{number(len(joined))} labels joined point-in-time: {same}; {number(len(scene.held_back))} held back.")


def train(scene: Scene, chapter: Chapter, version: str, config: PipelineConfig, description: str) -> None:
    """A model is trained, exported with a parity check, and registered with its metrics and its data's digest."""
    chapter.doing(f"training {config.model_class}")
    result = scene.yard.pipelines.train(config, created_by=PEOPLE["ana"])
    package = scene.packages[version] = scene.folder / result.artifacts["model"]
    run = scene.yard.pipelines.get_run(result.run_id)
    chapter.doing("registering")
    model = scene.yard.registry.register_model(
        name=MODEL,
        version=version,
        model_path=str(package),
        framework=config.model_type,
        created_by=PEOPLE["ana"],
        trained_by=PEOPLE["ana"],
        metrics=dict(result.metrics),
        parameters=dict(result.best_params),
        training_data=DATASET,
        description=description,
        tags=["census", "employment"],
        metadata={"run_id": result.run_id, "data_digest": run.data_digest},
    )
    scene.yard.governance.register_model(
        model_id=MODEL,
        model_version=version,
        training_dataset=DATASET,
        training_algorithm=config.model_class,
        hyperparameters=dict(result.best_params),
    )
    chapter.facts |= {"version": version, "digest": model.digest, **_told_of(result)}
    tuned = f", best of {len(result.trials)} tuned by cross-validation" if result.trials else ""
    chapter.say(
        f"{version}: {config.model_class}{tuned}; accuracy {percent(result.metrics['test_accuracy'])}, "
        f"AUC {result.metrics['test_auc_roc']:.3f} on {percent(config.test_size, 0)} held out."
    )
    if (parity := result.parity) is not None:
        kept = "kept" if parity.passed else "refused: the native form answers"
        chapter.say(
            f"ONNX export {kept}: at most {parity.max_difference:.1e} from the native answers on {parity.rows} rows."
        )
    chapter.say(f"Registered as {MODEL} {version}, digest {model.digest[:16]}…")


def _told_of(result: PipelineResult) -> dict[str, Any]:
    """What the report shows of a training."""
    parity = result.parity
    compared = parity and {"rows": parity.rows, "max_difference": parity.max_difference, "passed": parity.passed}
    return {
        "run_id": result.run_id,
        "metrics": dict(result.metrics),
        "parameters": dict(result.best_params),
        "stages": [{"name": stage.value, "seconds": result.timings[stage.value]} for stage in result.stages_completed],
        "trials": len(result.trials),
        "parity": compared,
        "findings": [finding.message for finding in result.findings],
    }


def first_config(scene: Scene) -> PipelineConfig:
    """Logistic regression: the simple first version."""
    return _config(scene, model_type="sklearn", model_class="LogisticRegression", model_params={"max_iter": 200})


def second_config(scene: Scene) -> PipelineConfig:
    """Gradient boosting, tuned with Optuna."""
    return _config(
        scene,
        model_type="lightgbm",
        model_class="LGBM",
        enable_tuning=True,
        tuning_trials=6,
        tuning_rows=8_000,
        param_space={
            "num_leaves": {"type": "int", "low": 15, "high": 63, "log": True},
            "learning_rate": {"type": "float", "low": 0.05, "high": 0.3, "log": True},
            "n_estimators": {"type": "int", "low": 60, "high": 140},
        },
    )


def _config(scene: Scene, **options: Any) -> PipelineConfig:
    return PipelineConfig(
        name=MODEL,
        data_source=str(scene.folder / "training_2015.parquet"),
        target_column=LABEL,
        cross_validation_folds=3,
        metrics=("accuracy", "precision", "recall", "f1_score", "auc_roc", "log_loss"),
        random_seed=7,
        threads=1,  # small fits gain little from more, and two programs on few cores would wait for each other
        **options,
    )


def dataset(scene: Scene) -> None:
    """The training data enters the lineage with what has to be known about it."""
    scene.yard.governance.register_dataset(
        dataset_id=DATASET,
        dataset_name="ACS employment records, Massachusetts 2015",
        source=SOURCE,
        contains_pii=True,
    )


def approve(scene: Scene, chapter: Chapter, version: str) -> None:
    """Promotion is asked for by one person, refused to the same, and approved by another."""
    registry = scene.yard.registry
    ana, ben = PEOPLE["ana"], PEOPLE["ben"]
    registry.request_promotion(
        name=MODEL,
        version=version,
        target_stage=ModelStage.PRODUCTION,
        requested_by=ana,
        justification="Passed its tests on held-out records.",
        reviewers=[ben],
    )
    chapter.say(f"{ana} asks for {MODEL} {version} in production.")
    refusal = ""
    try:
        registry.approve_promotion(name=MODEL, version=version, approver=ana)
    except Forbidden as error:
        refusal = str(error)
        chapter.say(f"{ana} tries to approve it: refused. {refusal}")
    registry.approve_promotion(name=MODEL, version=version, approver=ben, comment="Metrics and parity look right.")
    stage = registry.get_model(MODEL, version).stage
    chapter.facts |= {
        "version": version,
        "requested_by": ana,
        "refusal": refusal,
        "approved_by": ben,
        "stage": stage.value,
    }
    chapter.say(f"{ben} approves: approved, stage {stage.value}.")


def approve_quietly(scene: Scene, version: str) -> None:
    """The same for a later version, without the attempt that is refused."""
    registry = scene.yard.registry
    registry.request_promotion(
        name=MODEL,
        version=version,
        target_stage=ModelStage.PRODUCTION,
        requested_by=PEOPLE["ana"],
        justification="Better on the same held-out records.",
        reviewers=[PEOPLE["ben"]],
    )
    registry.approve_promotion(name=MODEL, version=version, approver=PEOPLE["ben"], comment="Go ahead, as a canary.")


def third_version(scene: Scene, version: str) -> None:
    """v3 in the registry, approved: the package of v2 under a new version, with what its step is said to do."""
    package = scene.packages[version] = scene.packages["v2.0.0"]
    model = scene.yard.registry.get_model(MODEL, "v2.0.0")
    scene.yard.registry.register_model(
        name=MODEL,
        version=version,
        model_path=str(package),
        framework=model.framework,
        created_by=PEOPLE["ana"],
        trained_by=PEOPLE["ana"],
        metrics=dict(model.metrics),
        parent=f"{MODEL}:v2.0.0",
        description="v2 with an income bracket looked up by age",
    )
    approve_quietly(scene, version)
