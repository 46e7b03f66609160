"""LoRA on models that know nothing of it: by rules, in float and in fixed point, in files."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.errors import OptionError
from zkjax.fixed import Format
from zkjax.fixed.sites import Site, choose, observations
from zkjax.models import lora
from zkjax.models.lora import LoraRule, linen
from zkjax.models.numerics import FixedPoint, Observed
from zkjax.models.peft import AdapterError

ALL = [LoraRule("all-linear", r=2, alpha=3.0)]


class Perceptron(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activation=nnx.gelu):
        self.up = nnx.Linear(6, 16, rngs=rngs)
        self.down = nnx.Linear(16, 3, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        return self.down(self.activation(self.up(x)))


class LinenPerceptron(nn.Module):
    activation: object = nn.gelu

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="down")(self.activation(nn.Dense(16, name="up")(x)))


class Many(nnx.Module):
    """Every kind of layer, in every kind of container."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.List([Perceptron(rngs), Perceptron(rngs)])
        self.named = nnx.Dict({"last": nnx.Linear(6, 6, use_bias=False, rngs=rngs)})
        self.chain = nnx.Sequential(nnx.Linear(6, 6, rngs=rngs), nnx.tanh)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.axes = nnx.LinearGeneral((5, 6), (2, 3), axis=(-1, 1)[::-1], rngs=rngs)
        self.heads = nnx.Einsum("...td,hdk->...htk", (2, 6, 3), (2, 1, 3), rngs=rngs)
        self.embed = nnx.Embed(7, 6, rngs=rngs)
        self.conv = nnx.Conv(6, 6, 1, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, deterministic=True)

    def __call__(self, tokens):
        x = self.norm(self.conv(self.embed(tokens)))
        x = x + self.attention(self.drop(x))
        x = self.chain(self.named["last"](x))
        sums = [jnp.sum(block(x)) for block in self.blocks]
        return sums[0] * self.axes(x), sums[1] * self.heads(x)


def stacked(axis: int = 0):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=axis)
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        return nnx.Linear(6, 6, rngs=rngs)

    return make(nnx.Rngs(1))


class Stacked(nnx.Module):
    def __init__(self, axis: int = 0):
        self.layers = stacked(axis)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return layer(x)

        return run(x, self.layers)


class ScannedByHand(Stacked):
    def __call__(self, x):
        graph, state = nnx.split(self.layers)
        return jax.lax.scan(lambda x, s: (nnx.merge(graph, s)(x), None), x, state)[0]


def inputs(*shape: int):
    return jax.random.normal(jax.random.key(7), shape)


def of(model, rules=ALL):
    targets = lora.find(model, rules)
    return targets, lora.init(targets, jax.random.key(3), warm=True)


def close(got, expected, by=2e-5):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape and np.abs(np.asarray(x) - np.asarray(y)).max() < by


# Floating point -------------------------------------------------------------------------------

MODELS = {
    "perceptron": (Perceptron, inputs(5, 6)),
    "many": (Many, np.arange(10).reshape(2, 5) % 7),
    "recurrent": (lambda rngs: nnx.RNN(nnx.LSTMCell(6, 5, rngs=rngs)), inputs(2, 4, 6)),
    "scan": (lambda rngs: Stacked(), inputs(5, 6)),
    "lax.scan": (lambda rngs: ScannedByHand(), inputs(5, 6)),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_is_what_merging_it_gives(name):
    make, x = MODELS[name]
    model = make(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    targets, adapter = of(model)
    got = lora.attach(model, adapter, targets)(x)
    close(got, lora.merge(model, adapter, targets)(x))
    close(jax.jit(lambda a, x: lora.attach(model, a, targets)(x))(adapter, x), got)
    close(nnx.jit(lambda m, x: m(x))(lora.attach(model, adapter, targets), x), got)
    plain = jax.tree.leaves(model(x))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(got), plain, strict=True))
    fresh = lora.init(targets, jax.random.key(0))
    close(lora.attach(model, fresh, targets)(x), model(x), 1e-6)  # B is zero
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    assert all("WithLora" not in type(m).__name__ for _, m in nnx.iter_modules(model))


