"""Random walks with independent steps, discretised Levy processes: jumps and heavy tails, with posteriors that are known.

    x_k = u_1 + ... + u_k,   u_k independent of one law.

The denoiser is exact to the step of a lattice: x_sigma = x + sigma eps sees a Markov chain value by value, so that
E[x | x_sigma], log p_sigma and the products of the Jacobian are sums over all walks, forward and backward. Posteriors of
linear measurements are drawn from by block Gibbs sampling, as all these laws are mixtures of Gaussians by their variances.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Sigma
from invgen.errors import UnsupportedError
from invgen.forward import LinearOperator
from invgen.noise import Gaussian, Noise
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.priors.laws._gibbs import Steps, gibbs
from invgen.priors.laws._sampled import sampled_errors
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Index, Positive, Range, Seed

WINDOW = 6.0  # standard deviations of the noise on either side of a value in which its walk is looked for
MOST = 160  # points on either side of a centre
LONGEST = 50_000  # points of a table of steps: beyond, a window sees the same slope
Increments = Literal["gaussian", "laplace", "student", "bernoulli-laplace"]


class LevyProcess(Denoiser):
    """A walk of independent steps, Gaussian, Laplace, Student-t or mostly zero, (length,): piecewise smooth or with jumps.

    Args:
        length: values of a signal.
        increments: law of a step. "gaussian": N(0, scale^2). "laplace": density exp(-|u| / scale) / (2 scale). "student":
            scale times Student's t of df degrees of freedom, Cauchy's law for df = 1. "bernoulli-laplace": Laplace with
            probability `rate`, else exactly zero, a compound Poisson process.
        scale: of a step, in the units of the signal.
        df: of "student"; the variance is infinite up to 2.
        rate: of "bernoulli-laplace".
        options: sigma_min, sigma_max, value_range. By default sigma runs from 1e-3 of the scale to 100 times data_std, and
            the range is +-3 data_std.

    data_std is the root mean square of the values; where that is infinite, the median over signals of their own. The
    denoiser takes x for a walk within six standard deviations of x_sigma. On the lattice the density, the denoiser and its
    Jacobian agree with each other exactly. An evaluation of 64 values takes .1 to 1 ms a signal on one core, on the CPU.

    Source: Unser & Tafti, "An Introduction to Sparse Stochastic Processes" (2014); as a test of samplers Zach, Haouchat &
    Unser, "A statistical benchmark for diffusion posterior sampling algorithms" (ICLR 2026).
    """

    anchor: Tensor

    @checked
    def __init__(
        self,
        length: Count = 64,
        increments: Increments = "laplace",
        scale: Positive = 1.0,
        df: Positive = 1.0,
        rate: Annotated[float, Range(0, 1, above=True)] = 0.1,
        **options: Any,
    ) -> None:
        self.length, self.increments, self.scale, self.df, self.rate = length, increments, scale, df, rate
        self.second = {  # moment of a step
            "gaussian": scale**2,
            "laplace": 2 * scale**2,
            "student": scale**2 * df / (df - 2) if df > 2 else math.inf,
            "bernoulli-laplace": 2 * rate * scale**2,
        }[increments]
        std = math.sqrt(self.second * (length + 1) / 2)
        if not math.isfinite(std):
            std = self._walks(
                np.asarray(Streams(0, torch.arange(1000)).uniform(torch.empty(1000, 2 * length, dtype=torch.float64)))
            )
            std = float(np.median(np.sqrt((std**2).mean(1))))
        defaults = {"sigma_min": 1e-3 * scale, "sigma_max": 100 * std, "value_range": (-3 * std, 3 * std)}
        super().__init__((length,), **{**defaults, **options, "data_std": std})
        # the farthest that a walk of finite variance goes
        self.farthest = {"gaussian": 6, "student": 10}.get(increments, 8) * math.sqrt(self.second * length)
        self.register_buffer("anchor", torch.zeros((), dtype=torch.float64))  # tells the precision and the device

    def extra_repr(self) -> str:
        more = {"student": f", df={self.df:g}", "bernoulli-laplace": f", rate={self.rate:g}"}.get(self.increments, "")
        return f"increments={self.increments!r}, scale={self.scale:g}{more}, {super().extra_repr()}"

    # -- the denoiser --------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        return _Mean.apply(x, sigma, self)  # pyright: ignore[reportReturnType]  (torch types it as Any)

    def log_prob(self, x: Tensor, sigma: Sigma = 0.0) -> Tensor:
        """Returns log p_sigma(x), (B,), without a gradient; by default that of x itself.

        Raises:
            UnsupportedError: sigma = 0 of a law with steps of zero, which has no density.
        """
        if isinstance(sigma, Tensor) or sigma > 0:
            return self._each(x, sigma, _density)
        if self.increments == "bernoulli-laplace":
            raise UnsupportedError(
                "a walk with steps of zero has no density at sigma = 0; ask for log_prob(x, sigma) with a positive sigma, "
                "or for log_mass(x), in which zero steps count by their probability"
            )
        return self.log_mass(x)

    def log_mass(self, x: Tensor, zero: float = 5e-5) -> Tensor:
        """Returns the log-density of a walk, (B,), with respect to lengths, and to points where steps may be zero.

        Args:
            x: (B, length).
            zero: a step of "bernoulli-laplace" up to this size counts as zero; 5e-5 in the code of the benchmark.
        """
        u = torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1]))
        far = u.abs() / self.scale
        if self.increments == "gaussian":
            log = -0.5 * far**2 - math.log(self.scale) - 0.5 * math.log(2 * math.pi)
        elif self.increments == "student":
            half = (self.df + 1) / 2
            constant = (
                math.lgamma(half) - math.lgamma(self.df / 2) - 0.5 * math.log(self.df * math.pi) - math.log(self.scale)
            )
            log = constant - half * torch.log1p(far**2 / self.df)
        else:
            log = -far - math.log(2 * self.scale)
            if self.increments == "bernoulli-laplace":
                none = math.log1p(-self.rate) if self.rate < 1 else -math.inf
                log = torch.where(u.abs() < zero, torch.full_like(log, none), log + math.log(self.rate))
        return log.sum(1)

    def variance(self, sigma: float) -> float:
        if not self.mmse:  # once; a sum over walks costs more than a mixture's
            self.mmse = tuple((s, min(error, s**2)) for s, error in sampled_errors(self, 64, 25))
        return super().variance(sigma)

    def lattice(self, x: np.ndarray, sigma: float, refine: float = 1.0) -> tuple[Any, ...]:
        """Returns the points for walks near x, (B, length): centres, starts, their distance, sigma, number, table of steps.

        The distance is a third of sigma (a sixth where steps may be zero, which pool many values) and at most half a step:
        sums of smooth functions are then exact to 1e-6. Far above a step the widest windows have larger distances.

        Args:
            x: what is seen.
            sigma: the noise level.
            refine: divides the distance, to see what it matters.
        """
        # walks pool more values where sigma is above a step; sums over the densities of a Gaussian and of Student's t are
        # exact up to a distance that does not grow
        step = 0.5 * self.scale * max(1.0, math.sqrt(sigma / self.scale) / 2)
        if self.increments in ("gaussian", "student"):
            step = 0.5 * self.scale * (math.sqrt(self.df) if self.increments == "student" else 1.0)
        h = min(sigma / (6 if self.increments == "bernoulli-laplace" else 3), step)
        if math.isinf(self.farthest):
            h = max(h, WINDOW * sigma / MOST)
        h /= refine
        whole = WINDOW * sigma >= self.farthest
        half = math.ceil(min(WINDOW * sigma, self.farthest) / h)
        centres = np.zeros(x.shape, np.int64) if whole else np.rint(x / h).astype(np.int64)
        starts = np.diff(centres, axis=1, prepend=0)
        if whole:  # no step of a walk that counts is longer than this
            longest = {"gaussian": 10.0, "student": math.inf}.get(self.increments, 40.0) * self.scale
            reach = math.ceil(min(longest / h, 2 * half))
        else:
            reach = min(int(np.abs(starts).max(initial=0)) + 2 * half, max(LONGEST, 4 * half))
            starts = starts.clip(2 * half - reach, reach - 2 * half)
        return centres, starts, h, sigma, half, self._steps(h, reach)

    def _steps(self, h: float, reach: int) -> np.ndarray:
        """Returns the probabilities of steps of -reach ... reach points."""
        j = np.arange(reach + 1)
        if self.increments == "gaussian":
            p = np.exp(-0.5 * (j * h / self.scale) ** 2) * h / self.scale / math.sqrt(2 * math.pi)
        elif self.increments == "student":
            p = self._student(j, h / self.scale)
        else:  # the two-sided geometric law with the variance of Laplace's
            a = 2 * math.asinh(h / (2 * self.scale))
            p = math.tanh(a / 2) * np.exp(-a * j)
            if self.increments == "bernoulli-laplace":
                p *= self.rate
                p[0] += 1 - self.rate
        p = np.maximum(p, 1e-290)  # a jump that no walk makes leaves both its ends unknown to each other
        return np.concatenate([p[:0:-1], p])

    def _student(self, j: np.ndarray, h: float) -> np.ndarray:
        from scipy import special, stats

        if h <= 0.5001 * math.sqrt(self.df):  # the density has no corner: sums over points are exact
            return np.asarray(stats.t.pdf(j * h, self.df)) * h
        edges = special.stdtr(self.df, -(np.arange(len(j) + 1) - 0.5) * h)  # beyond it, the probability of steps that long
        return edges[:-1] - edges[1:]

    def _each(self, x: Tensor, sigma: Sigma, what: Any, *more: Tensor) -> Tensor:
        """Returns what(rows, sigma, self, ...) of rows that share a sigma, in their order and precision."""
        rows = [t.detach().double().cpu().numpy() for t in (x, *more)]
        levels = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1).cpu().numpy()
        if len(set(levels.tolist())) <= 1:
            out = what(*rows, float(levels[0]) if len(levels) else 1.0, self) if len(x) else np.zeros(0)
        else:
            parts = [(np.flatnonzero(levels == s), float(s)) for s in np.unique(levels)]
            found = [(at, what(*(t[at] for t in rows), s, self)) for at, s in parts]
            out = np.empty((len(x), *found[0][1].shape[1:]))
            for at, values in found:
                out[at] = values
        return torch.as_tensor(out, dtype=x.dtype, device=x.device)

    # -- samples and posteriors ----------------------------------------------------------------------------------

    def _walks(self, uniform: np.ndarray) -> np.ndarray:
        """Returns walks, (n, length), from uniform numbers, (n, 2 length)."""
        from scipy import special

        u, v = uniform[:, : self.length], uniform[:, self.length :]
        if self.increments == "gaussian":
            steps = special.ndtri(u)
        elif self.increments == "student":
            steps = special.stdtrit(self.df, u)
        else:
            steps = np.sign(u - 0.5) * -np.log1p(-2 * np.abs(u - 0.5))
            if self.increments == "bernoulli-laplace":
                steps = steps * (v < self.rate)
        return self.scale * steps.cumsum(1)

    @checked
    def sample(self, num_samples: Count = 1, seed: Seed = 0) -> Tensor:
        """Returns exact samples, (num_samples, length); sample i depends on the seed and on i only."""
        walks = self._walks(_uniform(num_samples, 2 * self.length, seed))
        return torch.as_tensor(walks, dtype=self.dtype, device=self.device)

    @checked
    def posterior_samples(
        self,
        A: LinearOperator,
        noise: Noise | float,
        y: Tensor,
        num_samples: Count = 1000,
        burn_in: Index = 1000,
        thin: Count = 1,
        seed: Seed = 0,
    ) -> Tensor:
        """Returns samples of p(x | y) by block Gibbs sampling, (num_samples, *batch, length), of one chain a measurement.

        Exact as the chain grows; successive samples depend on each other, but for Gaussian steps.

        Args:
            A: any linear operator, of up to a few hundred values.
            noise: Gaussian, or its standard deviation.
            y: measurements, (*batch, *A.out_shape).
            num_samples: of each chain.
            burn_in: sweeps before the first sample.
            thin: sweeps between samples.
            seed: of the chains.

        Raises:
            UnsupportedError: the noise is not Gaussian with one positive standard deviation.
        """
        post = Posterior(self, A, noise, y)
        if not isinstance(post.noise, Gaussian) or post.noise.var is None or torch.as_tensor(post.noise.var).numel() != 1:
            raise UnsupportedError(f"Gibbs sampling needs Gaussian noise of one standard deviation, got {post.noise}")
        H = A(torch.eye(self.length, dtype=torch.float64)).flatten(1).T
        if H.is_complex():
            raise UnsupportedError("Gibbs sampling takes real measurements; split complex ones into their two parts")
        H = H.flip(1).cumsum(1).flip(1)  # of steps: column k is the sum of the columns from k on
        flat = y.double().reshape(-1, H.shape[0])
        law = Steps(self.increments, self.scale, self.df, self.rate)
        out = gibbs(law, H, float(post.noise.var), flat, num_samples, burn_in, thin, seed)
        return out.reshape(num_samples, *post.batch, self.length).to(y.device, self.dtype)


def _uniform(rows: int, count: int, seed: int) -> np.ndarray:
    return Streams(seed, torch.arange(rows)).uniform(torch.empty(rows, count, dtype=torch.float64)).numpy()


class _Mean(torch.autograd.Function):
    """E[x | x_sigma], whose Jacobian is Cov[x | x_sigma] / sigma^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Sigma, prior: LevyProcess) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(x)
        ctx.sigma, ctx.prior = sigma, prior
        return prior._each(x, sigma, _means)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        return ctx.prior._each(ctx.saved_tensors[0], ctx.sigma, _products, v), None, None


def _swept(x: np.ndarray, sigma: float, prior: LevyProcess) -> tuple[np.ndarray, np.ndarray]:
    from invgen.priors.laws._lattice import denoise

    means, log_prob = np.empty(x.shape), np.empty(len(x))
    denoise(x, *prior.lattice(x, sigma), means, log_prob)
    return means, log_prob


def _means(x: np.ndarray, sigma: float, prior: LevyProcess) -> np.ndarray:
    return _swept(x, sigma, prior)[0]


def _density(x: np.ndarray, sigma: float, prior: LevyProcess) -> np.ndarray:
    return _swept(x, sigma, prior)[1]


def _products(x: np.ndarray, v: np.ndarray, sigma: float, prior: LevyProcess) -> np.ndarray:
    from invgen.priors.laws._lattice import covariance_product

    out = np.empty(x.shape)
    covariance_product(x, *prior.lattice(x, sigma), np.ascontiguousarray(v), out)
    return out / sigma**2
