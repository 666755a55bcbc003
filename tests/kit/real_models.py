"""Folders and files as users have them of CLIP and Inception V3, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from ddimcache.models.stand_in_tokenizer import write_tokenizer_folder
from ddimcache.quality.inception import InceptionNetwork


def write_clip(folder: Path, image_size: int = 24, vocabulary: int = 600) -> Path:
    """Write a CLIP of two small layers a side with its tokenizer and preprocessor; return the folder."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder.mkdir()
    small = {"intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small,
            "hidden_size": 20,
            "vocab_size": vocabulary,
            "max_position_embeddings": 16,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        vision_config={**small, "hidden_size": 24, "image_size": image_size, "patch_size": 8},
        projection_dim=12,
    )
    write_tokenizer_folder(folder, vocabulary, 3, 16, "<|endoftext|>")
    torch.manual_seed(5)
    model = CLIPModel(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # else all texts are nearly alike
    model.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    ).save_pretrained(folder)
    return folder


def inception_state(classes: int) -> dict[str, torch.Tensor]:
    """Random weights of Inception V3 that leave its features apart, as a state dict."""
    torch.manual_seed(7)
    state = dict(InceptionNetwork(is_fid=True).state_dict())
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(0, 0.3)
        elif name.endswith("conv.weight"):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    state["fc.weight"] = torch.zeros(classes, 2048)
    state["fc.bias"] = torch.zeros(classes)
    return state
