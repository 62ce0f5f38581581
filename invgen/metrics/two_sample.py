"""Are two sets of samples from one law? Maximum mean discrepancy, and a classifier that tries to tell them apart."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from invgen.errors import MissingExtraError, OptionError, ShapeError
from invgen.metrics._signals import check_pair
from invgen.validation.arguments import checked
from invgen.validation.hints import Index, Positive, Range, Seed

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin


@checked
def mmd(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: Positive | Sequence[Positive] | None = None,
    unbiased: bool = True,
    dims: Index = 1,
) -> Tensor:
    """Returns the squared maximum mean discrepancy with the Gaussian kernel k(a, b) = exp(-|a - b|^2 / (2 h^2)): (*batch).

    Gretton et al., "A kernel two-sample test" (JMLR 13, 2012): lemma 6 has the unbiased estimate, which is about zero and
    may be negative where the laws agree; the biased one is the squared distance of the two mean embeddings
    and positive, by about (1 - mean k)(1/N + 1/M) where they agree. Differentiable for a given bandwidth.

    Args:
        x: (N, *batch, *shape), the samples on the first axis, where `shape` has `dims` axes (1: vectors) and is flattened.
        y: (M, *batch, *shape).
        bandwidth: h in the units of the signals; a sequence averages the kernels; None takes the median distance between
            two samples of both sets together (section 8 there), for each entry of the batch.
        unbiased: which of the two.

    Raises:
        ShapeError: the signals differ in shape, or a set has fewer than two samples (one, for the biased estimate).
        OptionError: a bandwidth is not positive.
    """
    x, y = _sets("mmd", x, y, dims, 2 if unbiased else 1)
    if bandwidth is None:
        widths = [_median_distance(torch.cat([x, y], -2))[..., None, None]]
    else:
        widths = list(bandwidth) if isinstance(bandwidth, Sequence) else [bandwidth]
        if not widths or not all(isinstance(h, int | float) and h > 0 for h in widths):
            raise OptionError(f"mmd: the bandwidth must be a positive number, or several, got {bandwidth!r}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = _square_distances(a, b)
        return functools.reduce(torch.add, (torch.exp(-square / (2 * h**2)) for h in widths)) / len(widths)

    n, m = x.shape[-2], y.shape[-2]
    within = 0.0
    for k, count in ((kernel(x, x), n), (kernel(y, y), m)):
        total = k.sum((-2, -1))
        within = within + ((total - count) / (count * (count - 1)) if unbiased else total / count**2)
    return within - 2 * kernel(x, y).mean((-2, -1))


@checked
def c2st(
    x: Tensor,
    y: Tensor,
    *,
    folds: Annotated[int, Range(2)] = 5,
    seed: Seed = 0,
    classifier: "ClassifierMixin | None" = None,
    dims: Index = 1,
) -> float:
    """Returns the classifier two-sample test (Lopez-Paz & Oquab, ICLR 2017): how often a classifier tells x from y on
    unseen samples.

    0.5 where the laws agree, 1 where they have nothing in common; cross-validated, with equal counts of both sets in every
    fold. For samples of equal law the standard deviation is about 0.5 / sqrt(N + M).

    Args:
        x, y: (N, *shape) and (M, *shape) with N = M, where `shape` has `dims` axes and is flattened.
        folds: of the cross-validation, shuffled by `seed`.
        classifier: any of scikit-learn's; by default as in sbibm (Lueckmann et al., AISTATS 2021) two hidden layers of
            10 d rectified units, trained by Adam for at most 1000 epochs, on values scaled by mean and standard deviation
            of x. Meant for up to some 64 dimensions: summarise images first.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        ShapeError: the signals differ in shape, or the counts do, or there are fewer samples than folds.
    """
    try:
        from sklearn.base import clone
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise MissingExtraError("c2st needs scikit-learn: pip install 'invgen-solvers[stats]'") from error
    import numpy as np

    x, y = _sets("c2st", x, y, dims, 2)
    if not isinstance(folds, int) or folds < 2:
        raise OptionError(f"c2st: folds must be a whole number of at least 2, got {folds!r}")
    if x.ndim > 2 or len(x) != len(y) or len(x) < folds:
        raise ShapeError(
            f"c2st takes two sets of equally many samples, (N, *shape) with {dims} axes of shape and N >= folds = {folds}, "
            f"got {x.shape[-2]} and {y.shape[-2]} samples{' and batch axes' if x.ndim > 2 else ''}"
        )
    scale = x.std(0)
    features = ((torch.cat([x, y]) - x.mean(0)) / scale.where(scale > 0, 1)).double().detach().cpu().numpy()
    labels = np.repeat([0, 1], len(x))
    width = 10 * features.shape[1]
    if classifier is None:
        classifier = MLPClassifier((width, width), max_iter=1000, solver="adam", random_state=seed)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(clone(classifier), features, labels, cv=split, scoring="accuracy").mean())


def _sets(name: str, x: Tensor, y: Tensor, dims: int, at_least: int) -> tuple[Tensor, Tensor]:
    """Returns two sets of samples as (*batch, N, d) and (*batch, M, d), checked."""
    for samples in (x, y):
        if not isinstance(samples, Tensor):
            raise ShapeError(f"{name} takes two torch.Tensors, got {type(samples).__name__}; use torch.as_tensor")
        if samples.ndim <= dims or len(samples) < at_least:
            raise ShapeError(
                f"{name}: a set of samples has shape {tuple(samples.shape)}, expected (N, *batch, *shape) with {dims} axes "
                f"of shape and N >= {at_least}; pass dims= if a signal has others"
            )
    check_pair(name, x[0], y[0], dims, ("first set", "second set"))
    if x.is_complex() or y.is_complex():
        raise ShapeError(f"{name}: the signals are complex; compare torch.view_as_real of both")
    x, y = (t.flatten(t.ndim - dims) if dims else t.unsqueeze(-1) for t in (x, y))
    return x.movedim(0, -2), y.movedim(0, -2)


def _square_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns |a_i - b_j|^2, (*batch, N, M), from differences: without the cancellation of |a|^2 + |b|^2 - 2ab."""
    if a.shape[-1] * a.shape[-2] * b.shape[-2] <= 2**22:
        return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)
    parts = [(a[..., i : i + 1, :] - b).square().sum(-1) for i in range(a.shape[-2])]  # the memory of one row at a time
    return torch.stack(parts, -2)


def _median_distance(x: Tensor) -> Tensor:
    """Returns the median distance between two different samples of (*batch, N, d): (*batch), without a gradient."""
    n = x.shape[-2]
    i, j = torch.triu_indices(n, n, 1, device=x.device)
    median = _square_distances(x.detach(), x.detach())[..., i, j].median(-1).values.sqrt()
    return median.where(median > 0, 1)  # most samples equal: any width tells them from the others