def test_every_linear_layer_is_found():
    targets = lora.find(Many(nnx.Rngs(0)), ALL)
    attention = [f"attention/{name}" for name in ("key", "out", "query", "value")]
    blocks = [f"blocks/{i}/{name}" for i in (0, 1) for name in ("down", "up")]
    assert list(targets) == sorted(
        [*attention, *blocks, "axes", "chain/layers/0", "heads", "named/last"]
    )
    assert targets["axes"].shapes == {"a": (30, 2), "b": (2, 6)}
    assert targets["attention/out"].shapes == {"a": (6, 2), "b": (2, 6)}
    assert targets["heads"].shapes == {"a": (6, 2), "b": (2, 6)}
    assert lora.find(Stacked(), ALL)["layers"].shapes == {"a": (3, 6, 2), "b": (3, 2, 6)}


def test_the_copy_keeps_its_class_and_attributes():
    model = Perceptron(nnx.Rngs(0))
    targets, adapter = of(model, [LoraRule("up")])
    layer = lora.attach(model, adapter, targets).up
    assert isinstance(layer, nnx.Linear) and layer.out_features == 16
    assert np.array_equal(layer.kernel[...], model.up.kernel[...])
    own = nnx.to_pure_dict(nnx.state(lora.attach(model, adapter, targets), nnx.LoRAParam))
    assert np.array_equal(own["up"]["lora_a"], adapter["up"]["a"]) and set(own) == {"up"}


def test_the_gradient_is_of_the_adapter_alone():
    model, x = Perceptron(nnx.Rngs(0)), inputs(5, 6)
    targets = lora.find(model, ALL)
    adapter = lora.init(targets, jax.random.key(0))
    grads = jax.grad(lambda a: jnp.sum(lora.attach(model, a, targets)(x) ** 2))(adapter)
    assert jax.tree.structure(grads) == jax.tree.structure(adapter)
    for parts in grads.values():
        assert not np.any(parts["a"]) and np.any(parts["b"])  # B is zero
    for parts in adapter.values():
        assert np.std(parts["a"]) > 0.1 and not np.any(parts["b"])


def test_the_scale_and_the_dtype():
    assert LoraRule("x", r=4, alpha=8).scale == 2
    assert LoraRule("x", r=3, alpha=5, use_rslora=True).scale == 5 / math.sqrt(3)
    model = nnx.Dict({"up": nnx.Linear(6, 16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))})
    targets, adapter = of(model)
    assert lora.attach(model, adapter, targets)["up"](inputs(5, 6)).dtype == jnp.bfloat16
    assert lora.merge(model, adapter, targets)["up"].kernel.dtype == jnp.float32


# Linen ----------------------------------------------------------------------------------------


