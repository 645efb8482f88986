"""Sampling speed beside Hugging Face `generate`: same weights, same shapes, batch 1, greedy.

    pip install -e ".[bench]" && python scripts/bench_sample.py

Every case first checks that both sides write the same tokens, then times whole generations in
turns, prompt included, compilation not. transformers runs on each number of threads by itself,
since more are often slower for one token. ratio = the seconds of transformers' best side of the
same round / this side's: above 1 is faster than the best of transformers.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from bench import machine

from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.typing import PyTree

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One model shape and how much it writes."""

    num_layers: int
    width: int
    num_heads: int
    vocab_size: int
    context: int
    new_tokens: int


CASES = {
    "laptop": Case(4, 128, 4, 65, 64, 56),
    "medium": Case(6, 384, 6, 65, 256, 240),
    "gpt2-small": Case(12, 768, 12, 50257, 1024, 64),
}


def bench_sample(
    cases: tuple[Literal["laptop", "medium", "gpt2-small"], ...] = (
        "laptop",
        "medium",
        "gpt2-small",
    ),
    prompt_lengths: tuple[int, ...] = (1, 8),
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16"),
    threads: tuple[int, ...] = (1, os.cpu_count() or 1),
    rounds: int = 11,
    seed: int = 0,
) -> None:
    """Times jaxseq beside Hugging Face transformers.

    Args:
        cases: Model shapes to time.
        prompt_lengths: Tokens that the model reads before it writes.
        dtypes: Compute dtypes, of both sides; tokens are compared in float32 alone.
        threads: Numbers of threads that transformers is timed with.
        rounds: Timed generations of each side, taken in turns.
        seed: Seed of the weights and the prompt.
    """
    print(machine("jax", "torch", "transformers"))
    for name in cases:
        case = CASES[name]
        print(f"\n{name}: {case}")
        params = init_params(case, seed)
        for length in prompt_lengths:
            tokens = np.random.default_rng(seed).integers(0, case.vocab_size, (1, length))
            bench_case(case, params, tokens, dtypes, threads, rounds)


def bench_case(
    case: Case,
    params: PyTree,
    prompt: np.ndarray,
    dtypes: Sequence[Dtype],
    threads: Sequence[int],
    rounds: int,
) -> None:
    """Checks and times one shape and prompt, and prints a line for each side."""
    ours = {f"jaxseq {d}": jaxseq_side(case, params, prompt, d) for d in dtypes}
    theirs = {
        f"transformers {d}, {n} threads": transformers_side(case, params, prompt, d, n)
        for d in dtypes
        for n in sorted(set(threads))
    }
    sides = {**ours, **theirs}
    written = {side: run() for side, run in sides.items()}
    exact = [tokens for side, tokens in written.items() if "float32" in side]
    if not all(np.array_equal(tokens, exact[0]) for tokens in exact):
        raise SystemExit(f"the two sides write different tokens, nothing is timed: {exact}")

    rows = []
    for _ in range(rounds):
        row = []
        for run in sides.values():
            start = time.perf_counter()
            run()
            row.append(time.perf_counter() - start)
        rows.append(row)
    seconds = dict(zip(sides, np.array(rows).T, strict=True))
    best = min((seconds[side] for side in theirs), key=np.median)

    batch_size, length = prompt.shape
    print(
        f"  batch {batch_size}, prompt {length}, {case.new_tokens} new tokens; "
        "float32 sides write the same"
    )
    for side, taken in seconds.items():
        low, middle, high = np.percentile(taken, (25, 50, 75))
        ratio_low, ratio, ratio_high = np.percentile(best / taken, (25, 50, 75))
        print(
            f"    {side:34s} {1e3 * middle:8.1f} ms [{1e3 * low:.1f}, {1e3 * high:.1f}]"
            f" {batch_size * case.new_tokens / middle:8.0f} tokens/s"
            f"   ratio {ratio:.2f} [{ratio_low:.2f}, {ratio_high:.2f}]"
        )


def jaxseq_side(
    case: Case, params: PyTree, prompt: np.ndarray, dtype: Dtype
) -> Callable[[], np.ndarray]:
    """A generation of ours, ready to be timed."""
    model = GPT(config_of(case, dtype))
    key, sampling = jax.random.key(0), SamplingConfig(temperature=0.0)
    tokens = jnp.asarray(prompt, jnp.int32)

    def run() -> np.ndarray:
        return np.asarray(
            generate(
                model,
                params,
                tokens,
                max_new_tokens=case.new_tokens,
                sampling=sampling,
                key=key,
            )
        )

    return run


def transformers_side(
    case: Case, params: PyTree, prompt: np.ndarray, dtype: Dtype, threads: int
) -> Callable[[], np.ndarray]:
    """A generation by transformers' GPT2LMHeadModel with our weights, ready to be timed."""
    config = transformers.GPT2Config(
        n_layer=case.num_layers,
        n_embd=case.width,
        n_head=case.num_heads,
        vocab_size=case.vocab_size,
        n_positions=case.context,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    missing, unexpected = model.load_state_dict(hugging_face_weights(params), strict=False)
    if set(missing) != {"lm_head.weight"} or unexpected:
        raise SystemExit(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model = model.to(getattr(torch, dtype))
    tokens = torch.tensor(prompt)

    def run() -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            text = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=case.new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )
        return text[:, tokens.shape[1] :].numpy()

    return run


def config_of(case: Case, dtype: Dtype = "float32") -> GPTConfig:
    """Our config of a case: GPT-2's choices are the defaults."""
    config = GPTConfig(
        num_layers=case.num_layers, width=case.width, num_heads=case.num_heads, dtype=dtype
    )
    return config.resolve(vocab_size=case.vocab_size, context=case.context)


def init_params(case: Case, seed: int) -> PyTree:
    """Random weights, biases and scales included so that a forgotten one is noticed."""
    model = GPT(config_of(case))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    shapes = nn.meta.unbox(shapes["params"])
    random = np.random.default_rng(seed)

    def draw(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(mean + 0.02 * random.standard_normal(shape.shape, np.float32))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def hugging_face_weights(params: PyTree) -> dict[str, torch.Tensor]:
    """Our parameters under the names and in the layout of GPT2LMHeadModel."""
    params = jax.tree.map(np.asarray, params)
    blocks, attention = params["blocks"], params["blocks"]["attention"]
    weights = {
        "wte.weight": params["embedding"]["table"],
        "wpe.weight": params["position_embedding"]["table"],
        "ln_f.weight": params["final_norm"]["scale"],
        "ln_f.bias": params["final_norm"]["bias"],
    }
    for layer in range(blocks["mlp_norm"]["scale"].shape[0]):
        for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            weights[f"h.{layer}.{theirs}.weight"] = blocks[ours]["scale"][layer]
            weights[f"h.{layer}.{theirs}.bias"] = blocks[ours]["bias"][layer]
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            projections = [attention[name][ours][layer] for name in ("query", "key", "value")]
            weights[f"h.{layer}.attn.c_attn.{theirs}"] = np.concatenate(projections, axis=-1)
            weights[f"h.{layer}.attn.c_proj.{theirs}"] = attention["out"][ours][layer]
            weights[f"h.{layer}.mlp.c_fc.{theirs}"] = blocks["mlp"]["in"][ours][layer]
            weights[f"h.{layer}.mlp.c_proj.{theirs}"] = blocks["mlp"]["out"][ours][layer]
    return {f"transformer.{name}": torch.tensor(weight) for name, weight in weights.items()}


if __name__ == "__main__":
    tyro.cli(bench_sample)
