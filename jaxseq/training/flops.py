"""Model FLOPs: the products of matrices that a model's mathematics asks for, counted before a run.

They are counted over the traced program, whatever the model: no formula per architecture. What is
counted is what the mathematics asks for, not what one platform does: of forms chosen by platform
the plain one, and nothing twice that is only computed again to save memory. Attention under a
causal mask counts whole, as in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), so that
figures compare with those of the literature. Additions, exponentials and lookups are left out.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from jaxseq.training.state import join, split
from jaxseq.typing import PyTree

NO_MESH = jax.sharding.AbstractMesh((), ())


def matmul_flops(function: Callable[..., Any], *arguments: PyTree) -> int:
    """Floating-point operations of the matrix products and convolutions in `function(*arguments)`.

    A product of (M, K) and (K, N) is 2 M K N, one of ragged groups with M rows altogether too.
    `arguments` are trees of arrays or of their shapes; nothing is computed. Scans count as often
    as they run, of a condition's branches the largest, the body of a `while_loop` once: how often
    it runs is not in the program (`fori_loop` between numbers is a scan).
    """
    return _trace_and_count(function, arguments, [False] * len(arguments))


def training_flops(
    task: Any, model: Any, params: PyTree, batch: PyTree, frozen: Collection[str] = ()
) -> int:
    """Model FLOPs of one training step: those of the task's loss and of its gradient.

    The gradient of a product is one product of the same size for each of its two factors that
    depends on a trained parameter: three times the forward pass where everything trains, less
    where parameters whose paths are in `frozen` stay as they are. `params` and `batch` are trees
    of arrays or of their shapes, and the batch is that of a whole step.
    """
    if hasattr(model, "attention_backend"):
        # Others leave out what a causal mask hides, each its own share of it.
        model = dataclasses.replace(model, attention_backend="dense")

    def loss(trained: PyTree, fixed: PyTree, batch: PyTree) -> Any:
        return task.loss(model, join(trained, fixed), batch, None)

    trained, fixed = split(params, frozen)
    return _trace_and_count(loss, (trained, fixed, batch), [True, False, False])


def _trace_and_count(
    function: Callable[..., Any], arguments: Sequence[PyTree], trained: Sequence[bool]
) -> int:
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    with jax.sharding.use_abstract_mesh(NO_MESH):  # ops then are as they are on one device
        jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    leaves = [len(jax.tree.leaves(argument)) for argument in shapes]
    varied = [flag for flag, count in zip(trained, leaves, strict=True) for _ in range(count)]
    return _count(jaxpr, varied)[0]


# A value is varied if it depends on a trained parameter, so that a gradient passes through it.
Counted = tuple[int, list[bool]]
"""FLOPs, and which outputs are varied."""


def _count(jaxpr: Jaxpr, varied: Sequence[bool]) -> Counted:
    """What a program with such inputs costs, forward and backward."""
    is_varied = dict(zip(jaxpr.invars, varied, strict=True))
    flops = 0
    for equation in jaxpr.eqns:
        inputs = [not isinstance(x, Literal) and is_varied.get(x, False) for x in equation.invars]
        cost, outputs = _count_equation(equation, inputs)
        flops += cost
        for variable, output in zip(equation.outvars, outputs, strict=True):
            is_varied[variable] = output and _is_differentiable(variable)
    return flops, [not isinstance(x, Literal) and is_varied.get(x, False) for x in jaxpr.outvars]


def _count_equation(equation: JaxprEqn, varied: list[bool]) -> Counted:
    params, outputs = equation.params, len(equation.outvars)
    match equation.primitive.name:
        case "dot_general" | "ragged_dot_general" | "conv_general_dilated":
            return _product(equation) * (1 + sum(varied[:2])), [any(varied[:2])]
        case "stop_gradient":
            return 0, [False] * outputs
        case "cond":
            return _condition(params, varied)
        case "scan":
            return _scan(equation, varied)
        case "while":
            body = _program(params["body_jaxpr"])
            return _loop(body, varied[-len(body.invars) :], len(body.invars) - outputs, outputs)
    programs = list(jaxprs_in_params(params))
    if len(programs) == 1 and len(programs[0].invars) == len(varied):
        flops, flags = _count(programs[0], varied)
    else:  # a kernel, whose inputs and outputs are others than its equation's
        flags = [any(varied)] * outputs
        flops = sum(_count(each, [any(varied)] * len(each.invars))[0] for each in programs)
    return _instances(equation) * flops, flags


# --- The products --------------------------------------------------------------------------------


def _product(equation: JaxprEqn) -> int:
    left, right = map(_shape, equation.invars[:2])
    params = equation.params
    match equation.primitive.name:
        case "dot_general":
            return _dot(left, right, params["dimension_numbers"])
        case "ragged_dot_general":  # each row on the left meets the matrix of its own group alone
            numbers = params["ragged_dot_dimension_numbers"]
            groups = math.prod(right[axis] for axis in numbers.rhs_group_dimensions)
            return _dot(left, right, numbers.dot_dimension_numbers) // groups
    # Zeros between the inputs of a transposed convolution are no work.
    kernel = math.prod(right) // right[params["dimension_numbers"].rhs_spec[0]]
    output = math.prod(_shape(equation.outvars[0])) // math.prod(params["lhs_dilation"])
    return 2 * output * kernel


def _dot(left: tuple[int, ...], right: tuple[int, ...], numbers: Any) -> int:
    (_, contracted), (_, batch) = numbers
    free = math.prod(n for axis, n in enumerate(right) if axis not in (*contracted, *batch))
    return 2 * math.prod(left) * free


# --- Programs in equations -----------------------------------------------------------------------


def _condition(params: dict[str, Any], varied: list[bool]) -> Counted:
    """The plain form where the platform decides, else the branch that costs most."""
    branches = [_program(branch) for branch in params["branches"]]
    platforms = params.get("branches_platforms") or ()
    if None in platforms:
        branches = [branches[platforms.index(None)]]
    results = [_count(branch, varied[1:]) for branch in branches]
    outputs = [any(flags) for flags in zip(*(flags for _, flags in results), strict=True)]
    return max(flops for flops, _ in results), outputs


def _scan(equation: JaxprEqn, varied: list[bool]) -> Counted:
    """Its constants, carry and sequences are told apart by their ranks, in every JAX version."""
    body = _program(equation.params["jaxpr"])
    carried = sum(map(_same_rank, equation.outvars, body.outvars))
    sequences = len(body.invars) - sum(map(_same_rank, equation.invars, body.invars))
    flops, outputs = _loop(body, varied, len(varied) - sequences - carried, carried)
    return equation.params["length"] * flops, outputs


def _loop(body: Jaxpr, varied: list[bool], first: int, carried: int) -> Counted:
    """One turn of a loop whose `carried` inputs, from `first` on, are its first outputs.

    What one turn makes varied is so in the next.
    """
    varied = list(varied)
    while True:
        flops, outputs = _count(body, varied)
        before = varied[first : first + carried]
        after = [a or b for a, b in zip(before, outputs[:carried], strict=True)]
        if after == before:
            return flops, outputs
        varied[first : first + carried] = after


def _instances(equation: JaxprEqn) -> int:
    """How often a program in an equation runs: on how many devices, over how large a grid."""
    match equation.primitive.name:
        case "shard_map":
            shape = equation.params["mesh"].shape
            axes = equation.params["newly_manual_axes"]
            return math.prod(shape[axis] for axis in axes)
        case "pallas_call":
            grid = equation.params["grid_mapping"].grid
            return math.prod(size for size in grid if isinstance(size, int))
    return 1


def _program(jaxpr: Any) -> Jaxpr:
    return getattr(jaxpr, "jaxpr", jaxpr)  # with or without its constants: versions differ


def _is_differentiable(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _same_rank(outside: Any, inside: Any) -> bool:
    return len(_shape(outside)) == len(_shape(inside))
