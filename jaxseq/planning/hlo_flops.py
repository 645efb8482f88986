"""Floating-point operations of one instruction of a compiled program.

Counted are products of matrices, in whatever form a compiler writes them: as dots, as convolutions
(TPUs), as calls of a library (CPUs and GPUs) or of an attention kernel. 2 operations for each
multiplication and addition. Attention kernels count as if their mask hid nothing, as model FLOPs
do (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

import math
import re

from jaxseq.planning.hlo import Instruction, Shape

ATTENTION = {
    "splash_mha_fwd": 2,  # Q K^T and P V
    "splash_mha_dkv": 4,  # Q K^T again, and dO V^T, P^T dO, dS^T Q
    "splash_mha_dq": 3,  # Q K^T again, and dO V^T, dS K
    "fmhaSoftmaxBackward": 5,
    "fmhaSoftmax": 2,
}
"""How many products of T x S scores the kernels of attention make, by a part of their names."""

_MATMULS = re.compile(r"__onednn\$matmul|__cublas|gemm|matmul", re.IGNORECASE)


def flops(instruction: Instruction, operands: list[Shape]) -> int | None:
    """Operations of an instruction that reads `operands`; None for a kernel that nobody knows."""
    match instruction.opcode:
        case "dot":
            contracted = instruction.numbers("lhs_contracting_dims")
            depth = math.prod(operands[0].dims[axis] for axis in contracted)
            return 2 * instruction.shapes[0].elements * depth
        case "convolution":
            return _convolution(instruction, *operands[:2])
        case "custom-call":
            return _call(instruction, operands)
    return 0


def _call(instruction: Instruction, operands: list[Shape]) -> int | None:
    target = (instruction.attribute("custom_call_target") or "").strip('"')
    name = f"{target} {instruction.name}"
    for part, products in ATTENTION.items():
        if part in name:
            arrays = [shape for shape in operands if len(shape.dims) >= 3 and shape.dims[-1] > 1]
            floats = [shape for shape in arrays if "f" in shape.dtype]
            if len(floats) < 2:
                return None
            query, key = floats[:2]
            # S = |K| / (batch x heads x H), the heads of which are the axes but two.
            length = max(key.dims[-2], key.dims[-3])
            return products * 2 * query.elements * length
    if _MATMULS.search(target) and len(operands) >= 2:
        left, right = operands[:2]
        out = instruction.shapes[0]
        batch = math.prod(out.dims[:-2]) if len(right.dims) > 2 else 1
        if not (out.elements and batch):
            return 0
        # |A| = b m k, |B| = b k n, |C| = b m n
        return (
            2 * out.elements * math.isqrt(left.elements * right.elements // (out.elements * batch))
        )
    return None if target in ("tpu_custom_call", "__gpu$xla.gpu.triton") else 0


def _convolution(instruction: Instruction, left: Shape, right: Shape) -> int:
    """2 x outputs x inputs of each, positions that only padding fills left out.

    A TPU's matmul is a convolution whose window slides over batch axes with so much padding that
    most of its positions fall outside: they must not be counted.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"convolution {instruction.name} has no dim_labels")
    out = instruction.shapes[0]
    positions = 1
    window = _window(instruction)
    for axis in range(len(labels[1]) - 2):
        sizes = (
            shape.dims[label.index(str(axis))]
            for shape, label in zip((left, right, out), labels.groups(), strict=True)
        )
        positions *= _pairs(*sizes, *(along[axis] for along in window))
    batch, features = (out.dims[labels[3].index(letter)] for letter in "bf")
    return 2 * batch * features * right.dims[labels[2].index("i")] * positions


def _window(instruction: Instruction) -> list[list[int]]:
    """stride, padding before, dilation of the left side and of the window, along each axis."""
    text = instruction.attribute("window") or ""
    size = re.search(r"\bsize=([\dx]+)", text)
    axes = len(size[1].split("x")) if size else 0
    found = []
    for name, default in (
        ("stride", "1"),
        ("pad", "0_0"),
        ("lhs_dilate", "1"),
        ("rhs_dilate", "1"),
    ):
        match = re.search(rf"\b{name}=([\d_x-]+)", text)
        parts = match[1].split("x") if match else [default] * axes
        found.append([int(part.split("_")[0]) for part in parts])
    return found


def _pairs(
    left: int, window: int, out: int, stride: int, pad: int, left_dilation: int, dilation: int
) -> int:
    """How many pairs of an output and a place in the window meet an input, along one axis."""
    count = 0
    for place in range(window):
        offset = place * dilation - pad  # the input is at output * stride + offset
        if left_dilation > 1:
            inputs = (output * stride + offset for output in range(out))
            count += sum(
                1 for x in inputs if x % left_dilation == 0 and 0 <= x // left_dilation < left
            )
        else:
            first = max(-(offset // stride), 0)  # ceil(-offset / stride)
            last = min((left - 1 - offset) // stride, out - 1)
            count += max(last - first + 1, 0)
    return count
