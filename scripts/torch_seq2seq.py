"""The sequence-to-sequence model of PyTorch's tutorial, as a peer for experiments/translate.py.

"NLP From Scratch: Translation with a Sequence to Sequence Network and Attention": a GRU encoder, a
GRU decoder with Bahdanau attention, both of `width` 128, dropout 0.1, Adam at 1e-3, batches of 32,
teacher forcing, greedy decoding. It gets our subwords, and its padding is left out of the loss
(the tutorial counts it). Needs torch.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

Pair = tuple[Sequence[int], Sequence[int]]
"""Source and target, each with its end token."""

IGNORED = -100
PADDING = 0


class Seq2Seq(nn.Module):
    """Logits of each next target token, given the source and the target tokens before."""

    def __init__(self, vocab_size: int, width: int = 128, dropout: float = 0.1):
        super().__init__()
        self.source_embedding = nn.Embedding(vocab_size, width)
        self.target_embedding = nn.Embedding(vocab_size, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.query, self.keys = nn.Linear(width, width), nn.Linear(width, width)
        self.score = nn.Linear(width, 1)
        self.decoder = nn.GRU(2 * width, width, batch_first=True)
        self.output = nn.Linear(width, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B S D) of the encoder, and its last state (1 B D)."""
        return self.encoder(self.dropout(self.source_embedding(source)))

    def step(self, token: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B V) behind `token` (B), and the new state."""
        scores = self.score(torch.tanh(self.query(hidden.transpose(0, 1)) + self.keys(memory)))
        context = torch.softmax(scores.transpose(1, 2), dim=-1) @ memory
        embedded = self.dropout(self.target_embedding(token))[:, None]
        output, hidden = self.decoder(torch.cat([embedded, context], dim=2), hidden)
        return self.output(output[:, 0]), hidden

    def forward(self, source: Tensor, inputs: Tensor) -> Tensor:
        """Logits (B T V) of a target that is given."""
        memory, hidden = self.encode(source)
        logits = []
        for token in inputs.T:
            found, hidden = self.step(token, hidden, memory)
            logits.append(found)
        return torch.stack(logits, dim=1)


def train(
    pairs: Sequence[Pair],
    vocab_size: int,
    start: int,
    cpu_minutes: float,
    say: Callable[[str], None],
    batch_size: int = 32,
) -> Seq2Seq:
    """A model trained for so many processor minutes of this process."""
    torch.manual_seed(0)
    model = Seq2Seq(vocab_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss(ignore_index=IGNORED)
    begin = time.process_time()
    for step, batch in enumerate(_batches(pairs, batch_size), start=1):
        spent = (time.process_time() - begin) / 60
        if spent > cpu_minutes:
            break
        source = _padded([source for source, _ in batch], PADDING)
        inputs = _padded([[start, *target[:-1]] for _, target in batch], PADDING)
        targets = _padded([target for _, target in batch], IGNORED)
        loss = loss_of(model(source, inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 1000 == 0:
            epochs = step * batch_size / len(pairs)
            say(f"torch: step {step} ({epochs:.1f} epochs, {spent:.1f} min), loss {loss:.3f}")
    return model.eval()


@torch.no_grad()
def translate(
    model: Seq2Seq, sources: Sequence[Sequence[int]], start: int, end: int, most: int = 30
) -> list[list[int]]:
    """The likeliest token at every step, for each source, without the end token."""
    found = []
    for source in sources:
        memory, hidden = model.encode(_padded([source], PADDING))
        token, written = torch.tensor([start]), []
        for _ in range(most):
            logits, hidden = model.step(token, hidden, memory)
            token = logits.argmax(dim=-1)
            if int(token) == end:
                break
            written.append(int(token))
        found.append(written)
    return found


def _batches(pairs: Sequence[Pair], batch_size: int) -> Iterator[list[Pair]]:
    draw = np.random.default_rng(0)
    while True:
        order = draw.permutation(len(pairs))
        for first in range(0, len(order) - batch_size + 1, batch_size):
            yield [pairs[i] for i in order[first : first + batch_size]]


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
