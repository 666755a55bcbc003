"""Small pipelines: the named presets, written once a process, and random members of the family."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder, load_pipeline_folder
from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import Preset, scheduler, text_encoder, unet, vae

# Two levels of one layer each: the least that has every kind of layer.
SMALL = Preset(
    text_encoder(width=16, layers=1, heads=1, vocab_size=600),
    unet((16, 16), heads=1, cross_attention_dim=16, sample_size=16, norm_num_groups=4, layers_per_block=1),
    vae((16, 16), sample_size=32, norm_num_groups=4, layers_per_block=1),
    scheduler("DDIMScheduler"),
)

# One level: for where every kernel takes long.
SMALLEST = Preset(
    text_encoder(width=16, layers=1, heads=2, vocab_size=600, length=16),
    unet((16,), heads=2, cross_attention_dim=16, sample_size=8, norm_num_groups=4, layers_per_block=1),
    vae((8, 16), sample_size=16, norm_num_groups=4, layers_per_block=1),
    scheduler("DDIMScheduler"),
)

OWN = {"small": SMALL, "smallest": SMALLEST}
TINY = ("tiny-sd15", "tiny-sd21", "tiny-bk", "tiny-odd")


def single_thread() -> Iterator[None]:
    """Run PyTorch on one thread meanwhile; make it an automatic fixture of a module that runs small networks.

    They only lose by a second thread: a hundredfold where another process has the core.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stand_in(preset: str, dtype: str = "float32", seed: int = 0) -> Path:
    """Return the folder of a stand-in, which lasts as long as the process; read it, do not change it.

    ``preset`` is a name of the stand-ins, or one of ``OWN``.
    """
    return _stand_in(preset, dtype, seed)


@functools.cache
def _stand_in(preset: str, dtype: str, seed: int) -> Path:
    return write_stand_in(OWN.get(preset, preset), _scratch() / f"{preset}-{dtype}-{seed}", seed, dtype)


def copy_stand_in(preset: str, out: Path) -> Path:
    """Copy the float32 stand-in to ``out``, to be changed."""
    return Path(shutil.copytree(stand_in(preset), out))


def load_everything(folder: Path) -> PipelineFolder:
    """Load a folder and all of its networks."""
    loaded = load_pipeline_folder(folder)
    loaded.load_text_encoder()
    loaded.load_unet()
    loaded.load_vae()
    return loaded


@functools.cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ddimcache-stand-in-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@st.composite
def family_members(draw: st.DrawFn, levels: int | None = None) -> Preset:
    """Draw a pipeline of the family, small enough to build in a tenth of a second.

    Parameters
    ----------
    levels : of the UNet; drawn from 1 to 3 where it is not given.
    """
    count = levels or draw(st.integers(1, 3), label="levels")
    groups = draw(st.sampled_from([1, 2, 3, 4]), label="groups")
    heads = [draw(st.integers(1, 4), label="heads") for _ in range(count)]
    widths = tuple(2 * groups * number * draw(st.integers(1, 2)) for number in heads)
    attends = draw(st.lists(st.booleans(), min_size=count, max_size=count), label="attends")
    has_middle = draw(st.booleans(), label="middle")
    if not has_middle and not any(attends):
        attends[-1] = True
    text_heads = draw(st.integers(1, 3))
    text_width = 4 * text_heads * draw(st.integers(1, 2))
    one_number_a_level = draw(st.booleans())
    latent_width = 4
    vae_levels = draw(st.integers(1, 3))
    # StableDiffusionPipeline takes pictures whose sides are multiples of 8, and the UNet halves its latents.
    side = max(8 // 2 ** (vae_levels - 1), 2 ** (count - 1))
    sample_size = [side * draw(st.integers(1, 2)) for _ in range(2)]
    vae_groups = draw(st.sampled_from([1, 2, 4]))
    vae_widths = tuple(vae_groups * draw(st.integers(1, 3)) for _ in range(vae_levels))
    return Preset(
        text_encoder(
            text_width,
            layers=draw(st.integers(1, 2)),
            heads=text_heads,
            vocab_size=514 + draw(st.integers(0, 90)),
            length=draw(st.sampled_from([7, 16, 77])),
            activation=draw(st.sampled_from(["quick_gelu", "gelu"])),
        ),
        unet(
            widths,
            heads if one_number_a_level or len(set(heads)) > 1 else heads[0],
            [text_width] * count if one_number_a_level else text_width,
            sample_size,
            tuple(attends),
            layers_per_block=draw(st.integers(1, 2))
            if not one_number_a_level
            else [draw(st.integers(1, 2)) for _ in range(count)],
            mid_block_type="UNetMidBlock2DCrossAttn" if has_middle else None,
            norm_num_groups=groups,
            in_channels=latent_width,
            out_channels=latent_width,
            use_linear_projection=draw(st.booleans()),
            upcast_attention=draw(st.booleans()),
            transformer_layers_per_block=draw(st.integers(1, 2)),
        ),
        vae(
            vae_widths,
            sample_size=max(sample_size) * 2 ** (vae_levels - 1),
            norm_num_groups=vae_groups,
            layers_per_block=draw(st.integers(1, 2)),
            scaling_factor=draw(st.sampled_from([0.18215, 1.0, 0.5])),
        ),
        draw(schedulers(), label="scheduler"),
        pad_token=draw(st.sampled_from(["!", "<|endoftext|>"])),
    )


@st.composite
def schedulers(draw: st.DrawFn) -> dict:
    """Draw the configuration file of a scheduler that the frontend takes."""
    zero_signal = draw(st.booleans())
    return scheduler(
        draw(
            st.sampled_from(
                ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "LMSDiscreteScheduler"]
            )
        ),
        beta_schedule=draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        beta_end=draw(st.sampled_from([0.012, 0.02])),
        num_train_timesteps=draw(st.sampled_from([1000, 1000, 77, 250])),
        # Where the last training step has no signal, predicting the noise says nothing about the picture.
        prediction_type=draw(
            st.sampled_from(
                ["v_prediction", "sample"] if zero_signal else ["epsilon", "v_prediction", "sample"]
            )
        ),
        rescale_betas_zero_snr=zero_signal,
        timestep_spacing=draw(st.sampled_from(["leading", "trailing", "linspace"])),
        set_alpha_to_one=draw(st.booleans()),
    )
