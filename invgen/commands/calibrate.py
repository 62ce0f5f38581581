"""The job of `invgen calibrate`."""

from pathlib import Path
from typing import Any

from invgen.inference.calibration import Calibration, calibrate


def run(
    *,
    operator: str,
    prior: str,
    noise: str,
    sampler: str,
    out: str | Path,
    size: tuple[int, ...] | None = None,
    rescale: tuple[float, float] = (1.0, 0.0),
    device: str = "cpu",
    prior_sampler: str | None = None,
    **options: Any,
) -> Calibration:
    """Returns the job of `invgen calibrate`: names in; calibration.png and calibration.json, all or nothing, in `out`.

    operator, prior, noise, sampler, prior_sampler: names; size, rescale, device: as for `invgen reconstruct`; options: of
    `calibrate`.
    """
    import json

    from invgen import __version__
    from invgen.files.writing import atomic_folder
    from invgen.names import resolve as names
    from invgen.names.prepare import prepared

    law, method = names.noise(noise), sampler if sampler == "auto" else names.sampler(sampler)
    options["prior_sampler"] = None if prior_sampler is None else names.sampler(prior_sampler)
    p = prepared(prior, size, rescale, device)
    A = names.operator(operator, p.shape).to(p.device)
    with atomic_folder(out) as folder:
        result = calibrate(p, A, law, method, **options)
        result.plot(folder / "calibration.png")
        summary = result.summary() | {"operator": operator, "prior": prior, "invgen": __version__}
        (folder / "calibration.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return result