class LinenMany(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.LayerNorm()(nn.Conv(6, (1,))(nn.Embed(7, 6)(tokens)))
        x = x + nn.MultiHeadDotProductAttention(2)(x, x)
        x = nn.scan(LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(
            name="layers"
        )(x, None)[0]
        shared = nn.Dense(6, name="twice")
        x = shared(shared(x))
        heads = nn.Einsum((2, 6, 3), "...td,hdk->...htk", use_bias=False)(x)
        return nn.DenseGeneral((2, 3), axis=(1, -1))(x), heads


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(6, name="inner")(x)), None


class LinenLifted(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.remat(nn.Dense)(6, name="again")(x)
        lifted = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        y = nn.vmap(nn.Dense, in_axes=None, axis_size=3, **lifted)(6, name="each")(y)
        lifted = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
        return nn.vmap(nn.Dense, in_axes=0, **lifted)(6, name="one")(y)


@pytest.mark.parametrize("make", [LinenPerceptron, LinenMany, LinenLifted])
def test_a_linen_adapter_is_what_merging_it_gives(make):
    module = make()
    x = np.arange(10).reshape(2, 5) % 7 if make is LinenMany else inputs(5, 6)
    variables = module.init(jax.random.key(0), x)
    targets = linen.find(module, ALL, variables, x)
    adapter = lora.init(targets, jax.random.key(3), warm=True)
    run = linen.bind(module, targets)
    got = run(variables, adapter, x)
    close(got, module.apply(linen.merge(variables, adapter, targets), x))
    close(jax.jit(run)(variables, adapter, x), got)
    assert np.abs(got[0] - module.apply(variables, x)[0]).max() > 1e-3
    if make is LinenMany:
        assert {p for p in targets if "/" not in p} == {
            "twice", "Einsum_0", "DenseGeneral_0",
        }  # fmt: skip
        assert targets["layers/inner"].shapes["a"] == (3, 6, 2)
        assert targets["DenseGeneral_0"].shapes["a"] == (30, 2)
        assert "MultiHeadDotProductAttention_0/out" in targets


# Fixed point ----------------------------------------------------------------------------------

SITES = {"up": Site(Format(11, 16)), "lora.weight": Site(Format(14, 20), Format(20, 32))}


def tabulated(x):
    return fixed.gelu(x, 11, 12)


def stored(tree, fraction, dtype):
    return jax.tree.map(lambda x: fixed.quantize(x, fraction, dtype), tree)


def decoded(tree, fraction):
    return jax.tree.map(lambda x: fixed.decode(x, fraction), tree)


def make_step(forward):
    """SGD of an adapter, of (stored weights, stored adapter, x, y)."""

    def step(weights, adapter, x, y):
        weights, master = decoded(weights, 12), decoded(adapter, 24)

        def loss(adapter):
            out = forward(weights, adapter, fixed.decode(x, 12))
            return jnp.sum((out - fixed.decode(y, 12)) ** 2) * 2.0**-4

        value, grads = jax.value_and_grad(loss)(master)
        new = jax.tree.map(lambda a, g: fixed.encode(a - 0.125 * g, 24), master, grads)
        return new, fixed.encode(value, 16)

    return step


@pytest.fixture(scope="module")
def task():
    """A perceptron's weights, an adapter and data as stored integers, and its layers."""
    model = Perceptron(nnx.Rngs(0), tabulated)
    targets, adapter = of(model)
    graph, state = nnx.split(model)
    data = stored(inputs(5, 6), 12, "int16"), stored(np.ones((5, 3)), 12, "int16")
    weights = stored(nnx.to_pure_dict(state), 12, "int16")
    return graph, state, targets, weights, stored(adapter, 24, "int32"), data


def nnx_step(task, numerics=None):
    graph, state, targets, *_ = task

    def forward(weights, adapter, x):
        nnx.replace_by_pure_dict(state, weights)
        model = nnx.merge(graph, state)
        return lora.attach(model, adapter, targets, numerics or FixedPoint(sites=SITES))(x)

    return make_step(forward)


def test_a_step_of_a_model_of_ones_own_is_proved(task):
    *_, weights, adapter, (x, y) = task
    step = nnx_step(task)
    sealed = zkjax.seal(weights, openings=1), zkjax.seal(adapter, openings=1)
    (new, loss), proof = zkjax.prove(step, sealed_outputs=(True, False))(*sealed, x, y)
    shown = zkjax.verify(step, sealed_outputs=(True, False))(
        *(s.commitment for s in sealed), x, y, proof=proof
    )
    assert shown[1] == loss
    assert proof.claims.output_commitments == [new.commitment]
    expected, value = _float_step(weights, adapter, x, y)
    assert abs(loss * 2.0**-16 - value) < 2e-3
    for path, parts in expected.items():
        for name, leaf in parts.items():
            got = np.asarray(new.tree[path][name]) * 2.0**-24
            assert np.abs(got - leaf).max() < 2e-3
            moved = np.abs(leaf - adapter[path][name] * 2.0**-24).max()
            assert np.abs(got - leaf).max() < 0.05 * moved


def _float_step(weights, adapter, x, y):
    """The same step in float64, by the merged model: no code of ``attach``."""
    with x64():
        weights = jax.tree.map(lambda v: jnp.asarray(v * 2.0**-12), weights)
        adapter = jax.tree.map(lambda v: jnp.asarray(v * 2.0**-24), adapter)
        x, y = x * 2.0**-12, y * 2.0**-12

        def loss(adapter):
            def linear(path, x):
                a, b = adapter[path]["a"], adapter[path]["b"]
                return x @ (weights[path]["kernel"] + 1.5 * a @ b) + weights[path]["bias"]

            return jnp.sum((linear("down", jax.nn.gelu(linear("up", x))) - y) ** 2) / 16

        value, grads = jax.value_and_grad(loss)(adapter)
        return jax.tree.map(lambda a, g: np.asarray(a - 0.125 * g), adapter, grads), float(value)


def test_linen_and_nnx_have_the_same_fixed_point(task):
    *_, targets, weights, adapter, (x, y) = task
    module = LinenPerceptron(tabulated)
    found = linen.find(module, ALL, {"params": jax.tree.map(np.float32, weights)}, np.ones((5, 6)))
    assert {p: t.layer.inputs for p, t in found.items()} == {
        p: t.layer.inputs for p, t in targets.items()
    }
    run = linen.bind(module, found, FixedPoint(sites=SITES))
    step = make_step(lambda weights, adapter, x: run({"params": weights}, adapter, x))
    theirs = zkjax.provable(step)(weights, adapter, x, y)
    ours = zkjax.provable(nnx_step(task))(weights, adapter, x, y)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))
    assert zkjax.check(step)(zkjax.Private(weights), adapter, x, y).committed_elements > 0


