"""Names under which kernels tell schedules and reports what they are."""

FAMILY = "ddimcache.family"
"""Annotation of a block: the family whose schedule it gets."""

PAIRED = "ddimcache.paired"
"""Annotation of a product block [..., panels, 2, H] whose sums the epilogue takes in pairs."""

GROUPED = "ddimcache.grouped"
"""Annotation of a product block that reads scales of its weights, packed as they are, as its third tensor."""

DOTS = "ddimcache.dots"
"""Annotation of a product block whose activations are rounded to int8 and whose weights are four a number."""

WORK = "ddimcache.macs"
"""Attribute of a kernel that is written by hand: multiply-accumulates of one launch."""

PIXELS = "ddimcache.pixels"
"""Annotation of a product block, and attribute of its kernel, whose operands are read as pixels: a word for
how it sums (``kernels/pixels.py``)."""

ELEMENT_WISE = "ddimcache.element_wise"
"""Attribute of a kernel that is element-wise in its first input, though TVM cannot see it."""

WORKLOAD = "ddimcache.workload"
"""Annotation of a product's block, and attribute of a kernel: the text of its ``kernels/workload.py``."""

DECISIONS = "ddimcache.decisions"
"""Attribute of a kernel: the decisions of the tuning record that it was made with, as JSON."""

TILED = "ddimcache.tiled"
"""Annotation of a convolution's block that reads transformed tiles: the side of a tile of outputs."""

SAMPLED = "ddimcache.sampled"
"""Attribute of a kernel: the number of an input of which it reads a few elements, no bytes worth counting."""
