"""Optuna: asks the Tree-structured Parzen Estimator for parameters, and tells it what they were worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class OptunaTuner:
    """A study in memory. The same seed and the same answers in the same order give the same questions.

    TPE: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization". Lower values are better.
    """

    def __init__(
        self, space: Mapping[str, Mapping[str, Any]], *, seed: int, first: Mapping[str, Any] | None = None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {name: _distribution(spec) for name, spec in space.items()}
        self._study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))
        if first:
            self._study.enqueue_trial(dict(first))

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The next trial's number and parameters."""
        trial = self._study.ask(self._space)
        return trial.number, dict(trial.params)

    def tell(self, number: int, value: float | None) -> None:
        """What a trial was worth; None if it failed."""
        if value is None:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, value)


def _distribution(spec: Mapping[str, Any]) -> BaseDistribution:
    """The specification was checked by the pipeline's configuration."""
    if spec["type"] == "categorical":
        return CategoricalDistribution(tuple(spec["choices"]))
    made = IntDistribution if spec["type"] == "int" else FloatDistribution
    return made(spec["low"], spec["high"], log=spec.get("log", False))
