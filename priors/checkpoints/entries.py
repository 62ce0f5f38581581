"""Which tensors of a checkpoint are the network's: under which entry and prefix, and averaged over training or not.

A checkpoint holds a network once or more often: as it was trained, and averaged over the last steps (EMA), which is what
papers evaluate. Frameworks put the copies under entries ("ema", "params_ema", "state_dict") and behind prefixes ("module.",
"model.diffusion_model.", "ema_model."). A network is known by how its names begin; whatever stands before them is its
place, and the place says whether it is averaged. The averaged one is taken; what cannot be decided is an error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from invgen.diffusion import Prior
from invgen.errors import OptionError, WeightsError
from invgen.files import pickles
from invgen.validation.arguments import checked

P = TypeVar("P", bound=Prior)
Marks = Sequence[str]  # how names of a network begin, one with each at least; those that do not end in a dot are whole
AVERAGED = ("avg", "average", "averaged", "polyak", "shadow", "swa")
TRAINED = ("online", "current_model_state")
LISTS = re.compile(r"shadow_params|(ema|averaged?|shadow)(_(params|weights|parameters))?", re.IGNORECASE)
WRAPPERS = ("_orig_mod.", "module.", "ema_model.")
COUNTERS = ("decay", "initted", "n_averaged", "num_updates", "step")  # of averages, beside the tensors
DEPTH, MAPPINGS, PLACES = 8, 10_000, 64  # of nested entries that are looked into, and of prefixes in one


class Weights(dict[str, Tensor]):
    """Tensors by their names in the network.

    Attributes:
        taken: in words, which weights these are, of which file.
        place: where it was, entries and prefix: "model.module.".
        averaged: whether they are averages over training.
        beside: what lies beside the network, under the prefix of the module that held it.
    """

    taken: str = ""
    place: str = ""
    averaged: bool = False
    beside: Mapping[str, Any] = {}

    def of(self, prior: P) -> P:
        """Returns the prior that has these weights, which says so."""
        prior.read_from = self.taken
        return prior

    def __repr__(self) -> str:
        return f"Weights({len(self)} tensors: {self.taken})"


@dataclass
class _Copy:
    """One copy of the network in the checkpoint."""

    path: tuple[str, ...]  # the entries above it
    prefix: str  # before its names
    tensors: dict[str, Tensor]
    averaged: bool
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return ".".join((*self.path, self.prefix)).strip(".")


def is_averaged(place: str) -> bool:
    """Tells whether the words of a place ("ema", "params_ema", "netEMA", "model_ema.module") say so; the innermost
    decide."""
    for part in reversed(re.split(r"[.\s/]", place)):
        words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", part).lower())
        if part.lower() in TRAINED or "online" in words:
            return False
        if any(w in AVERAGED or w.startswith("ema") or (w.endswith("ema") and w != "schema") for w in words):
            return True
    return False


def state_dict(
    path: str | Path, marks: Sequence[Marks], key: str | None = None, ema: bool = True, inert: Iterable[str] | None = None
) -> Weights:
    """Returns the tensors of one network in a checkpoint file: `pickles.read`, then `network`.

    Args:
        path: the file.
        marks, key, ema: see `network`.
        inert: see `pickles.read`.
    """
    return network(pickles.read(path, pickles.FRAMEWORKS if inert is None else inert), path, marks, key, ema)


@checked
def read_weights(
    path: str | Path,
    net: nn.Module | None = None,
    *,
    prefix: str | None = None,
    key: str | None = None,
    ema: bool = True,
    inert: Iterable[str] = (),
) -> Weights:
    """Reads the tensors of one network from a checkpoint, and runs nothing of what the file brings along.

        net.load_state_dict(priors.read_weights("model.pth", net))

    Averaged weights (EMA) are taken where the file has them; `.taken` says which were.

    Args:
        path: a safetensors file, or one of torch.save, in any format: a state dict, or what Lightning, accelerate,
            ema-pytorch, torch-ema, diffusers' EMAModel, torch.optim.swa_utils or a script of its own left.
        net: the network that they are for. Its names are looked for under every entry and behind every prefix, and what is
            found has to fit it. Averages that are a list without names need it.
        prefix: of the names, which is removed; in place of net, or where it holds the network twice.
        key: the entry of the checkpoint to look under, such as "state_dict" or "ema.module".
        ema: whether to take the averaged weights rather than the last ones.
        inert: modules, such as "__main__", whose objects in the file are passed over; those of other classes are refused.

    Returns:
        tensors by name, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged or not safe to open, holds no such network, or several.
    """
    if net is not None and not isinstance(net, nn.Module):
        raise OptionError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    checkpoint = pickles.read(path, (*pickles.FRAMEWORKS, *([inert] if isinstance(inert, str) else inert)))
    names = () if net is None else tuple(name for name, _ in net.named_parameters()) or tuple(net.state_dict())
    found = network(checkpoint, path, [names] if names else [], key, ema, prefix, net)
    if net is not None:
        whole = pickles.counted(net, found)
        pickles.require_fit(net, whole, path)
        found.update(whole)
    return found


def network(
    checkpoint: Any,
    path: str | Path,
    marks: Sequence[Marks] = (),
    key: str | None = None,
    ema: bool = True,
    prefix: str | None = None,
    net: nn.Module | None = None,
) -> Weights:
    """Returns the tensors of one network in what `pickles.read` gave.

    Args:
        checkpoint: the content of the file.
        path: the file, for messages.
        marks: how the names of the network begin; the first of several that are found. None: any names.
        key, ema, prefix: see `read_weights`.
        net: whose parameters a list of averages without names is for, where the file has no trained ones.

    Raises:
        WeightsError: there is no such network, or there are several.
    """
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path} holds a {type(checkpoint).__name__}; expected a state dict, names with tensors")
    mappings = list(_mappings(checkpoint))
    copies: list[_Copy] = []
    for known in (*marks, ()):  # without marks at last: the loader says what it misses
        copies = copies or [copy for at, inside in mappings for copy in _copies(at, inside, known, prefix)]
    if any("." in name for c in copies for name in c.tensors):  # numbers of the training that lie beside are no network
        copies = [c for c in copies if any("." in name for name in c.tensors)]
    if ("current_model_state",) in [copy.path for copy in copies]:  # Lightning's WeightAveraging puts the average above
        copies = [replace(c, averaged=c.averaged or c.path == ("state_dict",)) for c in copies]
    if ema:
        copies += _listed(mappings, copies, path, net)
    if key is not None:
        below = [c for c in copies if c.place == key or f"{c.place}.".startswith(f"{key}.")]
        if not below and key in checkpoint:
            raise WeightsError(f"{path} holds no tensors by name under {key!r}, where a network is expected")
        if not below:
            raise WeightsError(f"{path} has no entry {key!r}; it has {_words((*checkpoint, *(c.place for c in copies)))}")
        copies = below
    if not copies:
        raise WeightsError(f"{path} holds no tensors by name where a network is expected; it has {_words(checkpoint)}")
    averaged, trained = [c for c in copies if c.averaged], [c for c in copies if not c.averaged]
    if not ema and not trained:
        places = _words(c.place for c in averaged)
        raise WeightsError(f"{path} holds averaged weights alone ({places}): leave out ema=False")
    pool = averaged if ema and averaged else trained
    if not all(_same(pool[0].tensors, c.tensors) for c in pool[1:]):
        raise WeightsError(
            f"{path} holds {len(pool)} networks that it may be, {_words(c.place for c in pool)}: pass key= with one of them"
        )
    return _taken(pool[0], trained, path)


def _taken(copy: _Copy, trained: Sequence[_Copy], path: str | Path) -> Weights:
    """Returns the copy, with what an average leaves out (buffers, frozen tensors) from the trained network."""
    base = next((c for c in trained if copy.averaged and copy.tensors.keys() <= c.tensors.keys()), copy)
    found = Weights({**base.tensors, **copy.tensors})
    kind = "averaged weights" if copy.averaged else "weights"
    found.taken = f"{kind} {copy.place!r:.100} of {path}" if copy.place else f"{kind} of {path}"
    found.place, found.averaged, found.beside = copy.place, copy.averaged, {**base.beside, **copy.beside}
    return found


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Tells whether two copies are one: a wrapper that keeps the network it averages writes it twice."""
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a)


