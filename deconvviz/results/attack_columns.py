"""What the tables of maps under attack hold; see `results.columns`, which has the rest."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.table_schemas import TableSchema
from deconvviz.results.table_schemas import columns_of as _columns

_MOVES = (
    ("ssim", "0..2", "1 - SSIM"),
    ("pearson", "0..2", "1 - Pearson's correlation"),
    ("spearman", "0..2", "1 - rank correlation"),
    ("l1", "share, 0..1", "Mean absolute difference"),
    ("top_15", "share, 0..1", "1 - intersection over union of the strongest 15 % of the pixels"),
)

MAPS_UNDER_ATTACK: Mapping[str, TableSchema] = {
    "maps under attack": TableSchema(
        what="A row for each attack and method: means over the images whose own class was found before the attack.",
        written_by="`deconvviz evaluate --attack FILE`, as `.attack.csv`, and `MapsUnderAttack.save_csv`",
        columns=_columns(
            "attack text |  | Name of the attack's file, without its ending.",
            "attacked_for text |  | `decision`, or the methods whose maps the attack was to change.",
            "epsilon number | share, 0..1 | How far a pixel might go, of the way from black to white.",
            "method text |  | Name of the method whose maps are compared.",
            "images integer | images | How many were measured.",
            "fooled number | share, 0..1 | Of them those for which the attack got the class that it wanted.",
            "fooled_low number | share, 0..1 | Lower end of its 95 % interval (Wilson 1927).",
            "fooled_high number | share, 0..1 | Upper end.",
            "*_95 number? | as the column before | Half the width of the mean's 95 % interval: 1.96 standard errors.",
            *(
                f"{move}_attacked number? | {unit} | {what}, of the maps of the own class before and after the attack."
                for move, unit, what in _MOVES
            ),
            *(f"{move}_noise number? | {unit} | The same under noise of the same size." for move, unit, _ in _MOVES),
            *(
                f"{move}_new_class number? | {unit} | The same with the map of the class that is found in the attacked "
                "image; empty where it is always the same."
                for move, unit, _ in _MOVES
            ),
            "*_beyond_noise number? | as `*_attacked` | Mean over the images of `*_attacked` less `*_noise`.",
        ),
    ),
    "maps under attack of images": TableSchema(
        what="A row for each attack, method and image.",
        written_by="`deconvviz evaluate --attack FILE`, as `.attack.images.csv`, `MapsUnderAttack.save_images_csv` and "
        "`MapsUnderAttack.to_frame`",
        columns=_columns(
            "attack text |  | Name of the attack's file, without its ending.",
            "method text |  | Name of the method.",
            "image text |  | Name of the image.",
            "own_class text |  | The class that is explained, which is found in the unchanged image.",
            "class_after text |  | The class that is found in the attacked image.",
            "fooled flag |  | Whether the attack got the class that it wanted.",
            "*_attacked number? | 0..2 | How far the map moved, as in the table of means; empty until it is measured.",
            "*_noise number? | 0..2 | The same under noise of the same size.",
            "*_new_class number? | 0..2 | The same with the map of the new class; empty where the class is the same.",
        ),
    ),
}
"""Kind of table -> what it holds."""
