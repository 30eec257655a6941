"""The variants of the network that table 3 of the paper compares, and the errors that it reports."""

from __future__ import annotations

FULL = "full"  # the variant that the others are compared with
# What each variant changes, as arguments of `zfnet`; maps and units are those of a network of width 1.
VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    FULL: {},
    "no-3-4": {"remove": (3, 4)},
    "no-7": {"remove": (7,)},
    "no-6-7": {"remove": (6, 7)},
    "no-3-4-6-7": {"remove": (3, 4, 6, 7)},
    "fc-2048": {"fc": (2048, 2048)},
    "fc-8192": {"fc": (8192, 8192)},
    "conv-512-1024-512": {"conv": (96, 256, 512, 1024, 512)},
    "conv-512-1024-512-fc-8192": {"conv": (96, 256, 512, 1024, 512), "fc": (8192, 8192)},
}
# (kind of layers 1 and 2, variant) -> errors in percent on ImageNet: (training top-1, validation top-1, validation
# top-5). Source: Zeiler and Fergus 2013, table 3. There, layers are removed from the network of Krizhevsky et al., and
# maps are added to the paper's own.
PAPER_ERRORS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("alexnet", FULL): (35.1, 40.5, 18.1),
    ("alexnet", "no-3-4"): (41.8, 45.4, 22.1),
    ("alexnet", "no-7"): (27.4, 40.0, 18.4),
    ("alexnet", "no-6-7"): (27.4, 44.8, 22.4),
    ("alexnet", "no-3-4-6-7"): (71.1, 71.3, 50.1),
    ("alexnet", "fc-2048"): (40.3, 41.7, 18.8),
    ("alexnet", "fc-8192"): (26.8, 40.0, 18.1),
    ("zfnet", FULL): (33.1, 38.4, 16.5),
    ("zfnet", "fc-2048"): (38.2, 40.2, 17.6),
    ("zfnet", "fc-8192"): (22.0, 38.8, 17.0),
    ("zfnet", "conv-512-1024-512"): (18.8, 37.5, 16.0),
    ("zfnet", "conv-512-1024-512-fc-8192"): (10.0, 38.3, 16.9),
}
