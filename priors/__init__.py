"""The catalogue of priors."""

from invgen.autoregressive import MarkovChain
from invgen.numerics.precision import cast
from invgen.priors.checkpoints.adm import from_guided_diffusion
from invgen.priors.checkpoints.azula import AzulaDenoiser, from_azula, to_azula
from invgen.priors.checkpoints.deepinv import DeepinvDenoiser, from_deepinv, to_deepinv
from invgen.priors.checkpoints.diffusers import DiffusersDenoiser
from invgen.priors.checkpoints.edm import from_edm, from_inverse_bench
from invgen.priors.checkpoints.entries import Weights, read_weights
from invgen.priors.checkpoints.flow_matching import from_flow_matching
from invgen.priors.checkpoints.from_diffusers import from_diffusers
from invgen.priors.checkpoints.k_diffusion import from_k_diffusion
from invgen.priors.checkpoints.llama import from_gguf
from invgen.priors.checkpoints.networks.wavenet import WaveNetPrior
from invgen.priors.checkpoints.picture_text import PictureEncoder, Text
from invgen.priors.checkpoints.pipelines import from_pipeline
from invgen.priors.checkpoints.score_sde import from_score_sde
from invgen.priors.checkpoints.sentences import SentenceEncoder, sentence_encoder
from invgen.priors.checkpoints.stylegan import StyleGAN, from_stylegan
from invgen.priors.checkpoints.text import TextEmbedding
from invgen.priors.checkpoints.transformers import from_transformers
from invgen.priors.laws.chains import AngleMixture
from invgen.priors.laws.consistency import GaussianConsistency
from invgen.priors.laws.exact import Atoms, GaussianMixture, GaussianPrior
from invgen.priors.laws.levy import LevyProcess
from invgen.priors.laws.ngram import NGram
from invgen.priors.load import load, names
from invgen.priors.wrappers.autoregressive import CausalNetwork, from_autoregressive
from invgen.priors.wrappers.check import PriorReport, PriorWarning, check_prior
from invgen.priors.wrappers.from_network import FunctionDenoiser, NetworkDenoiser, from_denoiser, from_network
from invgen.priors.wrappers.generators import VAE, Decoder, from_generator, from_vae
from invgen.priors.wrappers.inversion import fine_tuned, invert_condition
from invgen.priors.wrappers.language import LanguageModel
from invgen.priors.wrappers.latent import Autoencoder, LatentDiffusion
from invgen.priors.wrappers.normalising_flows import NormalisingFlow, from_flow
from invgen.priors.wrappers.scene import Parameter, Scene
from invgen.priors.wrappers.schedules import Schedule
from invgen.priors.wrappers.slices import Slices
from invgen.priors.wrappers.spread import Spread
from invgen.priors.wrappers.tiling import PatchAveraged, Tiled

__all__ = [
    "VAE",
    "AngleMixture",
    "Atoms",
    "Autoencoder",
    "AzulaDenoiser",
    "CausalNetwork",
    "Decoder",
    "DeepinvDenoiser",
    "DiffusersDenoiser",
    "FunctionDenoiser",
    "GaussianConsistency",
    "GaussianMixture",
    "GaussianPrior",
    "LanguageModel",
    "LatentDiffusion",
    "LevyProcess",
    "MarkovChain",
    "NGram",
    "NetworkDenoiser",
    "NormalisingFlow",
    "Parameter",
    "PatchAveraged",
    "PictureEncoder",
    "PriorReport",
    "PriorWarning",
    "Scene",
    "Schedule",
    "SentenceEncoder",
    "Slices",
    "Spread",
    "StyleGAN",
    "Text",
    "TextEmbedding",
    "Tiled",
    "WaveNetPrior",
    "Weights",
    "cast",
    "check_prior",
    "fine_tuned",
    "from_autoregressive",
    "from_azula",
    "from_deepinv",
    "from_denoiser",
    "from_diffusers",
    "from_edm",
    "from_flow",
    "from_flow_matching",
    "from_generator",
    "from_gguf",
    "from_guided_diffusion",
    "from_inverse_bench",
    "from_k_diffusion",
    "from_network",
    "from_pipeline",
    "from_score_sde",
    "from_stylegan",
    "from_transformers",
    "from_vae",
    "invert_condition",
    "load",
    "names",
    "read_weights",
    "sentence_encoder",
    "to_azula",
    "to_deepinv",
]