def test_a_dtype_counts_for_nothing_in_fixed_point():
    model = nnx.Dict({"up": nnx.Linear(6, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))})
    module = nn.Sequential([nn.Dense(4, dtype=jnp.bfloat16)])
    kernel = stored(model["up"].kernel[...], 12, "int16")
    x = stored(inputs(5, 6), 12, "int16")
    targets, adapter = of(model)
    adapter = stored(adapter, 24, "int32")

    def by_nnx(kernel, adapter, x):
        copy = nnx.clone(model)
        copy["up"].kernel = nnx.Param(fixed.decode(kernel, 12))
        run = lora.attach(copy, decoded(adapter, 24), targets, FixedPoint())
        return fixed.encode(run["up"](fixed.decode(x, 12)), 12)

    def by_linen(kernel, adapter, x):
        params = {"layers_0": {"kernel": fixed.decode(kernel, 12), "bias": jnp.zeros(4)}}
        found = linen.find(module, ALL, {"params": params}, fixed.decode(x, 12))
        run = linen.bind(module, found, FixedPoint())
        adapter = {"layers_0": decoded(adapter, 24)["up"]}
        return fixed.encode(run({"params": params}, adapter, fixed.decode(x, 12)), 12)

    ours = zkjax.provable(by_nnx)(kernel, adapter, x)
    assert np.array_equal(ours, zkjax.provable(by_linen)(kernel, adapter, x))
    real = (
        x
        * 2.0**-12
        @ (
            kernel * 2.0**-12
            + 1.5 * (adapter["up"]["a"] * 2.0**-24) @ (adapter["up"]["b"] * 2.0**-24)
        )
    )
    assert np.abs(ours * 2.0**-12 - real).max() < 2e-3


def test_a_stacked_model_runs_in_fixed_point():
    model = Stacked()
    targets, adapter = of(model)
    weights = stored(nnx.to_pure_dict(nnx.state(model)), 12, "int16")
    x = stored(inputs(5, 6), 12, "int16")

    def forward(weights, adapter, x):
        copy = nnx.clone(model)
        nnx.update(copy, decoded(weights, 12))
        run = lora.attach(copy, decoded(adapter, 24), targets, FixedPoint())
        return fixed.encode(run(fixed.decode(x, 12)), 12)

    got = zkjax.provable(forward)(weights, stored(adapter, 24, "int32"), x)
    close(got * 2.0**-12, lora.merge(model, adapter, targets)(x * 2.0**-12), 2e-2)
    assert zkjax.check(forward)(weights, zkjax.Private(stored(adapter, 24, "int32")), x)


