"""Decoding speed beside Hugging Face `generate` at GPT-2-small shapes, batch 1 and 8, greedy.

    pip install -e ".[bench]" && python scripts/bench_decode.py

Both sides have the same random weights. Each case first checks that the float32 sides write the
same tokens, then times whole generations in turns, the reading of the prompt included, compilation
not. ratio = the seconds of transformers' best side of the same round / this side's: above 1 is
faster than the best of transformers.
"""

import dataclasses
import os

import numpy as np
import tyro
from bench import machine
from bench_sample import CASES, Dtype, bench_case, init_params


def bench_decode(
    batch_sizes: tuple[int, ...] = (1, 8),
    prompt_length: int = 128,
    new_tokens: int = 128,
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16"),
    threads: tuple[int, ...] = (os.cpu_count() or 1,),
    num_layers: int = 12,
    rounds: int = 5,
    seed: int = 0,
) -> None:
    """Times jaxseq beside Hugging Face transformers.

    Args:
        batch_sizes: Prompts written to at a time.
        prompt_length: Tokens of each prompt.
        new_tokens: Tokens written behind each.
        dtypes: Compute dtypes, of both sides; tokens are compared in float32 alone.
        threads: Numbers of threads that transformers is timed with.
        num_layers: Blocks of the model; GPT-2 small has 12.
        rounds: Timed generations of each side, taken in turns.
        seed: Seed of the weights and the prompts.
    """
    print(machine("jax", "torch", "transformers"))
    case = dataclasses.replace(CASES["gpt2-small"], num_layers=num_layers, new_tokens=new_tokens)
    print(f"\n{case}")
    params = init_params(case, seed)
    for batch_size in batch_sizes:
        shape = batch_size, prompt_length
        prompts = np.random.default_rng(seed).integers(0, case.vocab_size, shape)
        bench_case(case, params, prompts, dtypes, threads, rounds)


if __name__ == "__main__":
    tyro.cli(bench_decode)
