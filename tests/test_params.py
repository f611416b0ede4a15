import numpy as np
import pytest

from tests.helpers import Place, assert_on, to_numpy
from tests.tiny import make_config
from xplm.backend import load_backend
from xplm.models.decoder import param_specs
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.params import ParamSpec, count_params, global_norm, init_params
from xplm.runtime import make_runtime

SPECS = {
    "a.weight": ParamSpec("a.weight", (300, 200), "normal", 0.5),
    "b.weight": ParamSpec("b.weight", (200,), "ones"),
    "b.bias": ParamSpec("b.bias", (3,), "zeros"),
}
GRADS = {"a": [[3.0, 0.0]], "b": [0.0, 4.0, 12.0]}  # norm sqrt(9 + 16 + 144) = 13


def place_all(backend, vectors):
    return {name: backend.from_host(np.asarray(v, np.float32)) for name, v in vectors.items()}


def test_count_adds_up_the_shapes():
    assert count_params(SPECS) == 300 * 200 + 200 + 3
    assert SPECS["a.weight"].size == 60_000


def test_the_norm_is_of_all_tensors_together(backend):
    norm = global_norm(place_all(backend, GRADS))
    assert_on(backend, norm, dtype="float32", shape=())
    assert to_numpy(backend, norm) == 13.0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_bad_number_shows_in_the_norm(numpy_backend, bad):
    grads = place_all(numpy_backend, GRADS | {"c": [1.0, bad]})
    assert not np.isfinite(global_norm(grads))


def test_smollm2_has_as_many_parameters_as_its_model_card_says():
    config = make_config(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    assert count_params(param_specs(config)) == 134_515_008


@pytest.mark.parametrize("keys", TINY_MODELS.values(), ids=TINY_MODELS)
def test_norms_and_biases_of_two_axes_are_no_matrices(keys):
    """Norms with a row for each head, biases with a row for each expert: weight decay and Muon leave them out."""
    for name, spec in param_specs(tiny_config(keys)).items():
        is_vector = "norm" in name or name.endswith(("bias", "sinks"))
        assert spec.decays is not is_vector
        is_inside = len(spec.shape) == 2 and ".layers." in name
        assert spec.is_hidden_matrix is (is_inside and not is_vector)


def test_kinds_of_initialisation(numpy_backend):
    params = init_params(make_runtime(numpy_backend, "fp64"), SPECS, seed=0)
    assert (params["b.weight"] == 1).all()
    assert (params["b.bias"] == 0).all()
    drawn = params["a.weight"]
    # 60,000 draws: mean and deviation are within 5 standard errors.
    assert abs(drawn.mean()) < 5 * 0.5 / 60_000**0.5
    assert drawn.std() == pytest.approx(0.5, abs=5 * 0.5 / 120_000**0.5)


def test_a_draw_depends_on_seed_and_name_alone(numpy_backend):
    rt = make_runtime(numpy_backend, "fp32")
    whole = init_params(rt, SPECS, seed=7)
    alone = init_params(rt, {"a.weight": SPECS["a.weight"]}, seed=7)
    np.testing.assert_array_equal(whole["a.weight"], alone["a.weight"])

    renamed = init_params(rt, {"c": ParamSpec("c", (300, 200), "normal", 0.5)}, seed=7)
    reseeded = init_params(rt, SPECS, seed=8)
    assert (whole["a.weight"] != renamed["c"]).mean() > 0.99
    assert (whole["a.weight"] != reseeded["a.weight"]).mean() > 0.99


def test_draws_are_equal_on_every_backend(backend):
    expected = init_params(make_runtime(load_backend("numpy"), "fp32"), SPECS, seed=1)
    params = init_params(make_runtime(backend, "fp32"), SPECS, seed=1)
    for name, spec in SPECS.items():
        assert_on(backend, params[name], dtype="float32", shape=spec.shape)
        np.testing.assert_array_equal(backend.to_host(params[name]), expected[name])


@pytest.mark.parametrize("policy", ["fp16", "bf16", "bf16,param=fp32"])
def test_parameters_have_the_policys_dtype(numpy_backend, policy):
    rt = make_runtime(numpy_backend, policy)
    place = Place(numpy_backend, rt.policy.param)
    for name, array in init_params(rt, SPECS, seed=1).items():
        assert_on(numpy_backend, array, dtype=place.dtype, shape=SPECS[name].shape)
