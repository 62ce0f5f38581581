"""One cell of a suite: an image, measured and reconstructed by one sampler under one prior with one seed."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from invgen.benchmarks.suite.identity import Identity
from invgen.inference.precision import Precision

VERSION = 2  # of the result files; part of what names a cell
KEPT_SAMPLES = 2  # with arrays="summary"


@dataclass(frozen=True)
class Cell:
    """One reconstruction. All specs are texts as `invgen.names` reads them, so that a cell may travel to any process.

    Attributes:
        key: names it: a hash of everything that determines its result.
        problem, image: for the reader.
        source: of the image: a file, or "shipped:photo/face".
        is_of: the identities of the prior, the operator and the image, as they were when the suite was expanded.
        noise_seed, sampler_seed: from the seed and the name of the image, so that every sampler sees the same measurement,
            on every machine, and a result does not depend on what else is in the suite.
        precision: of the prior's networks, as of `solve`; the record says which "auto" was.
    """

    key: str
    problem: str
    operator: str
    noise: str
    prior: str
    sampler: str
    image: str
    seed: int
    num_samples: int
    source: str
    is_of: tuple[Identity, Identity, Identity]
    noise_seed: int
    sampler_seed: int
    size: tuple[int, ...] | None = None
    rescale: tuple[float, float] = (1.0, 0.0)
    metrics: tuple[str, ...] = ("psnr", "residual")
    arrays: str = "summary"
    max_batch: int | None = None
    precision: Precision = "float32"
    device: str = "cpu"

    def facts(self) -> dict[str, Any]:
        """Returns the facts about the cell in a row of the table."""
        shown = ("problem", "operator", "noise", "prior", "sampler", "image", "seed", "num_samples")
        found = {name: value for name, value in asdict(self).items() if name in shown}
        if self.size is not None:  # one prior may stand in a suite in several sizes
            found["prior"] += f" {'x'.join(map(str, self.size))}"
        if self.precision != "float32":  # or in both precisions
            found["prior"] += f" ({self.precision})"
        return found

    def identities(self) -> dict[str, Any]:
        """Returns what a record keeps of the prior, the operator and the image, by name."""
        return {n: asdict(i) for n, i in self._named()}

    def made(self, record: Mapping[str, Any]) -> bool:
        """Tells whether a record of this key was made with a prior, an operator and an image that do what these do."""
        try:
            kept = record["is_of"]
            return all(identity.is_like(kept[name]["values"]) for name, identity in self._named())
        except (KeyError, TypeError):
            return False

    def _named(self) -> Iterator[tuple[str, Identity]]:
        return zip(("prior", "operator", "image"), self.is_of, strict=True)
