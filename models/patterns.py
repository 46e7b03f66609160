"""Regular expressions of a stranger, without backtracking.

The module ``re`` may take time exponential in the length of a text. Here an expression becomes a
nondeterministic automaton (Thompson 1968) whose sets of states are followed through the text, and
the steps between sets are kept. It takes what such an automaton can decide: literals, classes,
groups, ``|``, repetition, ``^ $ \\b \\B \\A \\Z`` and lookahead. What matches is what ``re`` says;
texts are in ASCII, on one line.
"""

from __future__ import annotations

import re
import string
from typing import Any, NamedTuple

MAX_TEXT, MAX_DEPTH, MAX_STATES = 1 << 12, 32, 1 << 11
COST = 16  # steps that it counts for to compile a character
CHARACTERS = frozenset(map(chr, range(128)))
WORD = frozenset(string.ascii_letters + string.digits + "_")
CLASSES = {"d": frozenset(string.digits), "w": WORD, "s": frozenset(" \t\n\r\f\v")}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
REPEAT = re.compile(r"\{([0-9]{1,4})?(,)?([0-9]{1,4})?\}")
GROUP = re.compile(r"\(\?(?:(:)|P<[A-Za-z_][A-Za-z0-9_]*>|([=!]))")

Node = tuple[Any, ...]


class PatternError(ValueError):
    """An expression is malformed, too large, of a kind that is not taken, or takes too long."""


class Budget:
    """Steps that matching may take, over many expressions and texts."""

    def __init__(self, steps: int):
        self.left = steps

    def take(self, steps: int) -> None:
        """PatternError if there are none left."""
        self.left -= steps
        if self.left < 0:
            raise PatternError("matching it takes too long")


class _Parser:
    """Recursive descent: ("set", characters), ("at", kind), ("look", node, wanted),
    ("cat", *nodes), ("alt", *nodes), ("repeat", node, least, most or None).
    """

    def __init__(self, text: str):
        self.text, self.at, self.depth = text, 0, 0

    def parse(self) -> Node:
        node = self.alternatives()
        if self.at < len(self.text):
            raise PatternError("a parenthesis closes nothing")
        return node

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        if not (found := self.peek()):
            raise PatternError("it ends too early")
        self.at += 1
        return found

    def alternatives(self) -> Node:
        parts = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else ("alt", *parts)

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.atom()))
        return ("cat", *parts)

    def repeated(self, node: Node) -> Node:
        least, most, start = 1, 1, self.at
        if (found := self.peek()) and found in "*+?":
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found]
            self.at += 1
        elif (bounds := REPEAT.match(self.text, self.at)) and bounds[0] != "{}":
            least = int(bounds[1] or 0)
            most = least if not bounds[2] else int(bounds[3]) if bounds[3] else None
            self.at = bounds.end()
        if self.at == start:
            return node
        if node[0] == "at":
            raise PatternError("a repetition repeats nothing")
        if self.peek() == "?":  # the shortest match first: the same texts match
            self.at += 1
        if (found := self.peek()) and (found in "*+?" or REPEAT.match(self.text, self.at)):
            raise PatternError("one repetition follows another")
        return ("repeat", node, least, most)

    def atom(self) -> Node:
        found = self.take()
        if found == "(":
            return self.group()
        if found == "[":
            return ("set", self.members())
        if found == ".":
            return ("set", CHARACTERS - {"\n"})
        if found in "^$":
            return ("at", found)
        if found in "*+?":
            raise PatternError("a repetition repeats nothing")
        if found == "\\":
            if (kind := self.peek()) and kind in "bBAZ":
                self.at += 1
                return ("at", {"A": "^", "Z": "$"}.get(kind, kind))
            return ("set", self.escaped())
        return ("set", frozenset(found))

    def group(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"groups are nested more than {MAX_DEPTH} deep")
        look = None
        if self.peek() == "?":
            if not (opening := GROUP.match(self.text, self.at - 1)):
                raise PatternError(f"a group of the kind ({self.text[self.at : self.at + 2]}")
            self.at, look = opening.end(), opening[2]
        node = self.alternatives()
        if self.take() != ")":
            raise PatternError("a parenthesis is not closed")
        self.depth -= 1
        return ("look", node, look == "=") if look else node

    def escaped(self) -> frozenset[str]:
        found = self.take()
        if found in CONTROLS:
            return frozenset(CONTROLS[found])
        if found.lower() in CLASSES:
            members = CLASSES[found.lower()]
            return members if found.islower() else CHARACTERS - members
        if found.isalnum():
            raise PatternError(f"the escape \\{found}")
        return frozenset(found)

    def members(self) -> frozenset[str]:
        """What is between brackets."""
        inverted, members, first = self.peek() == "^", set(), True
        self.at += inverted
        while (found := self.take()) != "]" or first:
            first = False
            if found == "[" or (found in "-&~|" and self.peek() == found):
                raise PatternError("a class within a class")  # of a later Python
            low = self.escaped() if found == "\\" else frozenset(found)
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                end = self.take()
                high = self.escaped() if end == "\\" else frozenset(end)
                if len(low) != 1 or len(high) != 1 or min(low) > min(high) or end in "-[":
                    raise PatternError("a range in a class that is none")
                low = frozenset(c for c in CHARACTERS if min(low) <= c <= min(high))
            members |= low
        return CHARACTERS - members if inverted else frozenset(members)


