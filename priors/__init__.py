"""The catalogue of priors."""

from invgen.priors.adm import from_guided_diffusion
from invgen.priors.autoregressive import CausalNetwork, from_autoregressive
from invgen.priors.azula import AzulaDenoiser, from_azula, to_azula
from invgen.priors.check import PriorReport, PriorWarning, check_prior
from invgen.priors.deepinv import DeepinvDenoiser, from_deepinv, to_deepinv
from invgen.priors.diffusers import DiffusersDenoiser, from_diffusers
from invgen.priors.edm import from_edm, from_inverse_bench
from invgen.priors.entries import Weights, read_weights
from invgen.priors.exact import Atoms, GaussianMixture, GaussianPrior
from invgen.priors.flow_matching import from_flow_matching
from invgen.priors.from_network import FunctionDenoiser, NetworkDenoiser, from_denoiser, from_network
from invgen.priors.generators import VAE, Decoder, from_generator, from_vae
from invgen.priors.k_diffusion import from_k_diffusion
from invgen.priors.latent import Autoencoder, LatentDiffusion
from invgen.priors.load import load, names
from invgen.priors.normalising_flows import NormalisingFlow, from_flow
from invgen.priors.pipelines import from_pipeline
from invgen.priors.precision import cast
from invgen.priors.schedules import Schedule
from invgen.priors.score_sde import from_score_sde
from invgen.priors.stylegan import StyleGAN, from_stylegan
from invgen.priors.text import TextEmbedding
from invgen.priors.tiling import PatchAveraged, Slices, Tiled

__all__ = [
    "VAE",
    "Atoms",
    "Autoencoder",
    "AzulaDenoiser",
    "CausalNetwork",
    "Decoder",
    "DeepinvDenoiser",
    "DiffusersDenoiser",
    "FunctionDenoiser",
    "GaussianMixture",
    "GaussianPrior",
    "LatentDiffusion",
    "NetworkDenoiser",
    "NormalisingFlow",
    "PatchAveraged",
    "PriorReport",
    "PriorWarning",
    "Schedule",
    "Slices",
    "StyleGAN",
    "TextEmbedding",
    "Tiled",
    "Weights",
    "cast",
    "check_prior",
    "from_autoregressive",
    "from_azula",
    "from_deepinv",
    "from_denoiser",
    "from_diffusers",
    "from_edm",
    "from_flow",
    "from_flow_matching",
    "from_generator",
    "from_guided_diffusion",
    "from_inverse_bench",
    "from_k_diffusion",
    "from_network",
    "from_pipeline",
    "from_score_sde",
    "from_stylegan",
    "from_vae",
    "load",
    "names",
    "read_weights",
    "to_azula",
    "to_deepinv",
]
