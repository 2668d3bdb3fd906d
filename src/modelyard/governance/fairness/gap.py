"""The largest gap between groups' rates, with a simultaneous interval from resampled counts, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modelyard.governance.fairness.counts import CountTable
from modelyard.governance.values import BiasReport, BiasType, BiasVerdict, GroupRates

REPLICATES = 2000
CONFIDENCE = 0.95

Parts = tuple[np.ndarray, np.ndarray]  # numerators and denominators, shape (..., groups)

# For counts c[..., group, label, prediction].
RATES: dict[str, Callable[[np.ndarray], Parts]] = {
    "selection_rate": lambda c: (c[..., 1].sum(-1), c.sum((-1, -2))),
    "tpr": lambda c: (c[..., 1, 1], c[..., 1, :].sum(-1)),
    "fpr": lambda c: (c[..., 0, 1], c[..., 0, :].sum(-1)),
    "ppv": lambda c: (c[..., 1, 1], c[..., 1].sum(-1)),
    "accuracy": lambda c: (c[..., 0, 0] + c[..., 1, 1], c.sum((-1, -2))),
}
LACKS = {
    "selection_rate": "records",
    "accuracy": "records",
    "tpr": "positives",
    "fpr": "negatives",
    "ppv": "positive predictions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RateGap:
    """A fairness measure: the largest difference, or the smallest ratio, of a rate between any two groups.

    With several rates (equalized odds) the worst counts. The interval holds for all pairs at once, because the largest
    of many noisy gaps is too large on average: pairs' deviations in `REPLICATES` multinomial draws of the counts are
    divided by their standard errors, and the 95 % quantile of the largest is the critical value (a max-t interval;
    Hothorn, Bretz & Westfall 2008). Drawing counts has the same distribution as resampling records. Half a record is
    added to every cell drawn from, so that a rate of 0 or 1 in a small group does not pass for certain.
    """

    kind: BiasType
    rates: tuple[str, ...]
    scale: Literal["difference", "ratio"] = "difference"

    def report(
        self, attribute: str, table: CountTable, *, threshold: float, min_group_size: int = 30, seed: int = 0
    ) -> BiasReport:
        """The measure over a table of counts."""
        sizes = table.cells.sum((1, 2))
        large = sizes >= min_group_size
        kept = table.only(large)
        reason = self._undefined(kept, min_group_size)
        value, interval = (None, None) if reason else self._measured(kept, seed)
        verdict = BiasVerdict.UNDEFINED if interval is None else self._verdict(interval, threshold)
        left_out = [name for name, keep in zip(table.groups, large, strict=True) if not keep]
        told = reason or _sentence(verdict, interval, threshold)
        if left_out:
            told += f" Left out, with fewer than {min_group_size} records: {', '.join(left_out)}."
        return BiasReport(
            bias_type=self.kind,
            attribute=attribute,
            is_biased=verdict is BiasVerdict.BIASED,
            verdict=verdict,
            bias_score=value,
            interval=interval,
            threshold=threshold,
            reason=told,
            groups=group_rates(table, min_group_size),
            n=int(sizes.sum()),
            confidence=CONFIDENCE,
            method=f"max-t over all pairs of groups, {REPLICATES} multinomial draws of the counts, seed {seed}",
        )

    def _undefined(self, table: CountTable, min_group_size: int) -> str:
        """Why there is nothing to compare, or an empty text."""
        if len(table.groups) < 2:
            return f"Fewer than two groups have {min_group_size} records, so there is nothing to compare."
        for rate in self.rates:
            empty = [name for name, n in zip(table.groups, RATES[rate](table.cells)[1], strict=True) if n == 0]
            if empty:
                return f"The {rate} of {', '.join(empty)} is undefined: number of {LACKS[rate]} = 0."
        if self.scale == "ratio" and not RATES[self.rates[0]](table.cells)[0].any():
            return f"The {self.rates[0]} of every group is 0, so their ratio is undefined."
        return ""

    def _measured(self, table: CountTable, seed: int) -> tuple[float, tuple[float, float]]:
        draws = _draws(table.cells, seed)
        values, centres, spreads, extremes = [], [], [], []
        for rate in self.rates:
            raw, smooth = _rate(table.cells, rate, 0.0), self._scaled(_rate(table.cells, rate, 0.5))
            deviations = _pairs(self._scaled(_rate(draws, rate, 0.5)) - smooth)
            values.append(raw.min() / raw.max() if self.scale == "ratio" else np.ptp(raw))
            centres.append(np.abs(_pairs(smooth if self.scale == "ratio" else raw)))
            spreads.append(deviations.std(axis=0))
            extremes.append(np.abs(deviations / spreads[-1]).max(axis=1))
        reach = np.quantile(np.max(extremes, axis=0), CONFIDENCE) * np.concatenate(spreads)
        low = max(0.0, float((np.concatenate(centres) - reach).max()))
        high = float((np.concatenate(centres) + reach).max())
        if self.scale == "ratio":
            value = float(min(values))
            return value, (min(value, float(np.exp(-high))), max(value, float(np.exp(-low))))
        return float(max(values)), (low, min(1.0, high))

    def _scaled(self, rates: np.ndarray) -> np.ndarray:
        return np.log(rates) if self.scale == "ratio" else rates

    def _verdict(self, interval: tuple[float, float], threshold: float) -> BiasVerdict:
        low, high = interval if self.scale == "difference" else (-interval[1], -interval[0])
        limit = threshold if self.scale == "difference" else -threshold
        if low > limit:
            return BiasVerdict.BIASED
        return BiasVerdict.WITHIN if high <= limit else BiasVerdict.UNCLEAR


def group_rates(table: CountTable, min_group_size: int) -> tuple[GroupRates, ...]:
    """Each group's counts and rates."""
    cells = table.cells
    rates = {name: [_quotient(*pair) for pair in zip(*part(cells), strict=True)] for name, part in RATES.items()}
    rows = []
    for index, group in enumerate(table.groups):
        n = int(cells[index].sum())
        rows.append(
            GroupRates(
                group=group,
                n=n,
                positives=int(cells[index, 1].sum()),
                selected=int(cells[index, :, 1].sum()),
                **{name: values[index] for name, values in rates.items()},
                left_out=f"fewer than {min_group_size} records" if n < min_group_size else "",
            )
        )
    return tuple(rows)


