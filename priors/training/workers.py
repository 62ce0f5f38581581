"""The processes of one training: one alone, or those that `accelerate launch` started, whose gradients are averaged."""

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from invgen.errors import MissingExtraError


class Workers:
    """One process alone, or one of several; each draws views of its own, and all take the same step.

    Gradients go through one all-reduce a step, as one vector, so that the network needs no wrapper. Several processes are
    those of `accelerate launch -m invgen train ...` (Gugger et al., Hugging Face), by its environment variables.

    Attributes:
        rank, count: which process this is, of how many.
        device: where this process computes.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device, self.rank, self.count = torch.device(device), 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator  # pyright: ignore[reportMissingImports]  (of the extra train)
            except ImportError as error:
                raise MissingExtraError(
                    "several processes need the package accelerate: pip install 'invgen-solvers[train]'"
                ) from error
            self.accelerator = Accelerator(cpu=self.device.type == "cpu")
            self.device = self.accelerator.device
            self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes

    def average(self, parameters: Iterable[Tensor], number: float) -> float:
        """Replaces the gradients by their mean over the processes, and returns that of a number."""
        if self.count == 1:
            return number
        gradients = [p.grad for p in parameters if p.grad is not None]
        last = torch.tensor([number], dtype=torch.float32, device=self.device)
        mean = self.accelerator.reduce(torch.cat([*(g.reshape(-1) for g in gradients), last]), reduction="mean")
        for gradient, part in zip(gradients, mean[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return mean[-1].item()