class _State(NamedTuple):
    """A character to read ("set"), a condition ("at", "look"), or none ("free"); where to go on."""

    kind: str
    what: Any
    to: tuple[int, ...]


class Pattern:
    """An expression, compiled.

    Raises:
      PatternError: it is malformed (for ``re``, too), too large, or of a kind that is not taken.
    """

    def __init__(self, text: str, budget: Budget):
        if len(text) > MAX_TEXT:
            raise PatternError(f"it is longer than {MAX_TEXT:,} characters")
        budget.take(COST * len(text))
        node = _Parser(text).parse()
        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(str(error)) from None
        self._states: list[_State] = []
        self._budget = budget
        self._start = self._build(node, self._add("end", None))
        budget.take(len(self._states))
        self._sure = all(s.kind != "look" for s in self._states)  # a step depends on two characters
        self._steps: dict[tuple, tuple[bool, frozenset[int]]] = {}

    def matches(self, text: str, whole: bool = True) -> bool:
        """Whether ``re.fullmatch`` finds the text, or else whether ``re.match`` finds a start."""
        return self._follow(self._start, text, 0, whole)

    def _add(self, kind: str, what: Any, *to: int) -> int:
        if len(self._states) >= MAX_STATES:
            raise PatternError(f"it has more than {MAX_STATES:,} states")
        self._states.append(_State(kind, what, to))
        return len(self._states) - 1

    def _build(self, node: Node, after: int) -> int:
        """The state in which a node begins that goes on to ``after``."""
        kind, *parts = node
        if kind in ("set", "at"):
            return self._add(kind, parts[0], after)
        if kind == "look":
            inner = self._build(parts[0], self._add("end", None))
            return self._add("look", (inner, parts[1]), after)
        if kind == "cat":
            for part in reversed(parts):
                after = self._build(part, after)
            return after
        if kind == "alt":
            return self._add("free", None, *[self._build(part, after) for part in parts])
        inner, least, most = parts
        if most is None:
            loop = self._add("free", None)
            self._states[loop] = _State("free", None, (self._build(inner, loop), after))
            after = loop
        else:
            end = after
            for _ in range(most - least):
                after = self._add("free", None, self._build(inner, after), end)
        for _ in range(least):
            after = self._build(inner, after)
        return after

    def _follow(self, start: int, text: str, at: int, whole: bool) -> bool:
        states = frozenset((start,))
        for i in range(at, len(text) + 1):
            around = (text[i - 1 : i], text[i : i + 1])
            found = self._steps.get((states, *around)) if self._sure else None
            if found is None:
                found = self._step(states, text, i, around)
                if self._sure:
                    self._steps[states, *around] = found
            self._budget.take(1)
            ended, states = found
            if ended and (not whole or i == len(text)):
                return True
            if not states:
                return False
        return False

    def _step(
        self, states: frozenset[int], text: str, at: int, around: tuple[str, str]
    ) -> tuple[bool, frozenset[int]]:
        """Whether an end can be reached here, and the states after the next character."""
        ended, after, seen, waiting = False, set(), set(states), list(states)
        while waiting:
            state = self._states[waiting.pop()]
            self._budget.take(1 + len(state.to))
            if state.kind == "set":
                if around[1] and around[1] in state.what:
                    after.add(state.to[0])
                continue
            if state.kind == "end":
                ended = True
            elif state.kind == "at" and not _holds(state.what, *around):
                continue
            elif state.kind == "look":
                inner, wanted = state.what
                if self._follow(inner, text, at, False) != wanted:
                    continue
            new = set(state.to) - seen
            seen |= new
            waiting += new
        return ended, frozenset(after)


def _holds(kind: str, before: str, after: str) -> bool:
    """A condition between two characters; '' is before or after the text."""
    if kind in "^$":
        return not (before if kind == "^" else after)
    return ((before in WORD) != (after in WORD)) == (kind == "b")
