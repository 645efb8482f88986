"""The table of rules, and the errors that keep it honest."""

import jax
import pytest
from jax.sharding import PartitionSpec

from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.parallel.sharding import RULES, parameter_shardings, spec
from jaxseq.tasks.language_model import LanguageModel

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def test_names_become_mesh_axes():
    mesh = MESH.build(4)
    assert spec(("embed", "mlp"), (8, 32), mesh) == PartitionSpec("fsdp", "tensor")
    assert spec(("layers", "norm"), (3, 8), mesh) == PartitionSpec(None, None)
    assert spec(("batch", None), (4, 7), mesh) == PartitionSpec(("data", "fsdp"), None)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (("embed", "embed"), (8, 8), "'embed' and 'embed' .* mesh axis 'fsdp'"),
        (("heads", "mlp"), (8, 8), "'heads' and 'mlp' .* mesh axis 'tensor'"),
        (("vocab",), (65,), "'vocab' of size 65 does not divide over mesh axis tensor of size 2"),
        (("width",), (8,), "no sharding rule for logical axis 'width'"),
    ],
)
def test_errors_name_the_axes(axes, shape, message):
    with pytest.raises(UserError, match=message):
        spec(axes, shape, MESH.build(4))


def test_a_rule_can_be_changed():
    assert spec(("embed",), (8,), MESH.build(4), {**RULES, "embed": None}) == PartitionSpec(None)


def test_golden_shardings_of_a_gpt():
    """A changed axis name or rule is a visible difference here."""
    config = GPTConfig(num_layers=2, tie_embeddings=False).resolve(vocab_size=64, context=16)
    boxed = jax.eval_shape(lambda key: LanguageModel().init(config, key), jax.random.key(0))
    placed = parameter_shardings(boxed, MESH.build(4))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(sharding.spec)
        for path, sharding in jax.tree_util.tree_leaves_with_path(placed)
    }
    into, out = (None, "fsdp", "tensor"), (None, "tensor", "fsdp")
    expected = {
        "embedding/table": ("tensor", "fsdp"),
        "position_embedding/table": (None, "fsdp"),
        "output/kernel": ("fsdp", "tensor"),
        "final_norm/scale": (None,),
        "final_norm/bias": (None,),
        "blocks/attention/out/kernel": out,
        "blocks/attention/out/bias": (None, "fsdp"),
        "blocks/mlp/in/kernel": into,
        "blocks/mlp/in/bias": (None, "tensor"),
        "blocks/mlp/out/kernel": out,
        "blocks/mlp/out/bias": (None, "fsdp"),
    }
    for name in ("query", "key", "value"):
        expected[f"blocks/attention/{name}/kernel"] = into
        expected[f"blocks/attention/{name}/bias"] = (None, "tensor")
    for name in ("attention_norm", "mlp_norm"):
        expected[f"blocks/{name}/scale"] = expected[f"blocks/{name}/bias"] = (None, None)
    assert found == expected
