"""What is measured of answers, confidences and cost curves: pure functions on arrays.

Knows nothing of models, policies or files; how sure a measurement is, ``intervals`` says. scikit-learn and scipy are
imported here, so nothing on the way to a label may import this module. N items (clips or videos), V videos, K classes,
B bins, R settings of a policy. Empty input and inputs of different lengths are a ``ValueError``; where a measure has no
value (no positive, no negative), it is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

Float64Array = NDArray[np.float64]

EQUAL_MASS_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReliabilityBins:
    """A reliability diagram: what was said against what came true. Only bins that hold something, least sure first."""

    confidence_B: Float64Array
    """Mean of the probabilities in the bin."""
    right_share_B: Float64Array
    """Share of the bin that was right, 0 to 1."""
    count_B: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverage:
    """What is wrong among the most confident answers, for every number of them: V points, the most confident first.

    Answers of equal confidence have no order, so they share their mistakes evenly: each point is the mean over all
    orders, and no result depends on the order of the input.
    """

    coverage_V: Float64Array
    """Share of the answers that are accepted, 1/V to 1."""
    selective_risk_V: Float64Array
    """Share of the accepted that is wrong."""
    generalised_risk_V: Float64Array
    """Share of all answers that is accepted and wrong."""


def area_under_roc(score_N: ArrayLike, positive_N: ArrayLike) -> float | None:
    """Return P(a positive scores higher than a negative), ties counting half; None where one kind is missing.

    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    score_N, positive_N = _floats(score_N), np.asarray(positive_N, dtype=bool)
    _require_same_length(score_N, positive_N)
    if positive_N.all() or not positive_N.any():
        return None
    return float(roc_auc_score(positive_N, score_N))


def average_precision(score_N: ArrayLike, positive_N: ArrayLike) -> float | None:
    """Return sum over thresholds of (R_n - R_(n-1)) P_n, from recall R and precision P; None without positives.

    The step-wise sum without interpolation, equal scores being one threshold. Source: Buckley and Voorhees 2000.
    """
    score_N, positive_N = _floats(score_N), np.asarray(positive_N, dtype=bool)
    _require_same_length(score_N, positive_N)
    return float(average_precision_score(positive_N, score_N)) if positive_N.any() else None


def mean_average_precision(probabilities_VK: ArrayLike, truth_VK: ArrayLike) -> float | None:
    """Return the mean over labels of ``average_precision``, labels without positives left out; None if none is left.

    Source: Everingham et al. 2010, with the step-wise sum in place of its interpolation.
    """
    scores_VK, truth_VK = _floats(probabilities_VK), np.asarray(truth_VK, dtype=bool)
    if scores_VK.shape != truth_VK.shape or scores_VK.ndim != 2:
        raise ValueError(f"probabilities {scores_VK.shape} and truth {truth_VK.shape} must be one [V, K] table each")
    per_label = [average_precision(score_V, truth_V) for score_V, truth_V in zip(scores_VK.T, truth_VK.T, strict=True)]
    present = [value for value in per_label if value is not None]
    return float(np.mean(present)) if present else None


def mean_class_accuracy(right_V: ArrayLike, label_V: ArrayLike) -> float:
    """Return the mean over the classes that occur of the share of their videos that was right (balanced accuracy).

    Source: Brodersen et al. 2010.
    """
    right_V, label_V = _floats(right_V), np.asarray(label_V)
    _require_same_length(right_V, label_V)
    _, class_V, count_K = np.unique(label_V, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(class_V, weights=right_V) / count_K))


def reliability_bins(probability_N: ArrayLike, right_N: ArrayLike, *, bins: int = EQUAL_MASS_BINS) -> ReliabilityBins:
    """Sort into at most ``bins`` bins of equal mass. Equal probabilities share a bin, so the input's order is nothing.

    Without ties, the bins differ by at most one item. Source: Nguyen and O'Connor 2015.
    """
    probability_N, right_N = _floats(probability_N), _floats(right_N)
    _require_same_length(probability_N, right_N)
    bin_N = equal_mass_bins(probability_N, bins=bins)
    count_B = np.bincount(bin_N)
    return ReliabilityBins(
        confidence_B=np.bincount(bin_N, weights=probability_N) / count_B,
        right_share_B=np.bincount(bin_N, weights=right_N) / count_B,
        count_B=count_B.astype(np.int64),
    )


def equal_mass_bins(probability_N: ArrayLike, *, bins: int = EQUAL_MASS_BINS) -> NDArray[np.int64]:
    """Return the bin of each item, 0 for the least sure, as ``reliability_bins`` sorts them; none is left empty."""
    probability_N = _floats(probability_N)
    # The middle rank of a tie is a multiple of a half: twice it is whole, and the bin's edges are exact.
    twice_rank_N = np.rint(2 * rankdata(probability_N)).astype(np.int64)
    place_N = (twice_rank_N - 1) * bins // (2 * len(probability_N))
    return np.asarray(np.unique(place_N, return_inverse=True)[1], dtype=np.int64)


