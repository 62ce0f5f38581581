"""The posterior samplers, one file per paper. `catalogue()` maps lower-case names to classes, `get` looks one up."""

from invgen.errors import OptionError
from invgen.sampler import Sampler
from invgen.samplers.ald import ALD
from invgen.samplers.autoregressivesmc import AutoregressiveSMC
from invgen.samplers.blended import BlendedDiffusion
from invgen.samplers.ccdf import CCDF
from invgen.samplers.csgm import CSGM
from invgen.samplers.daps import DAPS
from invgen.samplers.dcps import DCPS
from invgen.samplers.ddnm import DDNM
from invgen.samplers.ddrm import DDRM
from invgen.samplers.dds import DDS
from invgen.samplers.ddsmc import DDSMC
from invgen.samplers.dflow import DFlow
from invgen.samplers.diffpir import DiffPIR
from invgen.samplers.dmplug import DMPlug
from invgen.samplers.dpg import DPG
from invgen.samplers.dpir import DPIR
from invgen.samplers.dpmsolver import DPMSolver
from invgen.samplers.dps import DPS
from invgen.samplers.eki import EKI
from invgen.samplers.enkg import EnKG
from invgen.samplers.flowchef import FlowChef
from invgen.samplers.flowdps import FlowDPS
from invgen.samplers.flowpriors import FlowPriors
from invgen.samplers.fps import FPS
from invgen.samplers.freedom import FreeDoM
from invgen.samplers.hmc import HMC
from invgen.samplers.ilvr import ILVR
from invgen.samplers.lgd import LGD
from invgen.samplers.mala import MALA
from invgen.samplers.mcg import MCG
from invgen.samplers.mcgdiff import MCGDiff
from invgen.samplers.mgps import MGPS
from invgen.samplers.mmps import MMPS
from invgen.samplers.mpgd import MPGD
from invgen.samplers.otode import OTODE
from invgen.samplers.pcn import PCN
from invgen.samplers.pigdm import PiGDM
from invgen.samplers.pnpadmm import PnPADMM
from invgen.samplers.pnpdm import PnPDM
from invgen.samplers.pnpflow import PnPFlow
from invgen.samplers.psld import PSLD
from invgen.samplers.pulse import PULSE
from invgen.samplers.red import RED
from invgen.samplers.reddiff import REDdiff
from invgen.samplers.repaint import RePaint
from invgen.samplers.resample import ReSample
from invgen.samplers.scg import SCG
from invgen.samplers.scoresde import ScoreSDE
from invgen.samplers.sdedit import SDEdit
from invgen.samplers.sitcom import SITCOM
from invgen.samplers.skrock import SKROCK
from invgen.samplers.smcdiff import SMCDiff
from invgen.samplers.snips import SNIPS
from invgen.samplers.song2022 import MedicalProjection
from invgen.samplers.tds import TDS
from invgen.samplers.tmpd import TMPD
from invgen.samplers.ula import ULA
from invgen.samplers.unconditional import DDIM, Ancestral, Heun
from invgen.samplers.universal import UniversalGuidance

__all__ = [
    "DCPS",
    "MGPS",
    "SITCOM",
    "UniversalGuidance",
    "FreeDoM",
    "MPGD",
    "LGD",
    "ALD",
    "CCDF",
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
    "DPS",
    "EKI",
    "FPS",
    "HMC",
    "ILVR",
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
    "BlendedDiffusion",
    "DFlow",
    "DMPlug",
    "DiffPIR",
    "EnKG",
    "FlowChef",
    "FlowDPS",
    "FlowPriors",
    "Heun",
    "MCGDiff",
    "MedicalProjection",
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
    "catalogue",
    "get",
]


def catalogue() -> dict[str, type[Sampler]]:
    """All samplers by their lower-case name."""
    return {name.lower(): globals()[name] for name in __all__ if name not in ("catalogue", "get")}


def get(name: str) -> type[Sampler]:
    """The sampler class of a name, in any case.

    Raises:
        OptionError: no such sampler; the sentence has the nearest name, or all.
    """
    known = catalogue()
    if name.lower() not in known:
        from invgen.spelling import hint

        names = sorted((c.__name__ for c in known.values()), key=str.lower)
        raise OptionError(f"unknown sampler {name!r}; {hint(name, names)}")
    return known[name.lower()]