def _words(names: Iterable[Any]) -> str:
    return ", ".join(repr(name)[:80] for name, _ in zip(names, range(8), strict=False)) or "nothing"


def _mappings(checkpoint: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every table of the checkpoint, with the entries above it; what an optimizer keeps is left out."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), checkpoint)]
    while waiting and len(seen) < MAPPINGS:
        path, inside = waiting.pop(0)
        if id(inside) in seen or len(path) > DEPTH:
            continue
        seen.add(id(inside))
        named = {name: value for name, value in inside.items() if isinstance(name, str)}
        yield path, named
        for name, value in named.items():
            if isinstance(value, Mapping) and "optim" not in name.lower():
                waiting.append(((*path, name), value))


def _copies(path: tuple[str, ...], inside: Mapping[str, Any], marks: Marks, prefix: str | None) -> Iterator[_Copy]:
    """Yields the copies of the network in one table."""
    tensors = {name: value for name, value in inside.items() if isinstance(value, Tensor)}
    dotless = _dotless(tensors)
    named = {n: t for n, t in tensors.items() if n.rpartition(".")[0] not in dotless}
    places = [prefix] if prefix is not None else _prefixes(named, marks) if marks else _halves(named)
    found = []
    for place in places[:PLACES]:
        inner = [p for p in places if p != place and p.startswith(place)]
        mine = {
            name.removeprefix(place): tensor
            for name, tensor in named.items()
            if name.startswith(place) and not any(name.startswith(p) for p in inner)
        }
        if not marks:  # counters are no part of a network, and wrappers put their names before all of it
            mine = {n: t for n, t in mine.items() if n not in COUNTERS or t.numel() != 1}
            for wrapper in (*WRAPPERS, *WRAPPERS) if prefix is None else ():
                if mine and all(name.startswith(wrapper) for name in mine):
                    mine = {name.removeprefix(wrapper): tensor for name, tensor in mine.items()}
                    place += wrapper
        if mine:
            above = place[: place.rstrip(".").rfind(".") + 1]
            beside = {n.removeprefix(above): v for n, v in inside.items() if n.startswith(above) and n not in mine}
            averaged = is_averaged(".".join((*path, place))) or f"{above}n_averaged" in inside
            found.append(_Copy(path, place, mine, averaged, beside))
    yield from found
    for copy in found if marks else ():
        for head, tails in dotless.items():
            if average := _undotted(copy, tails):
                yield _Copy(path, f"{head}.", average, True, copy.beside)


def _prefixes(tensors: Mapping[str, Tensor], marks: Marks) -> list[str]:
    """Returns the prefixes of the names of the network, each time that all marks are there."""
    first = max(marks, key=len)
    tails = {name[: at + len(first)] for name in tensors for at in _places(name, first)}
    places = sorted({tail[: len(tail) - len(first)] for tail in tails})
    starts = {name[: k + 1] for name in tensors for k, letter in enumerate(name) if letter == "."}
    return [p for p in places if all(p + m in (starts if m.endswith(".") else tensors) for m in marks)]


def _places(name: str, mark: str) -> Iterator[int]:
    """Returns the place of a mark in a name: at its start or behind a dot; one that is a whole name also ends it."""
    at = name.find(mark)
    while at >= 0:
        if (at == 0 or name[at - 1] == ".") and (mark.endswith(".") or at + len(mark) == len(name)):
            yield at
        at = name.find(mark, at + 1)


def _halves(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the prefixes of averages, for a network of which nothing is known."""
    heads = {name.split(".")[0] + "." for name in tensors if "." in name}
    apart = sorted(h for h in heads if is_averaged(h) or h.startswith("online"))
    rest = [n for n in tensors if not any(n.startswith(h) for h in apart) and n not in COUNTERS]
    return [*apart, ""] if rest or not apart else apart


def _dotless(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns the averages of CompVis (LitEma), which stand without dots behind a head: {head: {name without dots:
    tensor}}."""
    heads = {n.removesuffix(".num_updates") for n in tensors if n.endswith(".num_updates")}
    heads = set(sorted(h for h in heads if f"{h}.decay" in tensors)[:PLACES])
    found: dict[str, dict[str, Tensor]] = {head: {} for head in heads}
    for name, tensor in tensors.items():
        head, _, tail = name.rpartition(".")
        if head in heads and tail not in COUNTERS:
            found[head][tail] = tensor
    return {head: tails for head, tails in found.items() if tails}


def _undotted(copy: _Copy, tails: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the averages under the names of the trained network, if they are its; some part of its prefix is before
    them."""
    parts = copy.prefix.split(".")[:-1]
    for k in range(len(parts) + 1):
        squashed = {"".join((*parts[k:], name)).replace(".", ""): name for name in copy.tensors}
        mine = {squashed[tail]: tensor for tail, tensor in tails.items() if tail in squashed}
        if mine and all(tensor.shape == copy.tensors[name].shape for name, tensor in mine.items()):
            return mine
    return {}


def _listed(mappings: Sequence[Any], copies: Sequence[_Copy], path: str | Path, net: nn.Module | None) -> list[_Copy]:
    """Averages that are a list in the order of the parameters (torch-ema, diffusers' EMAModel), under their names."""
    found = []
    for at, inside in mappings:
        for name, value in inside.items():
            if not (isinstance(value, list | tuple) and LISTS.fullmatch(name)) or any(c.averaged for c in copies):
                continue
            if not value or not all(isinstance(v, Tensor) for v in value):
                continue
            tables = [c.tensors for c in copies] or ([dict(net.named_parameters())] if net is not None else [])
            fits = [t for table in tables if (t := _aligned(table, value))]
            if len(fits) != 1:
                raise WeightsError(
                    f"{path} has averaged weights without names, {'.'.join((*at, name))!r}, {len(value)} tensors that "
                    f"{'fit no network in it' if not fits else 'fit several networks in it'}: "
                    + ("pass ema=False for the trained weights" if copies else "pass net=, the network, to read_weights")
                )
            found.append(_Copy((*at, name), "", fits[0], True))
    return found


def _aligned(tensors: Mapping[str, Tensor], values: Sequence[Tensor]) -> dict[str, Tensor]:
    """Returns the values under the names of which they are the averages, in order; empty unless there is one way alone.

    A list of parameters leaves the buffers out, and the shapes say which those are: where the first way to place all
    values, and the last, are the same, there is no other. A list of less than half of the tensors is of something else.
    """
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    names = [n for n, t in tensors.items() if t.is_floating_point() and n.rpartition(".")[2] not in buffers]
    forward = _greedy(names, tensors, values)
    backward = _greedy(names[::-1], tensors, values[::-1])[::-1]
    return dict(zip(forward, values, strict=True)) if forward == backward and 2 * len(forward) > len(names) else {}


def _greedy(names: Sequence[str], tensors: Mapping[str, Tensor], values: Sequence[Tensor]) -> list[str]:
    rest, placed = iter(names), []
    for value in values:
        name = next((n for n in rest if tensors[n].shape == value.shape), None)
        if name is None:
            return []
        placed.append(name)
    return placed
