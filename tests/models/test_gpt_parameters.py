"""Every parameter of the default GPT: path, shape, logical axes and start, as golden tables.

A changed default is a visible change here. `parallel.sharding` maps the axis names to a mesh.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close
from small_gpt import CONFIGS, make_params

from jaxseq.models.gpt import GPT, GPTConfig, cut_vocabulary

DEFAULT = """
blocks/attention/key/bias            4 128        layers heads
blocks/attention/key/kernel          4 128 128    layers embed heads
blocks/attention/out/bias            4 128        layers embed
blocks/attention/out/kernel          4 128 128    layers heads embed
blocks/attention/query/bias          4 128        layers heads
blocks/attention/query/kernel        4 128 128    layers embed heads
blocks/attention/value/bias          4 128        layers heads
blocks/attention/value/kernel        4 128 128    layers embed heads
blocks/attention_norm/bias           4 128        layers norm
blocks/attention_norm/scale          4 128        layers norm
blocks/mlp/in/bias                   4 512        layers mlp
blocks/mlp/in/kernel                 4 128 512    layers embed mlp
blocks/mlp/out/bias                  4 128        layers embed
blocks/mlp/out/kernel                4 512 128    layers mlp embed
blocks/mlp_norm/bias                 4 128        layers norm
blocks/mlp_norm/scale                4 128        layers norm
embedding/table                      65 128       vocab embed
final_norm/bias                      128          norm
final_norm/scale                     128          norm
position_embedding/table             64 128       position embed
"""

LLAMA = """
blocks/attention/key/kernel          4 128 64     layers embed heads
blocks/attention/key_norm/scale      4 32         layers norm
blocks/attention/out/kernel          4 128 128    layers heads embed
blocks/attention/query/kernel        4 128 128    layers embed heads
blocks/attention/query_norm/scale    4 32         layers norm
blocks/attention/value/kernel        4 128 64     layers embed heads
blocks/attention_norm/scale          4 128        layers norm
blocks/mlp/gate/kernel               4 128 512    layers embed mlp
blocks/mlp/in/kernel                 4 128 512    layers embed mlp
blocks/mlp/out/kernel                4 512 128    layers mlp embed
blocks/mlp_norm/scale                4 128        layers norm
embedding/table                      65 128       vocab embed
final_norm/scale                     128          norm
output/kernel                        128 65       embed vocab
"""


def describe(config: GPTConfig) -> str:
    config = config.resolve(vocab_size=65, context=64)
    tokens = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens)["params"]
    boxes = jax.tree_util.tree_leaves_with_path(
        shapes, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
    lines = []
    for path, box in boxes:
        assert box.value.dtype == jnp.float32
        assert len(box.names) == len(box.value.shape)
        name = "/".join(key.key for key in path)
        shape = " ".join(map(str, box.value.shape))
        lines.append(f"{name:<36} {shape:<12} {' '.join(box.names)}")
    return "\n".join(sorted(lines))


def test_default_parameters() -> None:
    assert describe(GPTConfig()) == DEFAULT.strip()


def test_llama_shaped_parameters() -> None:
    config = GPTConfig(
        num_kv_heads=2,
        positions="rotary",
        norm="rms",
        activation="swiglu",
        qk_norm=True,
        use_bias=False,
        tie_embeddings=False,
    )
    assert describe(config) == LLAMA.strip()


def test_compute_dtype_changes_no_parameter() -> None:
    assert describe(GPTConfig(dtype="bfloat16")) == DEFAULT.strip()


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    config = dataclasses.replace(GPTConfig(), num_layers=2).resolve(vocab_size=65, context=16)
    tokens = jax.random.randint(jax.random.key(1), (4, 16), 0, 65)

    @jax.jit
    def start(key):
        variables = nn.unbox(GPT(config).init(key, tokens))
        kernels = {
            name: variables["params"]["blocks"]["mlp"][name]["kernel"].std()
            for name in ("in", "out")
        }
        return kernels, jax.nn.log_softmax(GPT(config).apply(variables, tokens[:, :-1]))

    kernels, log_probabilities = start(jax.random.key(0))
    chosen = jnp.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1)
    assert abs(-chosen.mean() - math.log(65)) < 0.1
    # The weights that write into the residual start smaller: 0.02 / sqrt(2 layers x 2).
    np.testing.assert_allclose(kernels["in"], 0.02, rtol=0.02)
    np.testing.assert_allclose(kernels["out"], 0.01, rtol=0.02)


@pytest.mark.parametrize("name", ["gpt-2", "llama"])
def test_a_cut_vocabulary_leaves_the_other_logits_as_they_are(name: str) -> None:
    config, params = CONFIGS[name], make_params(CONFIGS[name])
    tokens = jnp.array([[3, 0, 7]])
    whole = jax.jit(GPT(config).apply)({"params": params}, tokens)
    config, params = cut_vocabulary(config, params, 8)
    cut = jax.jit(GPT(config).apply)({"params": params}, tokens)
    # A narrower product may add up in another order.
    assert_close(cut, whole[..., :8], "float32")
