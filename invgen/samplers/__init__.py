"""The posterior samplers, one file per paper. `catalogue()` maps lower-case names to classes, `get` looks one up.

In every file `post` is the problem (`invgen.Posterior`, rows of measurements), `s` and `s_next` are the noise levels before
and after a step, `randn(x)` draws standard normal noise in the shape of x, and `cloud` holds the weights of particles.
"""

from invgen.errors import OptionError
from invgen.method import catalogues
from invgen.sampler import Sampler
from invgen.samplers.derivative_free.dampeddpg import DampedDPG
from invgen.samplers.derivative_free.dpg import DPG
from invgen.samplers.derivative_free.eki import EKI
from invgen.samplers.derivative_free.enkg import EnKG
from invgen.samplers.derivative_free.regressionenkg import RegressionEnKG
from invgen.samplers.derivative_free.scg import SCG
from invgen.samplers.editing.blended import BlendedDiffusion
from invgen.samplers.editing.sdedit import SDEdit
from invgen.samplers.few_steps.adaptivelatino import AdaptiveLATINO
from invgen.samplers.few_steps.cm4ir import CM4IR
from invgen.samplers.few_steps.latino import LATINO
from invgen.samplers.few_steps.latinopro import LATINOPRO
from invgen.samplers.few_steps.linearisedlatino import LinearisedLATINO
from invgen.samplers.flow.adaptiveotode import AdaptiveOTODE
from invgen.samplers.flow.damped import DampedFlowChef, DampedFlowDPS, DampedPnPFlow
from invgen.samplers.flow.flowchef import FlowChef
from invgen.samplers.flow.flowdps import FlowDPS
from invgen.samplers.flow.flower import Flower
from invgen.samplers.flow.otode import OTODE
from invgen.samplers.flow.pnpflow import PnPFlow
from invgen.samplers.guided.adaptivepigdm import AdaptivePiGDM
from invgen.samplers.guided.damped import DampedDPS, DampedFreeDoM, DampedUniversalGuidance
from invgen.samplers.guided.dampedlgd import DampedLGD
from invgen.samplers.guided.dampedmpgd import DampedMPGD
from invgen.samplers.guided.dps import DPS
from invgen.samplers.guided.freedom import FreeDoM
from invgen.samplers.guided.lgd import LGD
from invgen.samplers.guided.mmps import MMPS
from invgen.samplers.guided.mpgd import MPGD
from invgen.samplers.guided.pigdm import PiGDM
from invgen.samplers.guided.tmpd import TMPD
from invgen.samplers.guided.universal import UniversalGuidance
from invgen.samplers.latent.csgm import CSGM
from invgen.samplers.latent.invariantresample import InvariantReSample
from invgen.samplers.latent.psld import PSLD
from invgen.samplers.latent.pulse import PULSE
from invgen.samplers.latent.resample import ReSample
from invgen.samplers.mcmc.adaptivedaps import AdaptiveDAPS
from invgen.samplers.mcmc.ald import ALD
from invgen.samplers.mcmc.daps import DAPS
from invgen.samplers.mcmc.dpnp import DPnP
from invgen.samplers.mcmc.hmc import HMC
from invgen.samplers.mcmc.mala import MALA
from invgen.samplers.mcmc.mgdm import MGDM
from invgen.samplers.mcmc.pcn import PCN
from invgen.samplers.mcmc.pnpdm import PnPDM
from invgen.samplers.mcmc.skrock import SKROCK
from invgen.samplers.mcmc.snips import SNIPS
from invgen.samplers.mcmc.ula import ULA
from invgen.samplers.mcmc.widenedald import WidenedALD
from invgen.samplers.plug_and_play.dpir import DPIR
from invgen.samplers.plug_and_play.pnpadmm import PnPADMM
from invgen.samplers.plug_and_play.red import RED
from invgen.samplers.projection.adaptiveddrm import AdaptiveDDRM
from invgen.samplers.projection.ccdf import CCDF
from invgen.samplers.projection.dampedmcg import DampedMCG
from invgen.samplers.projection.ddnm import DDNM
from invgen.samplers.projection.ddrm import DDRM
from invgen.samplers.projection.ilvr import ILVR
from invgen.samplers.projection.mcg import MCG
from invgen.samplers.projection.medicalprojection import MedicalProjection
from invgen.samplers.projection.phasecrossing import PhaseCrossing
from invgen.samplers.projection.repaint import RePaint
from invgen.samplers.projection.reversediffusion import ReverseDiffusion
from invgen.samplers.projection.scoresde import ScoreSDE
from invgen.samplers.proximal.conjugate import ConjugateDCPS, ConjugateMGPS
from invgen.samplers.proximal.dcps import DCPS
from invgen.samplers.proximal.dds import DDS
from invgen.samplers.proximal.diffpir import DiffPIR
from invgen.samplers.proximal.jfps import JFPS
from invgen.samplers.proximal.mgps import MGPS
from invgen.samplers.proximal.sitcom import SITCOM
from invgen.samplers.smc.afdps import AFDPS
from invgen.samplers.smc.autoregressivesmc import AutoregressiveSMC
from invgen.samplers.smc.beamsearch import BeamSearch
from invgen.samplers.smc.correctedfps import CorrectedFPS
from invgen.samplers.smc.ddsmc import DDSMC
from invgen.samplers.smc.discreteparticlefilter import DiscreteParticleFilter
from invgen.samplers.smc.forwardbackward import ForwardBackward
from invgen.samplers.smc.fps import FPS
from invgen.samplers.smc.linearisedtds import LinearisedTDS
from invgen.samplers.smc.mcgdiff import MCGDiff
from invgen.samplers.smc.smcdiff import SMCDiff
from invgen.samplers.smc.tds import TDS
from invgen.samplers.smc.temperedsmc import TemperedSMC
from invgen.samplers.unconditional.ancestral import DDIM, Ancestral, Heun
from invgen.samplers.unconditional.dpmsolver import DPMSolver
from invgen.samplers.unconditional.multistep import MultistepConsistency
from invgen.samplers.variational.dampedflowpriors import DampedFlowPriors
from invgen.samplers.variational.dflow import DFlow
from invgen.samplers.variational.dmplug import DMPlug
from invgen.samplers.variational.flowpriors import FlowPriors
from invgen.samplers.variational.hybridreg import HybridReg
from invgen.samplers.variational.reddiff import REDdiff

