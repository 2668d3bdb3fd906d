"""Runs in .peers/experiments: reads samples as JSON on stdin and writes what statsmodels and tea-tasting make of them."""

import json
import sys
import warnings

import numpy as np
import pandas as pd
import tea_tasting as tt
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

warnings.simplefilter("ignore")
told = json.load(sys.stdin)
frame = pd.DataFrame(told["units"])
arms = [frame[frame.variant == variant] for variant in (0, 1)]
means = CompareMeans(*[DescrStatsW(arm.x) for arm in reversed(arms)])
shares = told["rates"]
metrics = tt.Experiment(
    ratio=tt.RatioOfMeans("x", "d"),
    mean=tt.Mean("x", covariate="z"),
    ratio_less=tt.RatioOfMeans("x", "d", "z", "e"),
).analyze(frame)
json.dump(
    {
        "ztest": proportions_ztest(shares["events"], shares["n"])[1],
        "newcombe": confint_proportions_2indep(
            shares["events"][1], shares["n"][1], shares["events"][0], shares["n"][0], method="newcomb", compare="diff"
        ),
        "welch": [means.ttest_ind(usevar="unequal")[1], *means.tconfint_diff(usevar="unequal")],
        "ancova": float(ols("x ~ variant + z", frame).fit().params["variant"]),
        "holm": multipletests(told["p_values"], method="holm")[1].tolist(),
        "bh": multipletests(told["p_values"], method="fdr_bh")[1].tolist(),
        "cohen": NormalIndPower().solve_power(told["effect"], alpha=0.05, power=0.8),
        **{
            name: [
                metrics[name].treatment - metrics[name].control,
                metrics[name].effect_size,
                metrics[name].effect_size_ci_lower,
                metrics[name].effect_size_ci_upper,
                metrics[name].pvalue,
            ]
            for name in ("ratio", "mean", "ratio_less")
        },
    },
    sys.stdout,
    default=lambda value: np.asarray(value).tolist(),
)
