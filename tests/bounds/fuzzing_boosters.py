"""Forges a booster's file many times, and asks whatever the check lets through: a crash is the process's own end.

.venv/bin/python tests/bounds/fuzzing_boosters.py lightgbm|xgboost SEED FORGERIES
"""

from __future__ import annotations

import faulthandler
import json
import random
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import itertools

import honest_boosters as honest
import lightgbm
import numpy as np
import xgboost

from modelyard.bounds import OutOfBounds
from modelyard.bounds import lightgbm as lightgbm_bounds
from modelyard.bounds import xgboost as xgboost_bounds

ODD = [-7, -2, -1, 0, 1, 2, 3, 5, 100, 10**6, 16_777_215, 2**31 - 1, 2**31, 2**32, -(2**31), 2**40]
LIGHTGBMS = ("binary", "multiclass", "categories", "linear", "random forest", "trees of one leaf")
XGBOOSTS = ("binary:logistic", "multi:softprob", "categories", "dart", "vectors", "several targets", "pruned")

Form = tuple[Callable[[random.Random], bytes], Callable[[bytes], None], Callable[[bytes, Any], None]]


class Quiet:
    """LightGBM's log, unread."""

    def info(self, _: str) -> None:
        """Nothing."""

    def warning(self, _: str) -> None:
        """Nothing."""


def resized(text: str) -> str:
    """The text with the sizes that its trees have now, so that nothing but the forgery is wrong with it."""
    start, end = text.index("\nTree=") + 1, text.index("\nend of trees") + 1
    begins = [*(found.start() for found in re.finditer("^Tree=", text[start:end], re.MULTILINE)), end - start]
    sizes = " ".join(str(after - before) for before, after in itertools.pairwise(begins))
    return re.sub("^tree_sizes=.*$", f"tree_sizes={sizes}", text, flags=re.MULTILINE)


def lines(text: str, chance: random.Random) -> bytes:
    """A LightGBM text with a few numbers, lines or letters changed; mostly with sizes that fit again."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        rows = text.split("\n")
        place = chance.choice([number for number, row in enumerate(rows) if "=" in row])
        key, _, value = rows[place].partition("=")
        words = value.split(" ")
        at = chance.randrange(len(words))
        match chance.randrange(8):
            case 0:
                words.pop(at)
            case 1:
                words.insert(at, str(chance.choice(ODD)))
            case 2:
                rows.insert(place, chance.choice(rows[:40]))
            case _:
                words[at] = str(chance.choice([*ODD, chance.randrange(-9, 9), "nan", "1e9"]))
        rows[place if rows[place].startswith(key) else place + 1] = f"{key}={' '.join(words)}"
        text = "\n".join(rows)
    with suppress(ValueError):
        text = resized(text) if chance.random() < 0.9 else text
    return text.encode()


def values(document: dict[str, Any], chance: random.Random) -> bytes:
    """A JSON model with a few values changed, most of them within its trees."""
    document = json.loads(json.dumps(document))
    for _ in range(chance.choice([1, 1, 2])):
        spots: list[tuple[Any, Any]] = []
        waiting: list[Any] = [document["learner"]]
        while waiting:
            one = waiting.pop()
            inner = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
            for key, value in inner:
                spots.append((one, key))
                waiting.append(value)
        holder, key = chance.choice(spots)
        old, new = holder[key], chance.choice([*ODD, chance.randrange(-3, 20)])
        if isinstance(old, list) and old:
            old[chance.randrange(len(old))] = new
        elif key not in ("learner", "gradient_booster", "model", "trees"):
            holder[key] = str(new) if isinstance(old, str) else new
    return json.dumps(document).encode()


def octets(data: bytes, start: int, chance: random.Random) -> bytes:
    """Binary bytes with a few of them changed."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 2])):
        place = chance.randrange(start, len(made))
        if chance.random() < 0.5:
            made[place] = chance.choice(b"\x00\x01\x02\x7f\x80\xffLldDUSiI[]{}$#")
        else:
            made[place : place + 4] = (chance.choice(ODD) % 2**32).to_bytes(4, "big")
    return bytes(made)


