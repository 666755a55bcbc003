"""Which picture sizes a compilation is for, and whether the model can be compiled for them."""

from __future__ import annotations

from dataclasses import dataclass

from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder
from ddimcache.compiler.options import CompileOptions
from ddimcache.errors import UsageError
from ddimcache.manifest import TensorSpec


@dataclass(frozen=True)
class Sizes:
    """Latent and picture sizes of a compilation; ``suffix`` ends the names of what is of no other size."""

    latent_width: int
    latent_height: int
    scale: int
    batch: int
    channels: int
    suffix: str = ""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.latent_width * self.scale, self.latent_height * self.scale

    @property
    def latents(self) -> TensorSpec:
        """What the UNet is given and predicts."""
        return TensorSpec((self.batch, self.channels, self.latent_height, self.latent_width), "float32")

    @property
    def image(self) -> TensorSpec:
        """What the decoder gives."""
        width, height = self.image_size
        return TensorSpec((self.batch, height, width, 3), "uint8")


def sizes_of(folder: PipelineFolder, options: CompileOptions) -> tuple[Sizes, ...]:
    """Return what is compiled for, the size that is drawn unless another is asked for first.

    Raises :class:`UsageError` for a cut that the UNet does not have, and for a size of which a half is not
    whole.
    """
    config = folder.unet_config
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    # A skip connection for conv_in, for every layer of the down path and for every down-sampling.
    cuts = 1 + (layers * levels if isinstance(layers, int) else sum(layers)) + levels - 1
    if options.cut >= cuts:
        raise UsageError(
            f"this UNet has no cut {options.cut}; it has {cuts}, from 0 (the outermost) to {cuts - 1}",
            where="--cut",
        )
    scale = folder.vae_scale
    asked, where = [(options.width, options.height), *options.more_sizes], "--size"
    if not options.width:
        height, width = (side * scale for side in folder.latent_size)
        asked, where = [(width, height)], f"`sample_size` of {folder.path / 'unet' / 'config.json'}"
    # Every down-sampling of the UNet halves the latents, and every half has to be whole.
    multiple = scale * 2 ** (levels - 1)
    sizes: list[Sizes] = []
    for width, height in asked:
        for name, side in (("width", width), ("height", height)):
            if side % multiple:
                raise UsageError(
                    f"{name} {side} is not a multiple of {multiple}, as this model needs",
                    where=where,
                    remedy="give another --size",
                )
        suffix = f"_{width}x{height}" if sizes else ""
        cells = width // scale, height // scale
        sizes.append(Sizes(*cells, scale, options.batch, folder.latent_channels, suffix))
    return tuple(sizes)
