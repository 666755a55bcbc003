"""Second stage: the text encoder, taught to know a caption's attributes before any picture is seen.

The hidden states behind the caption's end must tell every attribute to a linear classifier.  All the
padding repeats the end token, so cross-attention that still weighs all tokens alike already hands the
whole caption to the UNet, which then learns from the caption from its first step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from ddimcache.models.shapes.grammar import ATTRIBUTE_VALUES, LAYOUT_VALUES, WORDS, Scene, SceneSampler
from ddimcache.models.shapes.networks import TEXT_WIDTH, new_text_encoder
from ddimcache.models.shapes.run_folder import Budget, RunFolder
from ddimcache.models.shapes.tokenizer import MAXIMUM_TOKENS

# What the states must tell.  The layout says again what the relation and both things say together, so that
# the UNet need not work out which thing is on the left.
_VALUES = {**ATTRIBUTE_VALUES, **LAYOUT_VALUES}
_BATCH = 48
_EMPTY_SHARE = 0.05
_FILLER_SHARE = 0.25


class _Captions:
    """Draws token ids of captions, some with unknown words put in, and their attributes' labels."""

    def __init__(self, tokenizer: CLIPTokenizer, seed: tuple[int, ...]):
        self._sampler = SceneSampler()
        self._random = np.random.default_rng(seed)
        self._ids = {word: tokenizer.get_vocab()[word + "</w>"] for word in WORDS}
        special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self._fillers = sorted(set(range(len(tokenizer))) - set(self._ids.values()) - special)
        self._start, self._end = tokenizer.bos_token_id, tokenizer.eos_token_id

    def _tokens(self, scene: Scene) -> list[int]:
        tokens = [self._ids[word] for word in scene.caption().split()]
        if self._random.random() < _FILLER_SHARE:
            for _ in range(self._random.integers(1, 8)):
                filler = self._fillers[self._random.integers(len(self._fillers))]
                tokens.insert(int(self._random.integers(len(tokens) + 1)), filler)
        return tokens

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return int64 ids (size, 77), a mask (size, 77) of the end tokens, and labels (size, attributes)."""
        ids = np.full((size, MAXIMUM_TOKENS), self._end, np.int64)
        labels = np.zeros((size, len(_VALUES)), np.int64)
        behind = np.ones((size, MAXIMUM_TOKENS), bool)
        for row in range(size):
            tokens: list[int] = []
            if self._random.random() >= _EMPTY_SHARE:
                scene = self._sampler.sample(self._random)
                tokens = self._tokens(scene)
                attributes = {**scene.attributes(), **scene.layout()}
                labels[row] = [values.index(attributes[name]) for name, values in _VALUES.items()]
            ids[row, 0] = self._start
            ids[row, 1 : 1 + len(tokens)] = tokens
            behind[row, : 1 + len(tokens)] = False
        return torch.from_numpy(ids), torch.from_numpy(behind), torch.from_numpy(labels)


def _loss(logits: Tensor, behind: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Return the mean cross-entropy over the end tokens, and the share of captions told wholly right."""
    total = logits.new_zeros(())
    right = torch.ones_like(behind)
    start = 0
    for column, values in enumerate(_VALUES.values()):
        part = logits[..., start : start + len(values)]
        start += len(values)
        target = labels[:, column, None].expand(behind.shape)
        total = total + functional.cross_entropy(part[behind], target[behind], label_smoothing=0.02)
        right &= part.argmax(-1) == target
    return total / len(_VALUES), right[behind].float().mean().item()


def train(folder: RunFolder, tokenizer: CLIPTokenizer, minutes: float, seed: int) -> CLIPTextModel:
    """Train the text encoder for ``minutes``, going on from the folder's checkpoint; return it."""
    torch.manual_seed(seed)
    encoder = new_text_encoder(tokenizer)
    classifier = nn.Linear(TEXT_WIDTH, sum(len(values) for values in _VALUES.values()))
    parameters = [*encoder.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=0, betas=(0.9, 0.98), weight_decay=1e-2)
    budget, step = Budget(minutes, 2e-3, warm_up=0.05), 0
    state = folder.load("text")
    if state is not None:
        encoder.load_state_dict(state["model"])
        classifier.load_state_dict(state["classifier"])
        optimiser.load_state_dict(state["optimiser"])
        budget.spent, step = state["spent"], state["step"]
    captions = _Captions(tokenizer, (seed, step))
    encoder.train()
    budget.skip()
    while budget.share < 1:
        ids, behind, labels = captions.batch(_BATCH)
        for group in optimiser.param_groups:
            group["lr"] = budget.rate()
        loss, right = _loss(classifier(encoder(ids).last_hidden_state), behind, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        budget.tick()
        if step % 100 == 0 or budget.share >= 1:
            state = {
                "model": encoder.state_dict(),
                "classifier": classifier.state_dict(),
                "optimiser": optimiser.state_dict(),
                "spent": budget.spent,
                "step": step,
            }
            folder.save("text", state)
            values = {"loss": round(loss.item(), 5), "captions_right": round(right, 4)}
            folder.log(stage="text", step=step, seconds=round(budget.spent, 1), **values)
    return encoder.eval()
