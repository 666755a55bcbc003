"""Trains the embedded model; every stage goes on from where it was stopped.

python -m ddimcache.models.shapes.train run --folder /tmp/shapes
python -m ddimcache.models.shapes.train export --folder /tmp/shapes --output /tmp/shapes-model
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from ddimcache.models.shapes import train_autoencoder, train_text, train_unet
from ddimcache.models.shapes.export import WEIGHTS, export
from ddimcache.models.shapes.networks import new_autoencoder, new_text_encoder
from ddimcache.models.shapes.run_folder import RunFolder
from ddimcache.models.shapes.tokenizer import write_tokenizer

_EXAMPLES = """
Examples:

  python -m ddimcache.models.shapes.train run --folder /tmp/shapes

  python -m ddimcache.models.shapes.train run --folder /tmp/shapes --stage unet --unet-minutes 90

  python -m ddimcache.models.shapes.train export --folder /tmp/shapes --output /tmp/shapes-model
"""
_STAGES = ("autoencoder", "text", "latents", "unet")

application = typer.Typer(
    help="Train the embedded model on drawings of shapes, and write it as a diffusers folder.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
)
FolderOption = Annotated[Path, typer.Option(help="Folder of the run: log.jsonl, checkpoints, sample grids.")]


@application.command("run", epilog=_EXAMPLES)
def run(
    folder: FolderOption,
    stage: Annotated[str, typer.Option(help=f"One of {', '.join(_STAGES)}, or all.")] = "all",
    autoencoder_minutes: Annotated[float, typer.Option(help="Training time of the autoencoder.")] = 14.0,
    text_minutes: Annotated[float, typer.Option(help="Training time of the text encoder.")] = 3.0,
    unet_minutes: Annotated[float, typer.Option(help="Training time of the UNet.")] = 60.0,
    pictures: Annotated[int, typer.Option(help="Drawings made for the UNet's training.")] = 24000,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves PyTorch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the drawings and of the training.")] = 1,
) -> None:
    """Train; a stage whose time is spent is passed over, so the same command resumes a stopped run."""
    if stage not in (*_STAGES, "all"):
        raise typer.BadParameter(f"no stage {stage!r}; choose one of {', '.join(_STAGES)}, all")
    if threads:
        torch.set_num_threads(threads)
    run_folder = RunFolder(folder)
    settings = {"pictures": pictures, "threads": torch.get_num_threads(), "seed": seed}
    run_folder.log(stage="settings", torch=torch.__version__, asked=stage, **settings)
    tokenizer = write_tokenizer(folder / "tokenizer")
    if stage in ("autoencoder", "all"):
        train_autoencoder.train(run_folder, autoencoder_minutes, picture_count=6000, seed=seed)
    if stage in ("text", "all"):
        train_text.train(run_folder, tokenizer, text_minutes, seed)
    if stage in ("latents", "unet", "all"):
        encoder = new_text_encoder(tokenizer)
        encoder.load_state_dict(_checkpoint(run_folder, "text")["model"])
        data = train_unet.prepare(run_folder, encoder.eval(), tokenizer, pictures, seed)
        if stage != "latents":
            train_unet.train(run_folder, data, unet_minutes, seed)


@application.command("export", epilog=_EXAMPLES)
def write_folder(
    folder: FolderOption,
    output: Annotated[Path, typer.Option(help="Where to write the diffusers folder.")] = WEIGHTS,
) -> None:
    """Write the run's newest averaged weights as a StableDiffusionPipeline folder in float16."""
    run_folder = RunFolder(folder)
    autoencoder = _autoencoder(run_folder)
    with tempfile.TemporaryDirectory() as temporary:
        encoder = new_text_encoder(write_tokenizer(Path(temporary)))
    encoder.load_state_dict(_checkpoint(run_folder, "text")["model"])
    export(output, autoencoder, encoder, train_unet.averaged(run_folder))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    typer.echo(f"{output}: {size / 1e6:.1f} MB")


def _checkpoint(folder: RunFolder, name: str) -> dict:
    state = folder.load(name)
    if state is None:
        raise typer.BadParameter(f"no {name} checkpoint in {folder.path}; run the stage {name!r} first")
    return state


def _autoencoder(folder: RunFolder) -> AutoencoderKL:
    autoencoder = new_autoencoder()
    autoencoder.load_state_dict(_checkpoint(folder, "autoencoder")["model"])
    return autoencoder.eval()


if __name__ == "__main__":
    application()
