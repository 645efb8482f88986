"""What is read off compiled programs: of this CPU, and of a TPU's kept as text."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseq.planning.hlo import parse
from jaxseq.planning.hlo_costs import program_costs

ENTRY = (
    "HloModule m, is_scheduled=true\n\n{others}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{lines}\n}}"
)


def program(lines: str, others: str = "") -> str:
    return ENTRY.format(lines=lines, others=others)


@pytest.fixture(scope="module")
def trained():
    """A scan over 5 layers and its gradient on a mesh of 4 x 2."""
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    place = partial(NamedSharding, mesh)

    def loss(weights, x):
        def layer(x, weight):
            y = jnp.tanh(jnp.matmul(x, weight))
            return jax.lax.with_sharding_constraint(y, place(PartitionSpec("data"))), None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0] ** 2)

    weights = jax.ShapeDtypeStruct(
        (5, 64, 64), jnp.float32, sharding=place(PartitionSpec(None, None, "tensor"))
    )
    x = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=place(PartitionSpec("data")))
    return jax.jit(jax.grad(loss)).lower(weights, x).compile().as_text()


def test_a_loop_counts_as_often_as_it_turns(trained):
    """Forward, and two products backward but for the first layer's input: 2 x M K N / 8 each."""
    one = 2 * 32 * 64 * 64 // 8
    found = program_costs(trained)
    assert found.flops in (5 * 3 * one, (5 * 3 - 1) * one)
    assert found.unknown == ()


def test_collectives_say_along_which_devices(trained):
    found = program_costs(trained).collectives
    reduced = [each for each in found if each.kind == "all-reduce" and each.times == 5]
    # Of the gradient of a weight, over those with other rows: (64, 32) of float32.
    assert any(each.group == (0, 2, 4, 6) and each.bytes == 64 * 32 * 4 for each in reduced)
    assert any(each.group == (0, 1) for each in found)


def test_without_an_entry_there_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule m")


def test_a_convolution_counts_what_is_not_padding():
    text = program(
        """
  %p = bf16[4,512,1]{2,1,0} parameter(0)
  %w = bf16[512,128,2]{2,1,0} parameter(1)
  ROOT %c = f32[4,128,2]{2,1,0} convolution(%p, %w), window={size=2 pad=1_1}, \
dim_labels=bf0_io0->bf0"""
    )
    # Two outputs, each of which meets the one input with one of the window's two places.
    assert program_costs(text).flops == 2 * 4 * 512 * 128 * 2


@pytest.mark.parametrize(
    ("window", "sizes"),
    [
        ("size=3 stride=2 pad=1_1", (9, 3, 5)),
        ("size=3 pad=2_2 rhs_dilate=2", (7, 3, 7)),
        ("size=2 pad=1_0 lhs_dilate=3", (4, 2, 10)),
    ],
)
def test_places_of_a_window_by_enumeration(window, sizes):
    left, places, out = sizes
    parts = dict(part.split("=") for part in window.split())
    stride, dilation = int(parts.get("stride", 1)), int(parts.get("rhs_dilate", 1))
    spread, before = int(parts.get("lhs_dilate", 1)), int(parts["pad"].split("_")[0])
    inputs = set(range(0, left * spread, spread))
    met = sum(
        o * stride + p * dilation - before in inputs for o in range(out) for p in range(places)
    )
    text = program(f"""
  %p = f32[1,1,{left}]{{2,1,0}} parameter(0)
  %w = f32[1,1,{places}]{{2,1,0}} parameter(1)
  ROOT %c = f32[1,1,{out}]{{2,1,0}} convolution(%p, %w), window={{{window}}}, \
dim_labels=bf0_io0->bf0""")
    assert program_costs(text).flops == 2 * met


def test_a_loop_whose_count_stands_in_its_condition():
    others = """
%body (s: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %s = (s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[4,4]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %y = f32[4,4]{1,0:T(8,128)} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %one = s32[] constant(1)
  %j = s32[] add(%i, %one)
  ROOT %t = (s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)}) tuple(%j, %y)
}

%condition (s.1: (s32[], f32[4,4])) -> pred[] {
  %s.1 = (s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(7)
  %i.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n), direction=LT
}
"""
    lines = """
  %x.1 = f32[4,4]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(START)
  %start = (s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)}) tuple(%zero, %x.1)
  ROOT %w = (s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)}) while(%start), condition=%condition, \
body=%body"""
    assert program_costs(program(lines.replace("START", "0"), others)).flops == 7 * 2 * 4**3
    assert program_costs(program(lines.replace("START", "2"), others)).flops == 5 * 2 * 4**3
    by_two = others.replace("constant(1)", "constant(2)")
    assert program_costs(program(lines.replace("START", "0"), by_two)).flops == 4 * 2 * 4**3
    unknown = others.replace("constant(7)", "add(%i.1, %i.1)")
    found = program_costs(program(lines.replace("START", "0"), unknown))
    assert found.flops == 2 * 4**3
    assert found.unknown == ("loop w, counted once (1 times)",)


