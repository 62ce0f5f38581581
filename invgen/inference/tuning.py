"""Hyper-parameters without ground truth: a prior sets its own problems, so a sampler can be tuned on simulated pairs.

The energy score is proper (Gneiting & Raftery, JASA 2007): on average over the joint law of x and y no sampler scores
better than the exact posterior, so that a lower score is a sampler nearer to it, in spread as well as in the mean. The
search is Optuna's tree-structured Parzen estimator.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from invgen.errors import DivergedError, FileError, MissingExtraError, OptionError
from invgen.inference.simulation import simulate
from invgen.names.resolve import FORMAT
from invgen.noise import NoiseLike
from invgen.posterior import OperatorLike, Posterior, PriorLike
from invgen.sampler import Sampler
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Seed

Range = tuple[float, float] | Sequence[Any]
Metric = Callable[..., Tensor]


@dataclass(frozen=True)
class Tuning:
    """The outcome of `tune`.

    Attributes:
        sampler: with the best hyper-parameters found; `solve` takes it, or the file that `save` writes.
        start: the sampler that was tuned.
        score, start_score: mean score of both on the simulations of the final, the smaller the better.
        gain, gain_interval: start minus tuned on further simulations, which chose nothing, and half of its 95 % interval:
            positive is better.
        metric: its name.
        trials: (options, score) of every trial, in order; an infinite score is a run that diverged.
    """

    sampler: Sampler
    start: Sampler
    score: float
    start_score: float
    gain: float
    gain_interval: float
    metric: str
    trials: tuple[tuple[dict[str, Any], float], ...] = field(repr=False)

    def __str__(self) -> str:
        return (
            f"{self.sampler!r}\n{self.metric} {self.score:.4g} in place of {self.start_score:.4g} after {len(self.trials)} "
            f"trials; on fresh simulations better by {self.gain:.3g} +- {self.gain_interval:.2g} (95 %)"
        )

    def save(self, path: str | Path) -> None:
        """Writes a small JSON file that `invgen.solve(..., sampler="FILE.json")` and the command line accept."""
        from invgen.files.writing import write_text

        changed = {k: v for k, v in vars(self.sampler).items() if v != type(self.sampler).options()[k]}
        content = {"format": FORMAT, "sampler": type(self.sampler).__name__, "options": changed}
        content |= {k: getattr(self, k) for k in ("score", "start_score", "gain", "gain_interval", "metric")}
        content["start"] = repr(self.start)
        write_text(Path(path), json.dumps(content, indent=1) + "\n")


@checked
def search_space(sampler: Sampler, space: Mapping[str, Range] | None = None) -> dict[str, Range]:
    """Returns the range to search for each hyper-parameter: a pair of numbers (low, high), or a list of choices.

    By default every positive number between a tenth and ten times its value, on a logarithmic scale, shares and
    probabilities (numbers below 1 named eta, or ending in eta) between 0 and 1, and all choices of a named option. Whole
    numbers stay as they are, because they set the cost, and `subspace`, which not all signals have.

    Raises:
        OptionError: a name or a range that does not fit the sampler.
    """
    names = set(type(sampler).options())
    if space is None:
        space = {}
        hints = get_type_hints(type(sampler))
        for name in names - {"schedule", "subspace"}:
            value, hint = getattr(sampler, name), hints[name]
            if get_origin(hint) is Literal:
                space[name] = list(get_args(hint))
            elif isinstance(value, float) and name.startswith("eta") and 0 <= value <= 1:
                space[name] = (0.0, 1.0)
            elif isinstance(value, float) and value > 0:
                low, high = (
                    next((v for v in ends if _accepts(sampler, name, v)), value)
                    for ends in ((0.1 * value, 0.5 * value), (10 * value, 1.0, 2 * value))
                )
                if low < high:
                    space[name] = (low, high)
    for name, choice in space.items():
        if name not in names:
            raise OptionError(f"{type(sampler).__name__} has no option {name!r} to tune; it has {', '.join(sorted(names))}")
        numbers = isinstance(choice, tuple) and len(choice) == 2 and all(isinstance(v, int | float) for v in choice)
        if not (numbers and choice[0] < choice[1]) and not (isinstance(choice, list) and choice):
            raise OptionError(f"the range of {name!r} must be a pair (low, high) or a list of choices, got {choice!r}")
    if not space:
        raise OptionError(f"{sampler!r} has nothing to tune; name ranges with space={{'option': (low, high)}}")
    return dict(sorted(space.items()))


@checked
def tune(
    prior: PriorLike,
    A: OperatorLike,
    noise: NoiseLike,
    sampler: Sampler | str = "DampedDPS",
    budget: Count = 50,
    *,
    space: Mapping[str, Range] | None = None,
    metric: str | Metric = "energy_score",
    num_simulations: Count = 16,
    num_samples: Count = 8,
    seed: Seed = 0,
    max_batch: Count | None = None,
    finalists: Count = 3,
    study: str | Path | None = None,
    progress: bool = True,
) -> Tuning:
    """Chooses hyper-parameters on problems (x, y) that the prior draws; no measurement and no truth is needed.

    Args:
        prior, A, noise: as for `solve`.
        sampler: where to start from; its own options are the first trial. Its number of steps is kept.
        budget: how many settings to try, those of an earlier run of the same study included.
        space: see `search_space`.
        metric: a scoring function of `invgen.metrics` by name ("energy_score", "crps_ensemble"), or a function
            (samples (K, N, *shape), truth (N, *shape), dims=) -> (N,), the smaller the better.
        num_simulations, num_samples: pairs, and samples for each of them; the same pairs in every trial.
        seed: of signals, noise and samples.
        max_batch: how many signals to work on at once.
        finalists: how many of the best trials meet the start again on as many fresh pairs; the winner is returned.
        study: a file where trials are kept as they end; called again, `tune` goes on from there.
        progress: whether to show a bar.

    Raises:
        MissingExtraError: Optuna is not installed.
        OptionError: a range does not fit, or the study belongs to another problem.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("tuning needs Optuna: pip install 'invgen-solvers[tune]'") from None
    from tqdm.auto import tqdm

    from invgen import metrics
    from invgen.names import resolve as names

    start = names.sampler(sampler) if isinstance(sampler, str) else sampler
    ranges = search_space(start, space)
    score_of: Metric | None = getattr(metrics, metric, None) if isinstance(metric, str) else metric
    if not callable(score_of):
        raise OptionError(f"unknown metric {metric!r}; 'energy_score' and 'crps_ensemble' score samples against a truth")

    def scores(candidate: Sampler, x: Tensor, y: Tensor, salt: int) -> Tensor:
        post = Posterior(prior, A, noise, y)
        samples = candidate(post, num_samples, seed + salt, max_batch=max_batch)
        return score_of(samples, x, dims=len(prior.shape)).double()

    x, y = simulate(prior, A, noise, num_simulations, seed, max_batch=max_batch)

    def objective(trial: "optuna.Trial") -> float:
        try:
            return scores(dataclasses.replace(start, **_suggest(trial, ranges)), x, y, 1).mean().item()
        except DivergedError:
            return math.inf

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # which problem this is: a study goes on only where all of it is the same
    problem = {"start": repr(start), "ranges": repr(ranges), "metric": getattr(metric, "__name__", metric)}
    problem |= {
        "simulations": num_simulations,
        "samples": num_samples,
        "seed": seed,
        "problem": f"{A!r} {noise!r} {prior!r}",
    }
    storage = _storage(study)
    found = optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
        study_name="invgen",
        load_if_exists=True,
    )
    known = found.user_attrs.get("problem")
    if known is not None and known != problem:
        other = next(k for k in problem if known.get(k) != problem[k])
        raise OptionError(f"the study {study} belongs to another problem ({other} differs); name another file")
    found.set_user_attr("problem", problem)
    if not found.trials:
        own = {k: getattr(start, k) for k in ranges}
        found.enqueue_trial({k: v for k, v in own.items() if _inside(v, ranges[k])})
    done = sum(t.state.is_finished() for t in found.trials)
    with tqdm(total=budget, initial=min(done, budget), desc="tune", leave=False, disable=not progress) as bar:
        for _ in range(budget - done):
            found.optimize(objective, n_trials=1)
            bar.update()
            bar.set_postfix_str(f"{found.best_value:.4g}")
    trials = tuple((t.params, t.value) for t in found.trials if t.value is not None)
    # the best of many noisy scores is partly luck: the leaders meet the start again, on pairs that the search has not seen
    leaders = sorted(trials, key=lambda trial: trial[1])[:finalists]
    candidates = [start, *(dataclasses.replace(start, **params) for params, value in leaders if math.isfinite(value))]
    candidates = list(dict.fromkeys(candidates))
    x, y = simulate(prior, A, noise, num_simulations, seed + 1, max_batch=max_batch)
    finals = [scores(c, x, y, 2).mean().item() for c in candidates]
    best = candidates[min(range(len(finals)), key=finals.__getitem__)]
    # and what is reported comes from pairs that have chosen nothing
    x, y = simulate(prior, A, noise, num_simulations, seed + 2, max_batch=max_batch)
    gains = scores(start, x, y, 3) - scores(best, x, y, 3)
    half = 1.96 * gains.std().item() / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return Tuning(best, start, min(finals), finals[0], gains.mean().item(), half, problem["metric"], trials)


def _accepts(sampler: Sampler, name: str, value: float) -> bool:
    try:
        dataclasses.replace(sampler, **{name: value})
    except OptionError:
        return False
    return value > 0


def _suggest(trial: "Any", ranges: Mapping[str, Range]) -> dict[str, Any]:
    out = {}
    for name, choice in ranges.items():
        if isinstance(choice, list):
            out[name] = trial.suggest_categorical(name, choice)
        elif all(isinstance(v, int) for v in choice):
            out[name] = trial.suggest_int(name, *choice, log=choice[0] > 0 and choice[1] > 10 * choice[0])
        else:
            out[name] = trial.suggest_float(name, *choice, log=choice[0] > 0)
    return out


def _inside(value: Any, choice: Range) -> bool:
    return value in choice if isinstance(choice, list) else choice[0] <= value <= choice[1]


def _storage(study: str | Path | None) -> Any:
    if study is None:
        return None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.exists():  # a kill may have cut the last line off, which Optuna would append to and then fail to read
            with path.open("rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise FileError(f"cannot keep the study in {path}: {error.strerror or error}") from error