def expected_calibration_error(probability_N: ArrayLike, right_N: ArrayLike, *, bins: int = EQUAL_MASS_BINS) -> float:
    """Return sum over bins of (n_b / N) |mean probability - share right|, in equal-mass bins.

    The plug-in estimate: with few items per bin it is above 0 for a perfectly calibrated model too.
    Source: Naeini et al. 2015; Guo et al. 2017, section 2.
    """
    table = reliability_bins(probability_N, right_N, bins=bins)
    return float(np.average(np.abs(table.confidence_B - table.right_share_B), weights=table.count_B))


def debiased_calibration_error(probability_N: ArrayLike, right_N: ArrayLike, *, bins: int = EQUAL_MASS_BINS) -> float:
    """Return the root mean square calibration error, freed of the plug-in estimate's bias; 0 where it comes out below 0.

    The root of sum over bins of (n_b / N) [(c_b - a_b)^2 - a_b (1 - a_b) / (n_b - 1)], with mean probability c and share
    right a: the second term estimates what chance alone adds to the first. A root mean square is never below a mean, so
    where there is no bias to take off, this is at or above ``expected_calibration_error``. At most N / 2 bins are used,
    and a bin of one item, whose chance cannot be estimated, is left out.
    Source: Kumar, Liang and Ma 2019; Ferro and Fricker 2012.
    """
    items = np.size(probability_N)
    if items < 2:
        raise ValueError("at least two items are needed to take the bias off a calibration error")
    table = reliability_bins(probability_N, right_N, bins=min(bins, items // 2))
    kept_B = table.count_B > 1
    said_B, true_B, count_B = table.confidence_B[kept_B], table.right_share_B[kept_B], table.count_B[kept_B]
    squares_B = (said_B - true_B) ** 2 - true_B * (1 - true_B) / (count_B - 1)
    return float(np.sqrt(max(np.average(squares_B, weights=count_B), 0.0)))


def brier_score(probability_N: ArrayLike, right_N: ArrayLike) -> float:
    """Return the mean of (probability - outcome)^2, 0 to 1, lower is better. Source: Brier 1950, two-class form."""
    probability_N, right_N = _floats(probability_N), _floats(right_N)
    _require_same_length(probability_N, right_N)
    return float(np.mean((probability_N - right_N) ** 2))


def risk_coverage(confidence_V: ArrayLike, right_V: ArrayLike) -> RiskCoverage:
    """Return both risk-coverage curves. Source: El-Yaniv and Wiener 2010; generalised risk: Traub et al. 2024."""
    confidence_V, right_V = _floats(confidence_V), np.asarray(right_V, dtype=bool)
    _require_same_length(confidence_V, right_V)
    videos = len(confidence_V)
    _, tie_V, size_T = np.unique(-confidence_V, return_inverse=True, return_counts=True)
    wrong_T = np.bincount(tie_V, weights=~right_V)
    accepted_V = np.arange(1, videos + 1)
    ends_T, mistakes_T = np.append(0, size_T.cumsum()), np.append(0, wrong_T.cumsum())
    mistakes_V = np.interp(accepted_V, ends_T, mistakes_T)
    return RiskCoverage(
        coverage_V=accepted_V / videos,
        selective_risk_V=mistakes_V / accepted_V,
        generalised_risk_V=mistakes_V / videos,
    )


def aurc(confidence_V: ArrayLike, right_V: ArrayLike) -> float:
    """Return the area under selective risk against coverage: the mean over the V coverages.

    Source: Geifman and El-Yaniv 2018.
    """
    return float(np.mean(risk_coverage(confidence_V, right_V).selective_risk_V))


def excess_aurc(confidence_V: ArrayLike, right_V: ArrayLike) -> float:
    """Return ``aurc`` minus that of the best order of the same answers (every right one first), at or above 0.

    Source: Geifman, Uziel and El-Yaniv 2019, with the best order's exact area instead of its logarithm.
    """
    return aurc(confidence_V, right_V) - aurc(right_V, right_V)


def augrc(confidence_V: ArrayLike, right_V: ArrayLike) -> float:
    """Return the area under generalised risk against coverage, 0 to 1/2: the average risk of undetected failures.

    By trapezoids from coverage 0, which equals (1 - AUROC) a (1 - a) + (1 - a)^2 / 2 for accuracy a.
    Source: Traub et al. 2024.
    """
    curve = risk_coverage(confidence_V, right_V)
    return float(np.trapezoid(np.append(0, curve.generalised_risk_V), np.append(0, curve.coverage_V)))


def spearman(first_N: ArrayLike, second_N: ArrayLike) -> float | None:
    """Return the correlation of the ranks, -1 to 1; None where one side is constant. Source: Spearman 1904."""
    first_N, second_N = _floats(first_N), _floats(second_N)
    _require_same_length(first_N, second_N)
    if np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return None
    return float(spearmanr(first_N, second_N).statistic)


def cost_weights(cost_R: ArrayLike, *, span: tuple[float, float] = (0.0, 1.0)) -> Float64Array:
    """Return weights with which ``accuracy_R @ weights_R`` is the mean accuracy over the costs of ``span``.

    Trapezoids between neighbouring costs, in any order; settings of equal cost count as their mean. Beyond the dearest
    setting its accuracy holds on, since nobody has to spend more. As the area is linear in accuracy, a table of right
    and wrong [V, R] times these weights gives one area per video, which a bootstrap can take.

    Raises:
        ValueError: a cost lies outside of the span, or none at its start, where there would be nothing to integrate.
    """
    cost_R, (low, high) = _floats(cost_R), span
    slack = 1e-9 * (high - low)
    if not len(cost_R) or not low < high or cost_R.max() > high + slack or abs(cost_R.min() - low) > slack:
        raise ValueError(f"costs {cost_R.tolist()} must start at {low} and not exceed {high}")
    level_L, level_R, count_L = np.unique(cost_R, return_inverse=True, return_counts=True)
    widths = np.diff(level_L) / 2
    weights_L = np.append(widths, 0) + np.append(0, widths)
    weights_L[-1] += high - level_L[-1]
    return np.asarray((weights_L / count_L)[level_R] / (high - low))


def area_under_cost(accuracy_R: ArrayLike, cost_R: ArrayLike, *, span: tuple[float, float] = (0.0, 1.0)) -> float:
    """Return the mean accuracy over the costs of ``span``, by the trapezoids of ``cost_weights``.

    Costs are shares of the range that is compared: with the escalated share, 0 is the student alone and 1 the teacher
    on every clip. Two policies compare only over one span.
    """
    return float(_floats(accuracy_R) @ cost_weights(cost_R, span=span))


def area_under_log_cost(accuracy_R: ArrayLike, cost_R: ArrayLike, *, span: tuple[float, float]) -> float:
    """Return the mean accuracy over the logarithm of cost: halving the bill counts the same wherever it happens.

    ``span`` and all costs must be above 0, in one unit; as for ``area_under_cost``, the cheapest one starts the span.
    """
    cost_R = _floats(cost_R)
    if not min(span) > 0 or not (cost_R > 0).all():
        raise ValueError(f"a logarithm of cost needs costs above 0, got {cost_R.tolist()} in {span}")
    return area_under_cost(accuracy_R, np.log(cost_R), span=(float(np.log(span[0])), float(np.log(span[1]))))


def accuracy_at_cost(accuracy_R: ArrayLike, cost_R: ArrayLike, cost: float) -> float:
    """Return the accuracy at a cost between two settings: on the line that mixing both at random would reach.

    The costs may come in any order, those that are equal counting as their mean. Beyond the dearest its accuracy holds
    on; below the cheapest there is a ``ValueError``.
    """
    accuracy_R, cost_R = _floats(accuracy_R), _floats(cost_R)
    _require_same_length(accuracy_R, cost_R)
    level_L, level_R, count_L = np.unique(cost_R, return_inverse=True, return_counts=True)
    if cost < level_L[0]:
        raise ValueError(f"no setting costs as little as {cost}; the cheapest costs {level_L[0]}")
    return float(np.interp(cost, level_L, np.bincount(level_R, weights=accuracy_R) / count_L))


def gap_recovered(accuracy: float, *, student: float, teacher: float) -> float | None:
    """Return (A - A_S) / (A_T - A_S), the share of the teacher's lead that is kept; above 1 where it is beaten.

    None where the dense teacher is no more accurate than the dense student: there is no gap.
    """
    return (accuracy - student) / (teacher - student) if teacher > student else None


def deferral_efficiency(area: float, *, random_area: float, oracle_area: float) -> float | None:
    """Return the area above random escalation as a share of the oracle's; 1 is as good as knowing the answers.

    All three are areas under accuracy against cost over one span. None where the oracle gains nothing.
    """
    return (area - random_area) / (oracle_area - random_area) if oracle_area > random_area else None


def _floats(values: ArrayLike) -> Float64Array:
    return np.asarray(values, dtype=np.float64)


def _require_same_length(first_N: NDArray[np.generic], second_N: NDArray[np.generic]) -> None:
    if first_N.ndim != 1 or first_N.shape != second_N.shape or not len(first_N):
        raise ValueError(f"two lists of one length above 0 are needed, got {first_N.shape} and {second_N.shape}")
