"""Classifiers that judge samples, of cards and of the gallery: of objects, kept beside its data, and of spoken digits."""

import itertools
import math
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from invgen.errors import WeightsError
from invgen.files.writing import replace, require_writable
from invgen.numerics.precision import has_bfloat16
from invgen.priors.data.captioned import captioned
from invgen.priors.data.spoken import SpokenViews, pictures, recordings


class ObjectJudge(nn.Module):
    """A classifier of CIFAR-10, (B, 3, 32, 32) in [-1, 1] -> (B, 10) logits, each picture seen as it is and mirrored.

    Whitened patches (Coates & Ng, "Learning feature representations with k-means", 2012) and six convolutions. See
    `object_judge`.

    Attributes:
        accuracy: the share of the test pictures that it names rightly.
    """

    def __init__(self, widths: tuple[int, int, int] = (64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
        for a, b in itertools.pairwise((24, *widths)):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(b), nn.GELU()]
            layers += [nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(widths[-1], 10))
        self.register_buffer("share", torch.tensor(math.nan))

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + self.net(x.flip(3))) / 2

    @property
    def accuracy(self) -> float:
        return self.get_buffer("share").item()


def object_judge(folder: Path, epochs: int = 8, batch: int = 256) -> ObjectJudge:
    """Returns the classifier of CIFAR-10 that judges pictures of objects, trained once and kept in the folder.

    Of the test pictures it names 88.4 per cent. It takes eight minutes of one core with AMX the first time.

    Args:
        folder: of train.npz and test.npz (docs/data.md); the weights go to judge.safetensors beside them.
        epochs: over the training pictures.
        batch: pictures a step.

    Raises:
        DataError: the pictures are not there.
        WeightsError: the stored weights are damaged.
    """
    path = folder / "judge.safetensors"
    if not path.exists():
        x, y = captioned(folder)
        require_writable(folder)
        judge = _trained(x / 127.5 - 1, y, epochs, batch)
        x, y = captioned(folder, "test")
        with torch.inference_mode():
            seen = torch.cat([judge(part / 127.5 - 1).argmax(1) for part in x.split(500)])
        judge.get_buffer("share").copy_((seen == y).float().mean())
        tensors = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
        replace(path, lambda unfinished: save_file(tensors, unfinished))
    judge = ObjectJudge()
    try:
        judge.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise WeightsError(f"{path} is not a whole judge of objects: delete it, and it is trained again") from error
    return judge.eval().requires_grad_(False)


def _trained(x: Tensor, y: Tensor, epochs: int, batch: int) -> ObjectJudge:
    """Returns a judge trained by SGD with Nesterov's momentum, on pictures mirrored and shifted by up to two pixels."""
    fast, padded = has_bfloat16(torch.device("cpu")), F.pad(x, (2, 2, 2, 2), mode="reflect")
    sites = torch.arange(x.shape[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = ObjectJudge().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (not typed)
        first = cast(nn.Conv2d, judge.net[0])
        patches = F.unfold(x[torch.randperm(len(x))[:500]], 2).transpose(1, 2).flatten(0, 1)  # (n, 12): 3 x 2 x 2 values
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        whitening = (vectors / (values + 2e-3).sqrt()).T.unflatten(1, (3, 2, 2))
        first.weight.data.copy_(torch.cat([whitening, -whitening]))
        first.weight.requires_grad_(False)
        trained = [p for p in judge.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trained, 0.1, 0.9, weight_decay=5e-4, nesterov=True)
        steps = epochs * -(-len(x) // batch)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, total_steps=steps, pct_start=0.25, cycle_momentum=False)
        for _ in range(epochs):
            for i in torch.randperm(len(x)).split(batch):
                rows, columns = sites + torch.randint(5, (2, len(i), 1))
                columns = torch.where(torch.rand(len(i), 1) < 0.5, columns, columns.flip(1))
                views = padded[i[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
                with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                    out = judge.net(views)
                loss = F.cross_entropy(out.float(), y[i], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
    return judge.eval()


class SpokenJudge(nn.Module):
    """A recogniser of spoken digits, log-mel pictures (B, 1, 64, 64) of `priors.data.spoken` -> (B, 10) logits.

    Attributes:
        accuracy: the share of the test recordings that it names rightly.
    """

    accuracy: float = math.nan

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((1, 16, 32, 64)):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def spoken_judge(folder: Path | str, steps: int = 600) -> SpokenJudge:
    """Returns a recogniser trained on real recordings, moved, and with noise, by AdamW; about a minute of one core.

    Args:
        folder: of the recordings, see `priors.data.spoken.recordings`.
        steps: of 64 recordings each.

    Raises:
        DataError: the recordings are not there.
    """
    views, generator = SpokenViews(*recordings(folder)), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = SpokenJudge()
        optimiser = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=1e-2)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        for _ in range(steps):
            x, digits, _ = views.batch(64, generator)
            x = x + 0.2 * torch.rand(64, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
            loss = F.cross_entropy(judge(x), digits, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    judge = judge.eval().requires_grad_(False)
    waves, digits, _ = recordings(folder, "test")
    judge.accuracy = (judge(pictures(waves)).argmax(1) == digits).float().mean().item()
    return judge
