"""From "this program was executed" to linear claims on committed tensors, written once for both
sides.

1. ``lookups``: one LogUp tree over all lookers and tables; its leaf claims are two linear equations
   in multilinear evaluations of the looked-up variables.
2. Zero relations and outputs: a random evaluation of each.
3. Claims travel from outputs to inputs. ``resolver`` pulls a functional through linear operations;
   where it meets a product, its value is sent (padded) and becomes a claim; ``products`` reduces
   those of equal depth together in one sumcheck.

What remains are linear constraints over pads and functionals of committed tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zkjax.argument.layout import padded_log
from zkjax.argument.party import Weights
from zkjax.argument.sumcheck import point_array
from zkjax.field.multilinear import Point
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import functional_value
from zkjax.program.lookups import reduce_lookups
from zkjax.program.products import reduce_products
from zkjax.program.resolver import Resolver


def reduce_program(
    resolver: Resolver,
    outputs: dict[int, np.ndarray],
    grinding: int,
    phase: Callable[[str], None],
) -> None:
    """Run the three steps; ``outputs`` are the public outputs by number."""
    phase("lookups")
    reduce_lookups(resolver, grinding)
    phase("sumchecks")
    reduce_outputs(resolver, outputs)
    reduce_products(resolver)


def reduce_outputs(resolver: Resolver, outputs: dict[int, np.ndarray]) -> None:
    """A random combination of random evaluations of zero relations, public and sealed outputs."""
    program, party = resolver.program, resolver.party
    cache: dict = {}
    combiner = party.challenge("zero combiner")
    power, terms, parts = resolver.one, [], []
    known = Scalar.of(0, resolver.kappa)

    def weights_for(shape) -> Weights:
        if shape not in cache:
            vector = party.challenges("zero point", padded_log(shape))
            cache[shape] = Point(point_array(vector, resolver.kappa)).weights(shape)
        return cache[shape]

    for var in program.zeros:
        power = power * combiner
        terms.append((var, weights_for(program.shape(var)), power))
    for i, port in enumerate(program.outputs):
        power = power * combiner
        weights = weights_for(program.shape(port.var))
        terms.append((port.var, weights, power))
        if port.sealed:
            parts.append((party.functional(resolver.ids["output"][i], weights), -power))
        else:
            value = functional_value(outputs[i], weights, resolver.kappa)
            known = known - power * value
    total = party.tape.combine([(resolver.resolve(terms), 1), *parts]) + known
    party.require_zero(total, "outputs and zero relations")