class Axes(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.axes = nnx.LinearGeneral((5, 6), (2, 3), axis=(1, -1), rngs=rngs)
        self.heads = nnx.Einsum("...td,hdk->...htk", (2, 6, 3), (2, 1, 3), rngs=rngs)

    def __call__(self, x):
        return self.axes(x), self.heads(x)


def test_layers_over_several_axes_run_in_fixed_point():
    model, x = Axes(nnx.Rngs(0)), stored(inputs(2, 5, 6), 12, "int16")
    targets, adapter = of(model)
    weights = stored(nnx.to_pure_dict(nnx.state(model)), 12, "int16")

    def loss(weights, adapter, x):
        copy = nnx.clone(model)
        nnx.update(copy, decoded(weights, 12))

        def total(adapter):
            outputs = lora.attach(copy, adapter, targets, FixedPoint())(fixed.decode(x, 12))
            return sum(jnp.sum(y) for y in outputs) * 2.0**-4, outputs

        grads, outputs = jax.grad(total, has_aux=True)(decoded(adapter, 24))
        return [[fixed.encode(v, 20) for v in jax.tree.leaves(t)] for t in (outputs, grads)]

    outputs, grads = zkjax.provable(loss)(weights, stored(adapter, 24, "int32"), x)

    def real(adapter):
        outputs = lora.merge(model, adapter, targets)(x * 2.0**-12)
        return sum(jnp.sum(y) for y in outputs) / 16, outputs

    their_grads, theirs = jax.grad(real, has_aux=True)(adapter)
    close([v * 2.0**-20 for v in outputs], list(theirs), 5e-3)
    close([v * 2.0**-20 for v in grads], jax.tree.leaves(their_grads), 5e-3)
    assert zkjax.check(loss)(zkjax.Private(weights), zkjax.Private(stored(adapter, 24, "int32")), x)


def test_a_rule_says_how_its_layers_round():
    model = nnx.Dict({n: nnx.Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0)) for n in ("p", "q")})
    rules = [
        LoraRule("p", r=1, alpha=1, low=Site(Format(2, 8)), weight=Site(Format(5, 16))),
        LoraRule("q", r=1, alpha=1),
    ]
    targets, adapter = of(model, rules)
    x, kernel = stored(inputs(5, 6), 12, "int16"), np.zeros((6, 4))

    def outputs(adapter, x):
        copy = nnx.clone(model)
        for name in ("p", "q"):
            copy[name].kernel = nnx.Param(jnp.asarray(kernel))
        run = lora.attach(copy, decoded(adapter, 24), targets, FixedPoint(), round_outputs=False)
        return {n: fixed.encode(run[n](fixed.decode(x, 12)), 26) for n in ("p", "q")}

    integers = stored(adapter, 24, "int32")
    got = zkjax.provable(outputs)(integers, x)
    for name, low, weight in (("p", 2, 5), ("q", 11, 12)):
        a, b = (np.floor(integers[name][k] * 2.0 ** (weight - 24) + 0.5) for k in ("a", "b"))
        inner = np.floor(x * 2.0**-12 @ a * 2.0 ** (low - weight) + 0.5) * 2.0**-low
        assert np.array_equal(got[name] * 2.0**-26, inner @ b * 2.0**-weight)


def test_formats_are_chosen_from_what_a_model_computes():
    model = Perceptron(nnx.Rngs(0))
    targets, adapter = of(model)

    def watched(adapter, x):
        out = lambda a: jnp.sum(lora.attach(model, a, targets, Observed())(x) ** 2)  # noqa: E731
        return jax.grad(out)(adapter)

    adapter, x = jax.tree.map(np.asarray, (adapter, inputs(5, 6)))
    _, seen = observations(watched)(adapter, x)
    names = {"up", "down", "up.lora", "down.lora", "lora.weight"}
    assert {name for name, _ in seen} == names
    sites = choose(seen, {}, narrow=["up"], uniform=lambda name: True)
    assert sites["up"].forward.bits == 16
    lora.attach(model, adapter, targets, FixedPoint(sites=sites))


# Refused --------------------------------------------------------------------------------------


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, kernel_only: bool):
        self.first = nnx.Linear(6, 6, rngs=rngs)
        self.second = nnx.Linear(6, 6, rngs=rngs) if kernel_only else self.first
        if kernel_only:
            self.second.kernel = self.first.kernel


