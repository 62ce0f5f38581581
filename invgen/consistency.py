"""The contract of consistency functions: a `Denoiser` whose `consistency` is true gives f(x, sigma) in place of D.

f(x, sigma) is x_0 at the end of the probability flow that goes through x at noise level sigma (Song et al., 2023): one
evaluation makes a sample of noise, where D gives a mean. f(x, sigma) -> x as sigma -> 0. Wrappers (other units, a
condition, another precision) pass `consistency` on. Samplers that want D run on f too, with a bias; those that want f
refuse D.
"""

from invgen.diffusion import Prior
from invgen.pushforward import Generator


def needs_consistency(prior: Prior) -> str | None:
    """Returns the end of a sentence where a prior, or that of its codes, is no consistency function, else None."""
    prior = prior.latent if isinstance(prior, Generator) else prior
    if getattr(prior, "consistency", False):
        return None
    return (
        f"needs a consistency function, and {type(prior).__name__} gives the mean of x_0: "
        'take priors.load("digits-consistency"), or declare a network with prediction="consistency"'
    )