def _quotient(numerator: int, denominator: int) -> float | None:
    return float(numerator / denominator) if denominator else None


def _draws(cells: np.ndarray, seed: int) -> np.ndarray:
    """`REPLICATES` tables of the same total, drawn from the smoothed shares."""
    shares = (cells + 0.5).ravel() / (cells + 0.5).sum()
    drawn = np.random.default_rng(seed).multinomial(int(cells.sum()), shares, size=REPLICATES)
    return drawn.reshape(REPLICATES, *cells.shape)


def _rate(cells: np.ndarray, rate: str, added: float) -> np.ndarray:
    numerator, denominator = RATES[rate](cells)
    result: np.ndarray = (numerator + added) / (denominator + 2 * added)
    return result


def _pairs(rates: np.ndarray) -> np.ndarray:
    """The difference of every pair of groups, over the last axis."""
    first, second = np.triu_indices(rates.shape[-1], k=1)
    result: np.ndarray = rates[..., first] - rates[..., second]
    return result


def _sentence(verdict: BiasVerdict, interval: tuple[float, float] | None, threshold: float) -> str:
    low, high = interval or (0.0, 0.0)
    place = {
        BiasVerdict.BIASED: "lies wholly beyond",
        BiasVerdict.WITHIN: "lies wholly within",
        BiasVerdict.UNCLEAR: "contains",
    }[verdict]
    return f"The interval [{low:.4f}, {high:.4f}] {place} the threshold {threshold:g}."
