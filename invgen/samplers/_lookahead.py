"""What the beginning of a signal lets expect of p(y | x): the twists psi_i of particles on autoregressive priors.

Both take the Gaussian N(mean, root root^T) of the prior's moments for what is not known yet. With sites in the order of the
prior and `root` lower triangular, x = mean + root e, the prefix fixes e_1..e_i and the rest of e is N(0, I).
"""

import math

import torch
from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian as GaussianNoise
from invgen.posterior import Posterior
from invgen.random import Streams

LARGEST = 2**25  # sites times measured values of a dense matrix


def fits_gaussian(post: Posterior) -> bool:
    """Whether psi has a closed form: a linear operator, not too large to be written down, and Gaussian noise."""
    noise, size = post.noise, post.A.in_shape.numel() * max(post.A.out_shape.numel(), 1)
    if not (isinstance(post.A, LinearOperator) and isinstance(noise, GaussianNoise)) or post.A.in_dtype.is_complex:
        return False
    level = noise.sigma
    shared = not isinstance(level, Tensor) or level.ndim <= len(post.A.out_shape) or level.shape[0] == 1
    return shared and size <= LARGEST


class Gaussian:
    """psi_i = the density of y = A (mean + root e) + noise given e_1..e_i, for a linear operator and Gaussian noise.

    state: the residual y - A E[x | prefix], (B, m), and e, (B, sites), zero from i on.
    """

    def __init__(self, post: Posterior) -> None:
        prior, A = post.prior, post.A
        self.prior, n = prior, prior.sites
        eye = torch.eye(n, dtype=prior.levels.dtype, device=prior.device)
        columns = torch.empty_like(eye)
        columns[:, prior.order] = eye  # row i is the signal with a one at site i
        matrix = _real(torch.cat([A(part) for part in columns.reshape(n, *prior.shape).split(256)]))  # (n, m)
        self.mean, self.root = prior.mean.double(), prior.root.double()
        mixed = self.root.T @ matrix  # row i: what e_i adds to the measurement
        y = _real(post.y)
        level = torch.as_tensor(post.noise.sigma, dtype=torch.float64, device=y.device)
        level = level[(None,) * (post.y.ndim - level.ndim)].expand(1, *post.y.shape[1:])
        var = _real(level.to(post.y.dtype), both=True)[0] ** 2
        # from the last site back: P = (R + sum_{j > i} b_j b_j^T)^-1, by rank-one updates
        P = (1 / var).diag()
        self.pulls, self.gains = torch.empty_like(mixed), torch.empty(n, dtype=torch.float64, device=y.device)
        for i in range(n - 1, -1, -1):
            pull = P @ mixed[i]
            gain = mixed[i] @ pull
            self.pulls[i], self.gains[i] = pull, gain
            P = P - torch.outer(pull, pull) / (1 + gain)
        self.mixed = mixed
        residual = y - self.mean @ matrix
        log_det = var.log().sum() + self.gains.log1p().sum()
        self.first = -0.5 * ((residual @ P * residual).sum(1) + log_det + len(var) * math.log(2 * math.pi))
        self.state = [residual, torch.zeros(len(y), n, dtype=torch.float64, device=y.device)]

    def start(self) -> Tensor:
        """log psi_0, (B,): the evidence of the Gaussian."""
        return self.first

    def _innovation(self, i: int, values: Tensor) -> Tensor:
        """e_i of values at site i, (B, V) or (V,)."""
        e, root = self.state[1], self.root
        centre = self.mean[i] + e[:, :i] @ root[i, :i]
        return (values - centre[:, None]) / root[i, i]

    def ratio(self, i: int) -> Tensor:
        """log psi_i / psi_{i-1} for each token at site i, (B, V): the density of e_i given y against that without y."""
        e, g = self._innovation(i, self.prior.levels.double()), self.gains[i]
        c = (self.state[0] @ self.pulls[i])[:, None]
        return 0.5 * (g.log1p() - (1 + g) * (e - c / (1 + g)).square() + e.square())

    def add(self, i: int, token: Tensor) -> None:
        e = self._innovation(i, self.prior.levels.double()[token])
        residual, known = self.state
        self.state = [residual - e * self.mixed[i], torch.cat([known[:, :i], e, known[:, i + 1 :]], 1)]

    def weigh(self, count: int) -> Tensor:
        """What the first `count` sites add to the log-weights beside `ratio`: nothing."""
        return torch.zeros(len(self.state[0]), dtype=torch.float64, device=self.state[0].device)


class Completed:
    """psi_i = the mean over completions of p(y | A(x))^(i / n), any operator and noise; 1 before the last site without any.

    Completions are prefix and Gaussian rest, with the same few e_{i+1}..e_n for every prefix, so that psi is a function of
    the prefix alone. The power keeps few completions from deciding early.

    state: e of what is known, (B, sites), and log psi so far, (B, 1).
    """

    def __init__(self, post: Posterior, completions: int) -> None:
        self.post, self.prior, self.completions = post, post.prior, completions
        self.mean, self.root = post.prior.mean.double(), post.prior.root.double()
        rows, n = len(post.y), post.prior.sites
        self.rest = Streams(0, range(max(completions, 1)))(self.mean.new_empty(max(completions, 1), n))
        self.state = [self.mean.new_zeros(rows, n), self.mean.new_zeros(rows, 1)]

    def start(self) -> Tensor:
        return self.state[1][:, 0]

    def ratio(self, i: int) -> float:
        return 0.0

    def add(self, i: int, token: Tensor) -> None:
        known, before = self.state
        centre = self.mean[i] + known[:, :i] @ self.root[i, :i]
        e = (self.prior.levels.double()[token] - centre[:, None]) / self.root[i, i]
        self.state = [torch.cat([known[:, :i], e, known[:, i + 1 :]], 1), before]

    def weigh(self, count: int) -> Tensor:
        known, before = self.state
        n = self.prior.sites
        if count < n and not self.completions:
            return torch.zeros_like(before[:, 0])
        rest = self.rest if count < n else self.rest[:1]
        log = torch.stack(
            [self._log_likelihood(torch.cat([known[:, :count], r[count:].expand(len(known), -1)], 1)) for r in rest]
        )
        now = (count / n * log).logsumexp(0)[:, None] - math.log(len(rest))
        self.state = [known, now]
        return (now - before)[:, 0]

    def _log_likelihood(self, e: Tensor) -> Tensor:
        sites = self.mean + e @ self.root.T
        flat = torch.empty_like(sites)
        flat[:, self.prior.order] = sites
        x = flat.reshape(-1, *self.prior.shape).to(self.prior.dtype)
        return self.post.log_likelihood(x).double()


def _real(y: Tensor, both: bool = False) -> Tensor:
    """Measurements (B, *out_shape) as real vectors in double precision, complex values as two real ones."""
    if not y.is_complex():
        return y.flatten(1).double()
    parts = torch.stack([y.real, y.real if both else y.imag], -1)
    return parts.flatten(1).double()