class Doubled(nnx.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


def wrapped(layer):
    return nnx.Dict({"it": layer})


RNGS = nnx.Rngs(0)
BATCHED = nnx.LinearGeneral(6, 4, batch_axis={0: 3}, rngs=RNGS)
ON_TWO = nnx.LoRA(6, 2, 4, base_module=nnx.Linear(6, 4, rngs=RNGS), rngs=RNGS)


@pytest.mark.parametrize(
    ("model", "rules", "told"),
    [
        (Perceptron(RNGS), [LoraRule("middle")], "'middle'.* matches no layer.* down, up"),
        (Perceptron(RNGS), [LoraRule("UP")], "matches no layer"),
        (Perceptron(RNGS), [LoraRule("up", exclude=["u*"])], "matches no layer"),
        (Many(RNGS), [LoraRule("*", r=1)], r"LoraRule\('\*'\) matches 'conv' \(Conv\)"),
        (Many(RNGS), [LoraRule("embed")], r"'embed' \(Embed\): it is no linear layer"),
        (Many(RNGS), [LoraRule("norm")], r"'norm' \(LayerNorm\): it is no linear layer"),
        (Perceptron(RNGS), [LoraRule("*", r=4)], "r = 4 for 'down', whose kernel is 16 x 3"),
        (
            Perceptron(RNGS),
            [LoraRule("up"), LoraRule("*p", r=2)],
            r"'up' is under two rules, LoraRule\('up'\) and LoraRule\('\*p'\)",
        ),
        (Tied(RNGS, False), [LoraRule("second")], "'second'.* is shared: it is also 'first'"),
        (Tied(RNGS, True), [LoraRule("second")], "'second/kernel'.* also 'first/kernel'"),
        (wrapped(Doubled(6, 6, rngs=RNGS)), ALL, "computes something else than Linear"),
        (wrapped(BATCHED), ALL, "a kernel for each index of a batch axis"),
        (wrapped(nnx.Einsum("ab,bc->ac", (6, 4), rngs=RNGS)), [LoraRule("i")], "layers are it"),
        (wrapped(nnx.Einsum("hb,hbc->hc", (2, 6, 4), rngs=RNGS)), ALL, "no matrix product"),
        (wrapped(nnx.Einsum("ab,bc->c", (6, 4), rngs=RNGS)), ALL, "no matrix product"),
        (wrapped(nnx.LoRALinear(6, 4, lora_rank=2, rngs=RNGS)), ALL, "has a LoRA of Flax"),
        (wrapped(ON_TWO), [LoraRule("it")], "has a LoRA of Flax"),
        (Stacked(1), ALL, "'layers'.*stack layers on the first axis"),
        (nnx.Linear(6, 6, rngs=RNGS), ALL, "is a linear layer itself"),
        (nnx.Dict({"norm": nnx.LayerNorm(6, rngs=RNGS)}), ALL, "has no linear layer"),
        (
            nnx.Dict(
                {"a": wrapped(nnx.Linear(6, 6, rngs=RNGS)), "a.it": nnx.Linear(6, 6, rngs=RNGS)}
            ),
            ALL,
            "two layers have the same path",
        ),
        (Perceptron(RNGS), [], "one LoraRule or more"),
        (Perceptron(RNGS), ["up"], "one LoraRule or more"),
        (Perceptron(RNGS), LoraRule("up"), "one LoraRule or more"),
        (LinenPerceptron(), ALL, "an nnx.Module, not LinenPerceptron"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_rules_that_cannot_be_followed(model, rules, told):
    with pytest.raises(OptionError, match=told):
        lora.find(model, rules)


def broken(adapter, how):
    up, rest = adapter["up"], {k: v for k, v in adapter.items() if k != "up"}
    return {
        "missing": rest,
        "other": {**adapter, "side": up},
        "no b": {**rest, "up": {"a": up["a"]}},
        "rank": {**rest, "up": {"a": up["a"][:, :1], "b": up["b"]}},
        "list": [up],
    }[how]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing", 'no "a" and "b" for \'up\''),
        ("other", "'side', which no rule is about"),
        ("no b", 'no "a" and "b" for \'up\''),
        ("rank", r"a of 'up' has shape \(6, 1\)"),
        ("list", "as init makes it"),
    ],
)
def test_an_adapter_that_does_not_fit(how, told, tmp_path):
    model = Perceptron(RNGS)
    targets, adapter = of(model)
    bad = broken(adapter, how)
    module = LinenPerceptron()
    for use in (
        lambda: lora.attach(model, bad, targets),
        lambda: lora.merge(model, bad, targets),
        lambda: linen.bind(module, targets)({"params": {}}, bad, inputs(5, 6)),
        lambda: lora.save(tmp_path / "x.safetensors", bad, targets),
    ):
        with pytest.raises(OptionError, match=told):
            use()


def test_targets_of_another_model_are_refused():
    targets, adapter = of(wrapped(nnx.Linear(6, 4, rngs=RNGS)))
    for use in (lora.attach, lora.merge):
        with pytest.raises(OptionError, match="the model has no layer 'it'"):
            use(Perceptron(RNGS), adapter, targets)
    variables = LinenPerceptron().init(jax.random.key(0), inputs(5, 6))
    for use in (
        lambda: linen.bind(LinenPerceptron(), targets)(variables, adapter, inputs(5, 6)),
        lambda: linen.merge(variables, adapter, targets),
    ):
        with pytest.raises(OptionError, match="the parameters have no layer 'it'"):
            use()


def test_what_only_a_call_shows():
    model = wrapped(nnx.Einsum("ab,bc->ac", (6, 4), rngs=RNGS))
    targets, adapter = of(model)
    with pytest.raises(OptionError, match="'it' is called with an equation of its own"):
        lora.attach(model, adapter, targets)["it"](inputs(5, 6), "ab,bc->ca")
    targets, adapter = of(Stacked())
    with pytest.raises(OptionError, match="called in a scan or vmap"):
        lora.attach(Stacked(), adapter, targets).layers(inputs(3, 5, 6))


def test_formats_by_layer_are_refused():
    model = Perceptron(RNGS)
    targets, adapter = of(model)
    shifted = Site(Format(11, 16), Format(20, 24), (0, 1))
    for name in ("up", "down.lora", "lora.weight"):
        with pytest.raises(OptionError, match=f"site '{name}' has shifts by layer"):
            lora.attach(model, adapter, targets, FixedPoint(sites={name: shifted}))
        with pytest.raises(OptionError, match=f"site '{name}' has shifts by layer"):
            linen.bind(LinenPerceptron(), targets, FixedPoint(sites={name: shifted}))
    for name in ("low", "weight"):
        with pytest.raises(OptionError, match=f"{name} has shifts by layer"):
            LoraRule("up", **{name: shifted})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"pattern": 3}, "pattern = 3"),
        ({"pattern": ""}, "pattern is empty"),
        ({"pattern": "x", "r": 0}, "r = 0"),
        ({"pattern": "x", "alpha": -1.0}, "alpha = -1"),
        ({"pattern": "x", "exclude": "y"}, "exclude = 'y'"),
        ({"pattern": "x", "low": 12}, "low = 12"),
    ],
)
def test_rules_that_are_none(arguments, told):
    with pytest.raises(OptionError, match=told):
        LoraRule(**arguments)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("batch", "a kernel for each index of a batch axis"),
        ("called", "equation is given where it is called"),
        ("conv", r"'conv' \(Conv\): it is no linear layer"),
        ("none", "matches no layer"),
    ],
)
def test_linen_layers_that_are_refused(pattern, told):
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            nn.DenseGeneral(4, batch_dims=0, name="batch")(x)
            nn.Einsum((6, 4), None, name="called")(x, "...a,ab->...b")
            return nn.Conv(4, (1,), name="conv")(x)

    variables = Odd().init(jax.random.key(0), inputs(5, 6))
    with pytest.raises(OptionError, match=told):
        linen.find(Odd(), [LoraRule(pattern)], variables, inputs(5, 6))


