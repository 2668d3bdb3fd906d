"""The largest gap between groups' rates, with a simultaneous interval from resampled counts, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    """A fairness measure: the largest difference of a rate between any two groups.

    With several rates (equalized odds) the worst counts. The interval holds for all pairs at once, because the largest
    of many noisy gaps is too large on average: in `REPLICATES` multinomial draws of the counts each pair's deviation is
    divided by that draw's own standard error, and the 95 % quantile of the largest is the critical value (a bootstrap-t,
    max-t interval; Romano & Wolf 2005). Drawing counts has the same distribution as resampling records. Half a record
    is added to every cell, so that a rate of 0 or 1 in a small group does not pass for certain.
    """

    kind: BiasType
    rates: tuple[str, ...]

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
        return ""

    def _measured(self, table: CountTable, seed: int) -> tuple[float, tuple[float, float]]:
        draws = _draws(table.cells, seed)
        gaps, errors, extremes = [], [], []
        for rate in self.rates:
            smooth, error = _estimated(table.cells, rate)
            drawn, drawn_error = _estimated(draws, rate)
            gaps.append(np.abs(_differences(_quotients(table.cells, rate))))
            errors.append(_pair_errors(error))
            extremes.append(np.abs(_differences(drawn - smooth) / _pair_errors(drawn_error)).max(axis=1))
        gap, reach = np.concatenate(gaps), _critical(extremes) * np.concatenate(errors)
        return float(gap.max()), (max(0.0, float((gap - reach).max())), min(1.0, float((gap + reach).max())))

    def _verdict(self, interval: tuple[float, float], threshold: float) -> BiasVerdict:
        if interval[0] > threshold:
            return BiasVerdict.BIASED
        return BiasVerdict.WITHIN if interval[1] <= threshold else BiasVerdict.UNCLEAR


class RateRatio(RateGap):
    """A fairness measure: the smallest ratio of a rate between any two groups, at most 1.

    Each pair's limits are Fieller's (1954): the ratios r for which rate_i - r rate_j lies within the critical value of
    its standard error. They need no logarithm, so a group of which nobody is selected does no harm.
    """

    def _undefined(self, table: CountTable, min_group_size: int) -> str:
        reason = RateGap._undefined(self, table, min_group_size)
        if not reason and not RATES[self.rates[0]](table.cells)[0].any():
            return f"The {self.rates[0]} of every group is 0, so their ratio is undefined."
        return reason

    def _measured(self, table: CountTable, seed: int) -> tuple[float, tuple[float, float]]:
        (rate,) = self.rates
        raw, (smooth, error) = _quotients(table.cells, rate), _estimated(table.cells, rate)
        drawn, drawn_error = _estimated(_draws(table.cells, seed), rate)
        order = np.argsort(smooth, kind="stable")
        first, second = (order[side] for side in np.triu_indices(len(order), k=1))  # the smaller rate, the larger
        ratio, deviation = smooth[first] / smooth[second], drawn - smooth
        off = deviation[:, first] - ratio * deviation[:, second]
        extremes = np.abs(off / np.hypot(drawn_error[:, first], ratio * drawn_error[:, second])).max(axis=1)
        reach = _critical([extremes]) * error
        low, high = _fieller(raw[first], raw[second], reach[first], reach[second])
        value = float(raw.min() / raw.max())
        return value, (min(value, float(low.min())), max(value, float(high.min())))

    def _verdict(self, interval: tuple[float, float], threshold: float) -> BiasVerdict:
        if interval[1] < threshold:
            return BiasVerdict.BIASED
        return BiasVerdict.WITHIN if interval[0] >= threshold else BiasVerdict.UNCLEAR


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


def _estimated(cells: np.ndarray, rate: str) -> tuple[np.ndarray, np.ndarray]:
    """Each group's smoothed rate and its standard error."""
    numerator, denominator = RATES[rate](cells)
    share = (numerator + 0.5) / (denominator + 1)
    return share, np.sqrt(share * (1 - share) / (denominator + 1))


def _critical(extremes: list[np.ndarray]) -> float:
    """What the largest deviation of all pairs and rates stays below in 95 % of the draws."""
    return float(np.quantile(np.max(extremes, axis=0), CONFIDENCE))


def _fieller(
    small: np.ndarray, large: np.ndarray, small_reach: np.ndarray, large_reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ends, within 0 to 1, of the r with (small - r large)^2 <= small_reach^2 + r^2 large_reach^2."""
    leading = large**2 - large_reach**2
    root = np.sqrt(np.maximum(0.0, (small * large) ** 2 - leading * (small**2 - small_reach**2)))
    bounded = leading > 0  # else the larger rate may be 0, and nothing is known of the ratio
    safe = np.where(bounded, leading, 1.0)
    low = np.where(bounded, (small * large - root) / safe, 0.0)
    high = np.where(bounded, (small * large + root) / safe, 1.0)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _quotients(cells: np.ndarray, rate: str) -> np.ndarray:
    numerator, denominator = RATES[rate](cells)
    result: np.ndarray = numerator / denominator
    return result


def _differences(rates: np.ndarray) -> np.ndarray:
    """The difference of every pair of groups, over the last axis."""
    first, second = np.triu_indices(rates.shape[-1], k=1)
    result: np.ndarray = rates[..., first] - rates[..., second]
    return result


def _pair_errors(errors: np.ndarray) -> np.ndarray:
    """The standard error of every pair's difference, over the last axis."""
    first, second = np.triu_indices(errors.shape[-1], k=1)
    result: np.ndarray = np.hypot(errors[..., first], errors[..., second])
    return result


def _sentence(verdict: BiasVerdict, interval: tuple[float, float] | None, threshold: float) -> str:
    low, high = interval or (0.0, 0.0)
    place = {
        BiasVerdict.BIASED: "lies wholly beyond",
        BiasVerdict.WITHIN: "lies wholly within",
        BiasVerdict.UNCLEAR: "contains",
    }[verdict]
    return f"The interval [{low:.4f}, {high:.4f}] {place} the threshold {threshold:g}."
