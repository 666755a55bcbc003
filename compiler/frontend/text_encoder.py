"""The text encoder: token numbers in, the context of the UNet's cross-attention out."""

from __future__ import annotations

from typing import Any

import torch

from ddimcache.compiler.frontend.importer import TORCH_DTYPES, ImportedComponent, import_component


class _TextEncoder(torch.nn.Module):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.encoder(ids, return_dict=False)[0]


def import_text_encoder(encoder: Any, tokens: int, dtype: str) -> ImportedComponent:
    """``main(ids [1, L] int32) -> context [1, L, D] dtype``, the last hidden state after the final norm.

    SD 2.x uses the penultimate layer of its 24; its folders hold the first 23 only, so that the last
    hidden state of what is there is the right one for both families.
    """
    torch.nn.Module.to(encoder, TORCH_DTYPES[dtype])
    return import_component(
        "text_encoder", _TextEncoder(encoder), (torch.zeros(1, tokens, dtype=torch.int32),)
    )
