"""Formats chosen from what a model computes, the file that holds them, and what they do."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.errors import CalibrationError, ValueRangeError
from zkjax.fixed import Format, Scale
from zkjax.fixed.sites import Seen, Site, choose, observations, observe
from zkjax.models.adapter import warm_adapter
from zkjax.models.checkpoint import model_digest
from zkjax.models.config import LlamaConfig, LoraConfig
from zkjax.models.data import batches, documentation
from zkjax.models.numerics import FixedPoint
from zkjax.proofs.calibration import Calibration, calibrate
from zkjax.proofs.comparison import compare
from zkjax.proofs.demo import demo_inputs, demo_model
from zkjax.proofs.finetune import FineTuning, make_step, store_rate, store_weight


def seen(largest, typical, mean=None) -> Seen:
    values = (np.atleast_1d(np.array(v, float)) for v in (largest, typical, mean or typical))
    return Seen(*values)


def chosen(largest, typical, way="forward", **options) -> tuple[Format, tuple[int, ...]]:
    site = choose({("s", way): seen(largest, typical)}, {}, **options)["s"]
    return getattr(site, way), getattr(site, f"{way}_shifts")


def test_formats_hold_what_was_seen_with_room():
    for largest in (0.01, 0.9, 1.0, 37.0, 22500.0):
        form, shifts = chosen(largest, largest / 8)
        assert form.bits == 16 and not shifts
        room = 2.0 ** (15 - form.fraction) / largest
        assert 2**0.5 <= room < 2**1.5


def test_small_values_beside_large_ones_take_more_bits():
    form, _ = chosen(22500.0, 0.5)
    assert form.bits > 16 and 2.0**-form.fraction / 12**0.5 <= 0.5 * 2.0**-11
    form, _ = chosen(22500.0, 0.5, narrow=["s"])
    assert form.bits == 16


def test_layers_that_differ_get_shifts_where_that_saves_a_lookup():
    form, shifts = chosen([1000.0, 1.0, 0.5], [50.0, 0.1, 0.05])
    assert form.bits == 16 and len(shifts) == 3 and shifts[0] == 0 < shifts[1] <= shifts[2]
    for largest, shift in zip((1000.0, 1.0, 0.5), shifts, strict=True):
        assert 2.0 ** (15 - form.fraction - shift) > largest * 2**1.2
    assert chosen([1000.0, 1.0], [50.0, 0.1], uniform=lambda name: True)[1] == ()


def test_sites_at_which_only_zeros_were_seen_keep_their_formats():
    known = {"s": Site(Format(3, 9), Format(4, 10))}
    assert choose({("s", "forward"): seen(0.0, 0.0)}, known)["s"] == known["s"]


def test_observations_are_by_step_of_a_scan_and_of_both_directions():
    scales = np.array([1.0, 8.0, 0.25])

    def loss(x):
        def body(c, s):
            return observe(c * s, "product"), None

        return jnp.sum(jax.lax.scan(body, x, scales)[0])

    x = np.array([3.0, -1.0])
    with x64():
        _, found = observations(jax.value_and_grad(loss))(x)
    assert np.array_equal(found["product", "forward"].largest, [3.0, 24.0, 6.0])
    assert np.array_equal(found["product", "backward"].largest, [2.0, 0.25, 1.0])


def test_rounding_with_a_scale_has_other_fraction_bits_in_each_part(rng):
    x = rng.normal(size=(3, 5))
    factors = np.array([1.0, 4.0, 16.0])
    scale = Scale(factors[:, None], 1 / factors[:, None])
    with x64():
        got = fixed.round_value(x, 6, 16, scale=scale)
        slope = jax.grad(lambda v: jnp.sum(fixed.round_cotangent(v * x, 6, 16, scale=scale)))(x)
    unit = 2.0**-6 / factors[:, None]
    assert np.array_equal(got, np.floor(x / unit + 0.5) * unit)
    assert np.array_equal(slope, x)  # the cotangent is 1, which every part holds


def test_a_site_with_shifts_is_proved():
    sites = {"s": Site(Format(4, 10), Format(4, 12), (0, 3, 5), (1, 0, 2))}

    def fn(x):
        v = fixed.decode(x, 8)

        def loss(v):
            numerics = FixedPoint(sites=sites)

            def body(c, layer):
                y, scales = layer
                return c, numerics.at_layer(scales).round(y * y, "s")

            _, ys = jax.lax.scan(body, 0.0, (v, numerics.layer_scales()))
            return jnp.sum(ys * ys), ys

        slope, ys = jax.grad(loss, has_aux=True)(v)
        return fixed.encode(ys, 9), fixed.encode(slope, 16)

    x = np.array([[300, -20], [57, 101], [-33, 12]], dtype=np.int16)
    (ys, slope), _ = zkjax.prove(fn)(zkjax.seal(x))
    unit = 2.0 ** -(4 + np.array([[0.0], [3.0], [5.0]]))
    squares = (x / 256.0) ** 2
    assert np.array_equal(ys / 512.0, np.floor(squares / unit + 0.5) * unit)
    assert np.abs(slope / 65536.0 - 4 * (x / 256.0) ** 3).max() < 0.3


@pytest.fixture(scope="module")
def demo():
    config, parameters = demo_model()
    run = FineTuning(model=config, lora=LoraConfig())
    adapter = jax.tree.map(np.asarray, warm_adapter(config, run.lora, jax.random.key(1)))
    source = batches(documentation(), 2, 32, seed=5)
    data = [next(source) for _ in range(2)]
    return run, parameters, adapter, data, calibrate(run, parameters, adapter, data, stored={})


def test_the_demo_in_calibrated_formats(demo):
    run, parameters, adapter, _, calibration = demo
    for name in ("scores", "logits", "gate_proj"):
        assert calibration.sites[name].forward.bits == 16
    other = next(batches(documentation(), 2, 32, seed=77))
    wider = calibrate(run, parameters, adapter, demo[3], stored={}, room=1.0)
    found = compare(wider.apply(run), parameters, adapter, [other]).summary()
    assert abs(found["loss_float"] - found["loss_fixed"]) < 0.005
    assert found["top1_agreement"] > 0.95 and found["positions"] == 64
    assert min(found["gradient_cosine"].values()) > 0.9995


def test_calibrations_are_written_and_read(demo, tmp_path):
    calibration = demo[-1]
    path = tmp_path / "c.json"
    calibration.save(path)
    again = Calibration.load(path)
    assert again == calibration and again.encode() == path.read_bytes()
    calibration.require_model(model_digest(demo[0].model, demo[1]))
    with pytest.raises(CalibrationError, match="another model"):
        calibration.require_model(model_digest(LlamaConfig(rms_norm_eps=1e-5), demo[1]))


def broken(raw: dict):
    yield "version 2", raw | {"version": 2}
    yield "not a calibration", {k: v for k, v in raw.items() if k != "sites"}
    yield "not a calibration", raw | {"sites": {"x": [[1, 2], [3, 4], []]}}
    yield "not a calibration", raw | {"sites": {"x": [[1, 99], [3, 4], [], []]}}
    yield "not a calibration", raw | {"sites": {"x": [[1.0, 16], [3, 4], [], []]}}
    yield "not a calibration", raw | {"sites": {"x": [[1, 16], [3, 4], [99], []]}}
    yield "not a calibration", raw | {"log2_loss_scale": "4"}
    yield "not a calibration", raw | {"weight_fractions": {"x": True}}
    yield "version None", [raw]


def test_files_that_are_no_calibration(demo):
    raw = json.loads(demo[-1].encode())
    for what, changed in broken(raw):
        with pytest.raises(CalibrationError, match=what):
            Calibration.decode(json.dumps(changed).encode())
    for data in (b"", b"\xff", b"[" * 100_000):
        with pytest.raises(CalibrationError):
            Calibration.decode(data)


def test_a_calibration_of_other_layers_is_refused(demo):
    site = replace_site(demo[-1].sites["down_proj"], forward_shifts=(0, 1, 0))
    calibration = replace(demo[-1], sites={"down_proj": site})
    with pytest.raises(CalibrationError, match="3 layers at site 'down_proj' and the model has 2"):
        calibration.apply(demo[0])


def replace_site(site: Site, **changes) -> Site:
    return site._replace(**changes)


@pytest.mark.parametrize(
    ("name", "way", "what"),
    [
        ("down_proj", "forward", "site down_proj, .*layer.*calibrate on more text"),
        ("residual", "backward", r"site residual \(backward\), .*layer.*calibrate on more text"),
    ],
)
def test_a_value_out_of_range_names_site_layer_and_direction(name, way, what):
    run, base, adapter, source = demo_inputs()
    site = run.numerics.site(name)
    form = getattr(site, way)
    sites = {**run.numerics.sites, name: replace_site(site, **{way: Format(form.fraction, 9)})}
    narrow = replace(run, numerics=FixedPoint(sites=sites))
    with pytest.raises(ValueRangeError, match=what):
        zkjax.provable(make_step(narrow))(base, adapter, next(source), store_rate(0.1))


@pytest.mark.parametrize("fraction", [8, 14, 17])
def test_weights_are_stored_in_one_or_two_parts(fraction, rng):
    values = np.concatenate([rng.normal(size=100) * 0.1, [3.9, -3.9]])
    stored = store_weight(values, fraction)
    if isinstance(stored, dict):
        assert stored["coarse"].dtype == np.int16 and stored["fine"].dtype == np.int8
        assert np.abs(stored["fine"]).max() <= 8
        stored = stored["coarse"].astype(np.int64) * 16 + stored["fine"]
    assert np.array_equal(stored, np.floor(values * 2.0**fraction + 0.5))
    with pytest.raises(ValueRangeError):
        store_weight(np.array([2.0**9]), fraction + 4)
