"""OT-ODE with the width that the denoiser states: our variant, of no paper."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from invgen.samplers.flow.otode import OTODE
from invgen.samplers.guided.adaptivepigdm import AdaptivePiGDM
from invgen.validation.hints import Range


@dataclass(frozen=True)
class AdaptiveOTODE(OTODE):
    """OT-ODE whose guidance is that of AdaptivePiGDM, started from a draw that takes the operator into account.

    Linear operators, Gaussian or no noise.

    Args:
        begin, weight, carry: see OTODE.
    """

    order: Literal[1, 2] = 2
    begin: Annotated[float, Range(0, 1, below=True)] = 0.2
    carry: Literal["adjoint", "draw"] = "draw"

    exact: ClassVar[str] = "for white Gaussian priors, as steps grow"

    guide = AdaptivePiGDM.guide