def test_boxed_and_frozen_parameters():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            return nn.Dense(4, kernel_init=init, name="it")(x)

    x, module = inputs(5, 6), Boxed()
    variables = freeze(module.init(jax.random.key(0), x))
    targets = linen.find(module, ALL, variables, x)
    adapter = lora.init(targets, jax.random.key(1), warm=True)
    merged = linen.merge(variables, adapter, targets)
    assert isinstance(merged["params"]["it"]["kernel"], nn.Partitioned)
    close(linen.bind(module, targets)(variables, adapter, x), module.apply(merged, x))


def test_linen_arguments_that_are_none():
    module, x = LinenPerceptron(), inputs(5, 6)
    with pytest.raises(OptionError, match=r"a Linen nn\.Module, not Perceptron"):
        linen.find(Perceptron(RNGS), ALL, {"params": {}}, x)
    with pytest.raises(OptionError, match=r"as module\.init gives them"):
        linen.find(module, ALL, {}, x)


# Patterns -------------------------------------------------------------------------------------

PATHS = [f"blocks/{i}/{name}" for i in (0, 1) for name in ("down", "up")]
PIECES = st.sampled_from(["blocks", "0", "1", "up", "down", "*", "?", "/", ".", "[01]", "[!0]"])


@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.lists(PIECES, max_size=4))
def test_a_pattern_is_one_of_fnmatch_on_either_spelling(pattern, exclude):
    model = TWO
    rule = LoraRule(pattern, r=2, exclude=["".join(exclude)] if exclude else [])

    def fits(path, pattern):
        return any(fnmatchcase(path.replace("/", c), pattern) for c in "/.")

    wanted = [p for p in PATHS if fits(p, pattern) and not any(fits(p, e) for e in rule.exclude)]
    if wanted:
        assert list(lora.find(model, [rule])) == wanted
    else:
        with pytest.raises(OptionError, match="matches no layer"):
            lora.find(model, [rule])