def test_a_loop_that_a_causal_mask_shortens_counts_whole():
    """As often as it turns at most: its end depends on the loop around it."""

    def row(total, i):
        def add(j, x):
            return x + jnp.matmul(x, x) * j

        end = jnp.minimum(jnp.maximum(0, i // 2 + 1), 6)
        return jax.lax.fori_loop(0, end, add, total), None

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    compiled = jax.jit(lambda x, n: jax.lax.scan(row, x, jnp.arange(n))[0], static_argnums=1)
    found = program_costs(compiled.lower(x, 16).compile().as_text())
    assert found.unknown == ()
    assert found.flops == 16 * 6 * 2 * 8**3


def test_bytes_are_those_of_main_memory():
    """A slice of a large array is read, a part of one written; a cache on the chip is free."""
    others = """
%cut (a: f32[100,64], i: s32[]) -> f32[1,64] {
  %a = f32[100,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %d = f32[1,64]{1,0} dynamic-slice(%a, %i), dynamic_slice_sizes={1,64}
}

%put (b: f32[100,64], u: f32[1,64], j: s32[]) -> f32[100,64] {
  %b = f32[100,64]{1,0} parameter(0)
  %u = f32[1,64]{1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %e = f32[100,64]{1,0} dynamic-update-slice(%b, %u, %j)
}
"""
    lines = """
  %big = f32[100,64]{1,0} parameter(0)
  %k = s32[]{:S(2)} parameter(1)
  %row = f32[1,64]{1,0:T(1,128)S(1)} fusion(%big, %k), kind=kLoop, calls=%cut
  %sum = f32[1,64]{1,0:T(1,128)S(1)} add(%row, %row)
  ROOT %new = f32[100,64]{1,0} fusion(%big, %sum, %k), kind=kLoop, calls=%put"""
    found = {each.name: each.bytes for each in program_costs(program(lines, others)).operations}
    assert found == {"row": 256, "new": 256}


GROUPS = {
    "replica_groups={{0,2},{1,3}}": (0, 2),
    "replica_groups=[4,2]<=[8]": (0, 1),
    "replica_groups=[2,4]<=[4,2]T(1,0)": (0, 2, 4, 6),
    "replica_groups=mesh['data'=1,'fsdp'=4,'tensor'=2] {'fsdp'}": (0, 2, 4, 6),
    "replica_groups=mesh['a'=4,'b'=2] {'a':(1)2}": (0, 4),
    "replica_groups=mesh['a'=4,'b'=2] {'a':(2)2,'b'}": (0, 1, 2, 3),
    "replica_groups={}": (),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_in_every_spelling(groups):
    lines = f"""
  %p = f32[8]{{0}} parameter(0)
  ROOT %r = f32[8]{{0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add"""
    (found,) = program_costs(program(lines)).collectives
    assert (found.kind, found.bytes, found.group, found.hidden) == (
        "all-reduce", 32, GROUPS[groups], False,
    )  # fmt: skip


def test_exchanges_that_other_work_hides_count_once():
    """A TPU spreads one over several kernels, and sums that are divided look like sums."""
    others = """
%first (a: f32[4], x: f32[4,4]) -> f32[8] {
  %a = f32[4]{0} parameter(0)
  %x = f32[4,4]{1,0} parameter(1)
  %d = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %g = f32[8]{0} all-gather(%a), channel_id=3, replica_groups=[1,2]<=[2], dimensions={0}
}

%second (b: f32[4]) -> f32[8] {
  %b = f32[4]{0} parameter(0)
  ROOT %h = f32[8]{0} all-gather(%b), channel_id=3, replica_groups=[1,2]<=[2], dimensions={0}
}

%all-reduce-scatter.1 (c: f32[8]) -> f32[4] {
  %c = f32[8]{0} parameter(0)
  %r = f32[8]{0} all-reduce(%c), channel_id=4, replica_groups=[1,2]<=[2], to_apply=%add
  %z = s32[] constant(0)
  ROOT %s = f32[4]{0} dynamic-slice(%r, %z), dynamic_slice_sizes={4}
}
"""
    lines = """
  %p = f32[4]{0} parameter(0)
  %q = f32[4,4]{1,0} parameter(1)
  %one = f32[8]{0} fusion(%p, %q), kind=kOutput, calls=%first
  %two = f32[8]{0} fusion(%p), kind=kCustom, calls=%second
  %start = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}) collective-permute-start(%two), channel_id=5, \
source_target_pairs={{0,1},{1,0}}
  %done = f32[8]{0} collective-permute-done(%start)
  ROOT %sum = f32[4]{0} fusion(%done), kind=kCustom, calls=%all-reduce-scatter.1"""
    found = {each.kind: each for each in program_costs(program(lines, others)).collectives}
    assert {kind: (each.bytes, each.hidden) for kind, each in found.items()} == {
        "all-gather": (16, True),
        "collective-permute": (32, True),
        "reduce-scatter": (32, False),
    }
    assert found["collective-permute"].group == (0, 1, 1, 0)


def test_kernels_of_libraries():
    """Products that are calls; attention as if its mask hid nothing; and one that nobody knows."""
    lines = """
  %a = f32[32,64]{1,0} parameter(0)
  %b = f32[64,16]{1,0} parameter(1)
  %m = f32[32,16]{1,0} custom-call(%a, %b), custom_call_target="__onednn$matmul"
  %q = bf16[2,8,128,64]{3,2,1,0} parameter(2)
  %k = bf16[2,4,256,64]{3,2,1,0} parameter(3)
  %splash_mha_fwd.1 = bf16[2,8,128,64]{3,2,1,0} custom-call(%q, %k, %k), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, backend_config={}
  ROOT %mine.3 = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call\""""
    found = program_costs(program(lines))
    attention = 2 * 2 * np.prod((2, 8, 128, 256, 64))
    assert found.flops == 2 * 32 * 64 * 16 + attention
    assert found.unknown == ("mine (1 times)",)
