"""The table of rules, what it does to arrays under a mesh, and the errors that keep it honest."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jaxseq.errors import UserError
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.parallel.rules import RULES, constrain, mesh_axes, mesh_size, pipeline_ticks, spec

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def test_names_become_mesh_axes() -> None:
    mesh = MESH.build(4).mesh
    assert spec(("embed", "mlp"), (8, 32), mesh) == PartitionSpec("fsdp", "tensor")
    assert spec(("layers", "norm"), (3, 8), mesh) == PartitionSpec("stage", None)
    assert spec(("expert", None), (4, 7), mesh) == PartitionSpec("expert", None)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (("embed", "embed"), (8, 8), "'embed' and 'embed' .* mesh axis 'fsdp'"),
        (("heads", "mlp"), (8, 8), "'heads' and 'mlp' .* mesh axis 'tensor'"),
        (("vocab",), (65,), "'vocab' of size 65 does not divide over mesh axis tensor of size 2"),
        (("width",), (8,), "no sharding rule for logical axis 'width'"),
    ],
)
def test_errors_name_the_axes(axes, shape, message) -> None:
    with pytest.raises(UserError, match=message):
        spec(axes, shape, MESH.build(4).mesh)


def test_a_rule_can_be_changed() -> None:
    layout = MeshConfig(data=2, fsdp=2, tensor=2, rules=("embed=", "mlp=fsdp,tensor")).build(4)
    assert spec(("embed", "mlp"), (8, 8), layout.mesh, layout.rules) == PartitionSpec(
        None, ("fsdp", "tensor")
    )
    assert RULES["embed"] == "fsdp", "the table itself stays"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("embedd=fsdp", "embedd=fsdp: a rule is .* did you mean 'embed'"),
        ("embed=fsdq", "no mesh axis; did you mean 'fsdp'"),
        ("embed", "a rule is NAME=AXES"),
    ],
)
def test_a_wrong_rule_is_told_from_its_neighbours(rule, message) -> None:
    with pytest.raises(UserError, match=message):
        MeshConfig(rules=(rule,)).build(8)


def placed(layout, shape, *names) -> PartitionSpec:
    with layout.use():
        return jax.jit(lambda x: constrain(x, *names))(jnp.zeros(shape)).sharding.spec


def test_activations_lie_by_their_names() -> None:
    layout = MESH.build(4)
    assert placed(layout, (4, 6, 8), "batch", "residual_time", None) == PartitionSpec(
        ("data", "fsdp"), "tensor"
    )
    # An odd time is whole, and so is the axis behind one that has taken the mesh axis.
    assert placed(layout, (4, 7, 8), "batch", "residual_time", "mlp") == PartitionSpec(
        ("data", "fsdp"), None, "tensor"
    )
    assert placed(layout, (4, 6, 8), None, "residual_time", "mlp") == PartitionSpec(None, "tensor")


def test_ops_ask_which_axes_are_theirs() -> None:
    with MeshConfig(data=2, fsdp=2, tensor=2, microbatches=4).build(4).use():
        assert mesh_axes("batch", 8) == ("data", "fsdp")
        assert mesh_axes("batch", 6) == ()
        assert (mesh_size("tensor"), mesh_size("stage"), pipeline_ticks()) == (2, 1, (4, 1))

        def inside(x):
            assert mesh_axes("batch", 8) == ("fsdp",), "data is the shard_map's"
            assert mesh_size("data") == 1
            return x

        where = {"in_specs": PartitionSpec("data"), "out_specs": PartitionSpec("data")}
        jax.jit(jax.shard_map(inside, **where, axis_names={"data"}))(jnp.zeros(8))


def test_without_a_mesh_nothing_is_divided() -> None:
    x = jnp.zeros((2, 4))
    assert constrain(x, "batch", "mlp") is x
    assert mesh_axes("batch", 8) == ()
    assert (mesh_size("context"), pipeline_ticks()) == (1, (0, 1))