TWO = nnx.Dict({"blocks": nnx.List([Perceptron(RNGS), Perceptron(RNGS)])})


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_a_file_is_read_and_saved_to_the_same_bytes(tmp_path, dtype):
    for make in (Perceptron(RNGS), Stacked(), Many(RNGS)):
        targets, adapter = of(make)
        adapter = jax.tree.map(lambda x: (np.asarray(x) * 1000).astype(dtype), adapter)
        first, second = tmp_path / "first", tmp_path / "second"
        lora.save(first, adapter, targets)
        again = lora.load(first, targets)
        assert jax.tree.structure(again) == jax.tree.structure(adapter)
        for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(adapter), strict=True):
            assert x.dtype == dtype and np.array_equal(x, y)
        lora.save(second, again, targets)
        assert first.read_bytes() == second.read_bytes()


def test_a_file_has_the_names_and_layouts_of_peft(tmp_path):
    targets, adapter = of(TWO, [LoraRule("*.up", r=2)])
    lora.save(tmp_path / "x", adapter, targets)
    found = load_file(tmp_path / "x")
    prefix = "base_model.model.blocks.1.up"
    assert found[f"{prefix}.lora_A.weight"].shape == (2, 6)
    assert np.array_equal(found[f"{prefix}.lora_B.weight"], adapter["blocks/1/up"]["b"].T)


def test_files_that_are_not_this_adapter(tmp_path):
    targets, adapter = of(Perceptron(RNGS))
    path = tmp_path / "x"
    lora.save(path, adapter, targets)
    good = load_file(path)
    name = "base_model.model.up.lora_A.weight"

    def refused(tensors, told):
        save_file(tensors, path)
        with pytest.raises(AdapterError, match=told):
            lora.load(path, targets)

    refused({k: v for k, v in good.items() if k != name}, f"{name} is missing")
    refused({**good, "more": good[name]}, "'more' is a weight that no rule is about")
    refused({**good, name: good[name].T.copy()}, r"shape \(6, 2\); the rule makes it \(2, 6\)")
    refused({**good, name: good[name].astype(np.float16)}, f"{name} is F16")
    refused({**good, name: good[name] * np.nan}, "infinite or not a number")
    path.write_bytes(b"no")
    with pytest.raises(AdapterError, match="is no adapter"):
        lora.load(path, targets)
    with pytest.raises(AdapterError, match="missing"):
        lora.load(tmp_path / "nowhere", targets)


def test_adapters_that_are_not_saved(tmp_path):
    targets, adapter = of(Perceptron(RNGS))
    for change, told in (
        (lambda x: jnp.asarray(x, jnp.bfloat16), "is bfloat16"),
        (lambda x: x * jnp.inf, "not finite"),
    ):
        with pytest.raises(OptionError, match=told):
            lora.save(tmp_path / "x", jax.tree.map(change, adapter), targets)
    targets, adapter = of(nnx.Dict({"été": nnx.Linear(6, 4, rngs=RNGS)}))
    with pytest.raises(OptionError, match="not ASCII"):
        lora.save(tmp_path / "x", adapter, targets)
    assert not list(tmp_path.iterdir())