def ask_lightgbm(data: bytes, rows: Any) -> None:
    """Everything that is asked of a model in service, and what describes it."""
    booster = lightgbm.Booster(model_str=data.decode())
    seen = np.resize(rows, (40, booster.num_feature()))
    booster.predict(seen, num_threads=1)
    booster.predict(seen, num_threads=1, pred_leaf=True)
    with suppress(lightgbm.basic.LightGBMError):  # linear trees have no contributions
        booster.predict(seen, num_threads=1, pred_contrib=True)
    booster.dump_model()
    booster.model_to_string()


def ask_xgboost(data: bytes, rows: Any, *, snapshot: bool) -> None:
    """Everything that is asked of a model in service, and what describes it."""
    booster = xgboost.Booster()
    if snapshot:
        booster.__setstate__({"handle": bytearray(data)})
    else:
        booster.load_model(bytearray(data))
    booster.set_param({"nthread": 1})
    seen = np.resize(rows, (40, min(booster.num_features(), 1000)))
    booster.inplace_predict(seen, validate_features=False)
    for kind in ("pred_leaf", "pred_contribs", "output_margin"):
        with suppress(xgboost.core.XGBoostError):  # trees of vectors have no contributions
            booster.predict(xgboost.DMatrix(seen), validate_features=False, **{kind: True})
    booster.get_dump(dump_format="json")
    booster.save_raw("ubj")


def _lightgbm_forms(params: dict[str, Any], target: Any, kept: dict[str, Any]) -> list[Form]:
    settings = {"verbose": -1, "num_threads": 1, "min_data_per_group": 5, "num_leaves": 6, **params}
    text = lightgbm.train(settings, lightgbm.Dataset(honest.FULL, target, **kept), 2).model_to_string()
    return [(partial(lines, text), lightgbm_bounds.check, ask_lightgbm)]


def _xgboost_forms(params: dict[str, Any], target: Any, kept: dict[str, Any]) -> list[Form]:
    settings = {"verbosity": 0, "nthread": 1, "max_depth": 3, **params}
    model = xgboost.train(settings, xgboost.DMatrix(honest.FULL, target, **kept), 2)
    snapshot = bytes(model.__getstate__()["handle"])
    ask = partial(ask_xgboost, snapshot=False)
    return [
        (partial(values, json.loads(model.save_raw("json"))), xgboost_bounds.check, ask),
        (partial(octets, bytes(model.save_raw("ubj")), 1), xgboost_bounds.check, ask),
        (
            partial(octets, snapshot, snapshot.index(b"Model")),
            xgboost_bounds.check_snapshot,
            partial(ask_xgboost, snapshot=True),
        ),
    ]


def forms(library: str) -> list[Form]:
    """Each small model in each form that it is kept in: (how to forge it, its check, how to ask it)."""
    if library == "lightgbm":
        return [form for name in LIGHTGBMS for form in _lightgbm_forms(*honest.LIGHTGBM[name])]
    return [form for name in XGBOOSTS for form in _xgboost_forms(*honest.XGBOOST[name])]


def main(library: str, seed: int, count: int) -> tuple[int, int]:
    """(how many forgeries were asked, how many were refused)."""
    chance, asked, refused = random.Random(seed), 0, 0
    rows = np.random.default_rng(seed).normal(size=(40, 4)) * 3
    rows[:, 3] = np.arange(40) * 9 - 30
    rows[::5] = np.nan
    known = forms(library)
    for number in range(count):
        forge, check, ask = known[number % len(known)]
        data = forge(chance)
        try:
            check(data)
        except OutOfBounds:
            refused += 1
            continue
        asked += 1
        with suppress(lightgbm.basic.LightGBMError, xgboost.core.XGBoostError, ValueError):
            ask(data, rows)
    return asked, refused


if __name__ == "__main__":
    faulthandler.enable()
    lightgbm.register_logger(Quiet())
    print(*main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