__all__ = [
    "DCPS",
    "MGDM",
    "MGPS",
    "SITCOM",
    "UniversalGuidance",
    "FreeDoM",
    "MPGD",
    "LGD",
    "AFDPS",
    "ALD",
    "CCDF",
    "CM4IR",
    "CSGM",
    "DAPS",
    "DDIM",
    "DDNM",
    "DDRM",
    "DDS",
    "DDSMC",
    "DPG",
    "DPIR",
    "DPMSolver",
    "DPnP",
    "DPS",
    "EKI",
    "FPS",
    "HMC",
    "ILVR",
    "JFPS",
    "MALA",
    "MCG",
    "MMPS",
    "OTODE",
    "PCN",
    "PSLD",
    "PULSE",
    "SCG",
    "SKROCK",
    "SNIPS",
    "TDS",
    "TMPD",
    "ULA",
    "Ancestral",
    "AutoregressiveSMC",
    "BeamSearch",
    "DiscreteParticleFilter",
    "ForwardBackward",
    "BlendedDiffusion",
    "DFlow",
    "AdaptiveDAPS",
    "AdaptiveDDRM",
    "AdaptiveLATINO",
    "AdaptiveOTODE",
    "AdaptivePiGDM",
    "ConjugateDCPS",
    "ConjugateMGPS",
    "CorrectedFPS",
    "DampedDPG",
    "DampedDPS",
    "DampedFlowChef",
    "DampedFlowDPS",
    "DampedFlowPriors",
    "DampedFreeDoM",
    "DampedLGD",
    "DampedMCG",
    "DampedMPGD",
    "DampedPnPFlow",
    "DampedUniversalGuidance",
    "DMPlug",
    "DiffPIR",
    "EnKG",
    "InvariantReSample",
    "LinearisedLATINO",
    "LinearisedTDS",
    "RegressionEnKG",
    "ReverseDiffusion",
    "WidenedALD",
    "FlowChef",
    "FlowDPS",
    "FlowPriors",
    "Flower",
    "Heun",
    "HybridReg",
    "LATINO",
    "LATINOPRO",
    "MCGDiff",
    "MedicalProjection",
    "MultistepConsistency",
    "PhaseCrossing",
    "PiGDM",
    "PnPADMM",
    "PnPDM",
    "PnPFlow",
    "RED",
    "REDdiff",
    "RePaint",
    "ReSample",
    "SDEdit",
    "SMCDiff",
    "ScoreSDE",
    "TemperedSMC",
    "catalogue",
    "get",
]


def catalogue() -> dict[str, type[Sampler]]:
    """Returns all samplers by their lower-case name."""
    return {name.lower(): globals()[name] for name in __all__ if name not in ("catalogue", "get")}


def get(name: str) -> type[Sampler]:
    """Returns the sampler class of a name, in any case.

    Raises:
        OptionError: no such sampler; the sentence has the nearest name, or all.
    """
    known = catalogue()
    if name.lower() not in known:
        from invgen.names.spelling import hint

        names = sorted((c.__name__ for c in known.values()), key=str.lower)
        raise OptionError(f"unknown sampler {name!r}; {hint(name, names)}")
    return known[name.lower()]


catalogues.append(catalogue)
