"""Metrics with their histories, parameters, tags and batches."""

from __future__ import annotations

import math

from mlflow.entities import Metric, Param, RunTag


def _run(scene):
    return scene.client.create_run(scene.experiment(), run_name="run").info.run_id


def history(scene):
    client, run = scene.client, _run(scene)
    for step, value in ((0, 1.0), (1, 0.5), (2, 0.75), (1, 0.25), (-3, 9.0)):
        client.log_metric(run, "loss", value, timestamp=1_700_000_000_000 + step, step=step)
    scene.tell(
        "history",
        [[one.step, one.value, one.timestamp - 1_700_000_000_000] for one in client.get_metric_history(run, "loss")],
    )
    scene.tell("latest", client.get_run(run).data.metrics)
    scene.tell("unknown key", client.get_metric_history(run, "nothing"))


def latest_is_the_highest_step(scene):
    client, run = scene.client, _run(scene)
    client.log_metric(run, "a", 1.0, timestamp=2_000, step=5)
    client.log_metric(run, "a", 2.0, timestamp=9_000, step=4)
    client.log_metric(run, "b", 1.0, timestamp=2_000, step=1)
    client.log_metric(run, "b", 2.0, timestamp=1_000, step=1)
    client.log_metric(run, "c", 1.0, timestamp=2_000, step=1)
    client.log_metric(run, "c", 3.0, timestamp=2_000, step=1)
    client.log_metric(run, "c", 2.0, timestamp=2_000, step=1)
    scene.tell("latest", client.get_run(run).data.metrics)
    scene.tell("c", [one.value for one in client.get_metric_history(run, "c")])


def not_finite(scene):
    client, run = scene.client, _run(scene)
    for step, value in enumerate((math.nan, math.inf, -math.inf, 1e308, -0.0, 5e-324, 0.1 + 0.2)):
        client.log_metric(run, "x", value, timestamp=1, step=step)
        client.log_metric(run, f"x{step}", value, timestamp=1, step=step)
    scene.tell("history", [one.value for one in client.get_metric_history(run, "x")])
    scene.tell("latest", client.get_run(run).data.metrics)


def twice_the_same(scene):
    client, run = scene.client, _run(scene)
    for _ in range(3):
        client.log_metric(run, "a", 1.0, timestamp=5, step=1)
    scene.tell("once", len(client.get_metric_history(run, "a")))
    client.log_batch(run, metrics=[Metric("b", 1.0, 5, 1), Metric("b", 1.0, 5, 1), Metric("b", 2.0, 5, 1)])
    scene.tell("each once", [one.value for one in client.get_metric_history(run, "b")])


def batch(scene):
    client, run = scene.client, _run(scene)
    client.log_batch(
        run,
        metrics=[Metric(f"m{n % 7}", n / 3, 1_000 + n, n) for n in range(500)],
        params=[Param(f"p{n}", str(n)) for n in range(50)],
        tags=[RunTag(f"t{n}", str(n)) for n in range(20)],
    )
    data = client.get_run(run).data
    scene.tell("metrics", data.metrics)
    scene.tell("params", data.params)
    scene.tell("tags", data.tags)
    scene.tell("history", [one.step for one in client.get_metric_history(run, "m3")])


def full_batch(scene):
    client, run = scene.client, _run(scene)
    client.log_batch(run, metrics=[Metric("m", float(n), 1, n) for n in range(1_000)])
    scene.tell("count", len(client.get_metric_history(run, "m")))
    client.log_batch(run, params=[Param(f"p{n}", "v") for n in range(100)])
    client.log_batch(run, tags=[RunTag(f"t{n}", "v") for n in range(100)])
    scene.tell("entries", [len(client.get_run(run).data.params), len(client.get_run(run).data.tags)])


def empty_batch(scene):
    client, run = scene.client, _run(scene)
    client.log_batch(run)
    scene.tell("nothing", client.get_run(run).data.metrics)


def params_stay(scene):
    client, run = scene.client, _run(scene)
    client.log_param(run, "a", 1)
    client.log_param(run, "a", 1)
    scene.fails("changed", client.log_param, run, "a", 2)
    scene.fails("changed in a batch", client.log_batch, run, params=[Param("b", "1"), Param("a", "3")])
    scene.tell("kept", client.get_run(run).data.params)
    scene.fails("twice in a batch", client.log_batch, run, params=[Param("c", "1"), Param("c", "2")])
    client.log_param(run, "empty", "")
    client.log_param(run, "long", "v" * 6_000)
    scene.tell("lengths", {key: len(value) for key, value in client.get_run(run).data.params.items()})


def refused_names(scene):
    client, run = scene.client, _run(scene)
    for place, key in enumerate(("", "a#b", "../a", "a//b", "./a", "/a", "a" * 251, ".", "a\nb")):
        scene.fails(f"metric {place}", client.log_metric, run, key, 1.0)
        scene.fails(f"param {place}", client.log_param, run, key, "v")
        scene.fails(f"tag {place}", client.set_tag, run, key, "v")
    for place, key in enumerate(("with space", "a/b", "a:b", "a.b", "ünïcödé", "a" * 250, "_-")):
        client.log_metric(run, key, 1.0, timestamp=1)
        client.log_param(run, key, "v")
        client.set_tag(run, key, "v")
        scene.tell(f"accepted {place}", key)
    scene.tell("all", client.get_run(run).data.to_dictionary())


def refused_values(scene):
    client, run = scene.client, _run(scene)
    scene.fails("text", client.log_metric, run, "a", "not a number")
    scene.fails("before 1970", client.log_metric, run, "a", 1.0, timestamp=-1)
    scene.fails("long value", client.log_batch, run, params=[Param("p", "v" * 6_001)])
    scene.tell("shortened", len(client.get_run(run).data.params.get("p", "")))
    scene.fails("too many params", client.log_batch, run, params=[Param(f"q{n}", "v") for n in range(101)])
    scene.fails("too many tags", client.log_batch, run, tags=[RunTag(f"q{n}", "v") for n in range(101)])
    scene.fails(
        "bad key in a batch", client.log_batch, run, metrics=[Metric("ok", 1.0, 1, 0), Metric("b#d", 1.0, 1, 0)]
    )
    scene.tell("nothing of it", client.get_run(run).data.metrics)


def tags(scene):
    client, run = scene.client, _run(scene)
    client.set_tag(run, "a", "1")
    client.set_tag(run, "a", 2)
    client.set_tag(run, "long", "v" * 8_000)
    client.set_tag(run, "empty", "")
    client.set_tag(run, "text", "ünïcödé <b> \"quoted\" 'too' \\ ✓")
    scene.tell("tags", {key: value[:50] for key, value in client.get_run(run).data.tags.items()})
    client.delete_tag(run, "a")
    scene.fails("deleted", client.delete_tag, run, "a")
    scene.fails("longer", client.log_batch, run, tags=[RunTag("long", "v" * 8_001)])
    scene.tell("left", sorted(client.get_run(run).data.tags))
