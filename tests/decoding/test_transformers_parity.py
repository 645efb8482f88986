"""Greedy text equals that of transformers' `generate`, token for token.

20 small models with sizes and weights drawn at random, 64 tokens each. Needs PyTorch and
transformers (the `bench` extra).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.interop.huggingface import read_checkpoint
from jaxseq.models.gpt import GPT, GPTConfig

torch = pytest.importorskip("torch", reason="PyTorch is not installed; the bench extra has it")
transformers = pytest.importorskip("transformers", reason="the bench extra has transformers")

NEW_TOKENS = 64


def draw_model(family: str, seed: int):
    """A model of theirs, far enough from its start that its text is not one token for ever."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([1, 2, 4]))
    width = heads * int(rng.choice([4, 6, 8]))
    layers, vocab_size = int(rng.integers(1, 4)), int(rng.integers(20, 60))
    common = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None}
    if family == "gpt2":
        config = transformers.GPT2Config(
            **common, n_positions=96, n_embd=width, n_head=heads, n_layer=layers
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            **common,
            hidden_size=width,
            intermediate_size=int(rng.integers(8, 40)),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=int(rng.choice([k for k in (1, 2, 4) if heads % k == 0])),
            max_position_embeddings=96,
            tie_word_embeddings=False,
        )
        model = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 2:
                weight.copy_(noise * (1.0 if "wpe" in name else 0.5))
            else:
                weight.copy_(int("weight" in name) + 0.2 * noise)
    return model.eval(), vocab_size


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_text_is_the_same(family: str, seed: int, tmp_path: Path) -> None:
    theirs, vocab_size = draw_model(family, seed)
    theirs.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert isinstance(checkpoint.config, GPTConfig)
    prompt = np.random.default_rng(seed).integers(0, vocab_size, (2, 5))
    # The second prompt is shorter: theirs is padded on the left, ours on the right.
    shorter = np.concatenate([[0, 0], prompt[1, :3]])
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    with torch.inference_mode():
        expected = theirs.generate(
            torch.tensor(np.stack([prompt[0], shorter])),
            attention_mask=torch.tensor(mask),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )[:, 5:].numpy()
    found = generate(
        GPT(checkpoint.config),
        checkpoint.params,
        jnp.asarray(prompt, jnp.int32),
        prompt_lengths=jnp.array([5, 3]),
        max_new_tokens=NEW_TOKENS,
        sampling=SamplingConfig(temperature=0.0),
        key=jax.random.key(0),
    )
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 2
