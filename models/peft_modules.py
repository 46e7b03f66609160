"""Which linear layers PEFT adapts by the settings of an adapter.

Settings are matched against the paths of modules in the base model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from zkjax.models.patterns import COST, Budget, Pattern, PatternError
from zkjax.models.peft_names import Family, Module
from zkjax.models.peft_settings import AdapterError, Settings, short

STEPS = 1_000_000  # of matching, for one adapter: about half a second
PLAIN_NAME = re.compile(r"\^?(?:[A-Za-z0-9_.]|\\\.)+\$?")
WORD = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def matched(settings: Settings, family: Family, layers: int) -> set[Module]:
    """The modules that PEFT adapts in a base model of so many layers, by its rules of today.

    Raises:
      AdapterError: the settings name a module that is no linear layer of a block, an expression is
        not taken, or versions of PEFT differ.
    """
    budget = Budget(STEPS)
    targets = settings.target_modules
    every = isinstance(targets, str) and targets.lower() == "all-linear"
    named = _chooser(() if every else targets, "target_modules", budget)
    excluded = _chooser(settings.exclude_modules, "exclude_modules", budget)
    exactly = frozenset() if isinstance(targets, str) else frozenset(targets)
    kept = _kept_layers(settings, family)

    def adapts(path: str, layer: int | None) -> bool:
        # A path that is named as a whole is adapted whatever its layer; others need one.
        return named(path) and not excluded(path) and (path in exactly or kept(layer))

    blocks = [family.config.block.format(layer) for layer in range(layers)]
    for path in (*family.outer, *blocks):
        if adapts(path, None):
            _refuse_outer(path, family)
    found: set[Module] = set()
    for layer, block in enumerate(blocks):
        for inner in family.inner:
            if adapts(f"{block}.{inner}", layer):
                _refuse_outer(f"{block}.{inner}", family)
        for target in family.config.paths:
            path = family.path(layer, target)
            if not (every and not excluded(path)) and not adapts(path, layer):
                continue
            if not kept(layer):  # PEFT adapts it, or not, by how many names there are
                raise AdapterError(
                    f"target_modules names {path}, whose layer layers_to_transform leaves out; "
                    "leave out one of them"
                )
            found.add((layer, target))
    return found


def _refuse_outer(path: str, family: Family) -> NoReturn:
    raise AdapterError(
        f"target_modules names {path}, which is no linear layer of a block of a {family.name}; "
        f"leave it out ({', '.join(map(family.suffix, family.config.paths))} are taken)"
    )


def _chooser(wanted: str | tuple[str, ...], what: str, budget: Budget) -> Callable[[str], bool]:
    """Whether a path is one of the names, ends in one, or is matched by an expression."""
    if not isinstance(wanted, str):
        names = frozenset(wanted)
        return lambda path: any(end in names for end in _ends(path))
    try:
        pattern = Pattern(wanted, budget)
    except PatternError as error:
        raise _refusal(wanted, what, error) from error

    def fits(path: str) -> bool:
        try:
            return pattern.matches(path)
        except PatternError as error:
            raise _refusal(wanted, what, error) from error

    return fits


def _ends(path: str) -> Iterator[str]:
    yield path
    while "." in path:
        path = path.partition(".")[2]
        yield path


def _kept_layers(settings: Settings, family: Family) -> Callable[[int | None], bool]:
    """Which layers layers_to_transform and layers_pattern leave in; None is outside the blocks."""
    layers = settings.layers_to_transform
    if layers is None:
        return lambda layer: True
    stack = family.config.block.removesuffix(".{}")
    if settings.layers_pattern and not any(
        _names_stack(pattern, stack) for pattern in settings.layers_pattern
    ):
        raise AdapterError(
            f"layers_pattern = {short(list(settings.layers_pattern))} is no list of layers of a "
            f"{family.name}; that is {stack.rpartition('.')[2]!r}"
        )
    return lambda layer: layer in layers


def _names_stack(pattern: str, stack: str) -> bool:
    """Whether a name is that of the list of layers, from its end."""
    if not WORD.fullmatch(pattern):
        raise AdapterError(
            f"layers_pattern = {short(pattern)} is an expression; give the name of the list of "
            f"layers, {stack.rpartition('.')[2]!r}"
        )
    return pattern in tuple(_ends(stack))


class Choices:
    """The entry of ``rank_pattern`` or ``alpha_pattern`` that PEFT takes for a module: the first
    whose key, an expression, matches an end of its path.
    """

    def __init__(self, keys: Iterable[str], what: str, budget: Budget):
        self._keys, self._what, self._budget = tuple(keys), what, budget
        self._conditions: dict[str, Callable[[str], bool]] = {}

    def of(self, path: str) -> str | None:
        """The key of a module, if it has one. AdapterError for a key that is not taken."""
        key = ""
        try:
            for key in self._keys:
                self._budget.take(1)
                if key not in self._conditions:
                    self._conditions[key] = _ending(key, self._budget)
                if self._conditions[key](path):
                    return key
        except PatternError as error:
            raise _refusal(key, self._what, error) from error
        return None


def _ending(key: str, budget: Budget) -> Callable[[str], bool]:
    """Whether a path ends in what a key matches, from a dot on."""
    if not PLAIN_NAME.fullmatch(key):
        pattern = Pattern(rf"(.*\.)?({key})$", budget)
        return lambda path: pattern.matches(path, whole=False)
    budget.take(COST)
    # Names, one for each module, are what PEFT itself writes. Their dots match any character.
    whole, name = key.startswith("^"), key.strip("^$")
    parts = name.split(r"\.")
    joined, wild = ".".join(parts), ".".join(part.replace(".", "*") for part in parts)

    def ends(path: str) -> bool:
        rest = len(path) - len(joined)
        if rest < 0 or (rest and (whole or path[rest - 1] != ".")):
            return False
        tail = path[rest:]
        return tail == joined or all(w in ("*", c) for w, c in zip(wild, tail, strict=True))

    return ends


def _refusal(text: str, what: str, error: PatternError) -> AdapterError:
    return AdapterError(
        f"{what} has the expression {short(text)}, which is not taken ({error}); list the modules "
        "by name"
    )
