"""The shardings of a tree of parameters, and what of it is left whole."""

import jax
import pytest

from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.parallel.sharding import whole_on_every_device
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.state import abstract_params


def shapes(vocab_size, mesh):
    config = GPTConfig(num_layers=2, width=64).resolve(vocab_size=vocab_size, context=16)
    return flatten(abstract_params(lambda key: LanguageModel().init(config, key), mesh.build(8)))


def test_an_error_names_the_parameter() -> None:
    with pytest.raises(UserError, match="embedding/table: logical axis 'vocab' of size 65 "):
        shapes(65, MeshConfig(tensor=2))


def test_the_share_that_is_whole_and_the_largest_of_it() -> None:
    params = shapes(64, MeshConfig(data=1, fsdp=4, tensor=2))
    norms = {path: leaf.size for path, leaf in params.items() if "norm" in path}
    share, largest = whole_on_every_device(params)
    assert share == sum(norms.values()) / sum(leaf.size for leaf in params.values())
    assert norms[largest] == max(norms.values())
    assert whole_on_every_device({"a": params["embedding/table"]}) == (0, "")
    assert whole_on_every_device(shapes(64, MeshConfig(data=8)))[0] == 1


def test_jax_agrees_on_what_a_device_holds() -> None:
    kernel = shapes(64, MeshConfig(data=1, fsdp=4, tensor=2))["blocks/mlp/in/kernel"]
    assert kernel.shape == (2, 64, 256)
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 128)
    assert isinstance(kernel, jax.ShapeDtypeStruct)
