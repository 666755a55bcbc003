"""One image of a session as bytes, for comparing runs."""

from ddimcache.runtime.image import ImageRequest, run_image
from ddimcache.runtime.progress import SilentProgress


def draw(session, steps=10, seed=5, interval=3, ids=None) -> bytes:
    """Draw an image and return its latents and pixels as bytes."""
    length = session.manifest.context.shape[1]
    ids = ids or [1] * length
    request = ImageRequest(ids, [2] * length, seed, steps, interval, 7.5)
    done = run_image(session, request, SilentProgress())
    picture = getattr(done, "picture", done)
    return picture.latents.tobytes() + picture.pixels.tobytes()
