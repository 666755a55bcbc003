"""A bundle and others of the same model: with other weights, or with the cache at another cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.progress import Progress


class Variants:
    """The bundle ``own``, and others of its model, compiled when they are needed and then kept.

    ``path`` is what the bundle was opened from, a bundle or a diffusers folder; ``model`` the folder that a
    bundle was compiled from, needless for the embedded model; ``loras`` what was merged into it. Raises
    :class:`UsageError` for a folder that is another model.
    """

    def __init__(
        self, own: Bundle, path: Path, model: Path | None, bars: Progress, loras: tuple[str, ...] = ()
    ) -> None:
        from ddimcache.commands.choose import DEFAULT_MODEL
        from ddimcache.commands.generate import loras_text
        from ddimcache.runtime.bundle import is_bundle

        self.own = own
        self._bars, self._loras = bars, loras
        self._model = model if model is not None else None if is_bundle(path) else path
        if self._model is None and own.manifest.model_fingerprint == fingerprint(DEFAULT_MODEL, loras):
            self._model = DEFAULT_MODEL
        if self._model is not None and own.manifest.model_fingerprint != fingerprint(self._model, loras):
            merged = f", with {loras_text(own.manifest)}" if own.manifest.loras else ""
            raise UsageError(
                f"{self._model} is not the model that {path} was compiled from{merged}",
                where="--model",
                remedy="name the folder and every --lora that were given to `ddimcache compile`",
            )

    def get(self, weights: str, cut: int) -> Bundle:
        """Return the bundle with these weights and this cut; raises :class:`UsageError` without the model."""
        from ddimcache.commands.choose import compiled
        from ddimcache.commands.terminal import say
        from ddimcache.compiler.options import CompileOptions, missing_records

        manifest = self.own.manifest
        if (weights, cut) == (manifest.weights, manifest.cut):
            return self.own
        if self._model is None:
            raise UsageError(
                f"{weights} weights at cut {cut} have to be compiled from the model",
                where="--model",
                remedy="name the folder that the bundle was compiled from",
            )
        (width, height), *more = (size.image_size for size in manifest.sizes)
        options = CompileOptions(
            target=manifest.target,
            weights=weights,
            cut=cut,
            width=width,
            height=height,
            more_sizes=tuple(more),
            batch=manifest.batch,
            host=manifest.host,
            loras=self._loras,
            image_to_image=manifest.takes_images,
        ).with_untold(manifest.built_with)
        if (gone := missing_records(manifest.built_with)) is not None:
            say(f"the tuning records of {gone} are not here; compiling with those of the package")
        return compiled(self._model, options, self._bars)


def fingerprint(folder: Path, loras: tuple[str, ...] = ()) -> str:
    """Return the fingerprint that a bundle of a diffusers folder with these LoRAs has."""
    from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
    from ddimcache.compiler.options import LoraChoice

    return load_pipeline_folder(folder, [LoraChoice.parse(text) for text in loras]).fingerprint()


def bundle_fingerprint(bundle: Path) -> str:
    """Return the fingerprint of the model that a bundle was made of."""
    from ddimcache.runtime.bundle import open_bundle

    return open_bundle(bundle, sums=False).manifest.model_fingerprint
