"""Makes the fonts of this folder: printable ASCII, outlines only, renamed.

    pip install fonttools; python subset.py FOLDER   # where the Debian packages of README.md are unpacked

The licences reserve the fonts' names for unmodified copies, so each subset gets a name of its own; copyright and licence
entries stay in its `name` table.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

SOURCES = {
    "01": "Lato-Regular.ttf",
    "02": "OpenSans-Semibold.ttf",
    "03": "RobotoSlab-Regular.otf",
    "04": "EBGaramond12-Regular.otf",
    "05": "ComicNeue-Bold.otf",
    "06": "Courier Prime Sans.otf",
    "07": "Cabin-Bold.otf",
    "08": "Quicksand-Medium.ttf",
    "09": "Courier Prime Bold.otf",
    "10": "Cantarell-ExtraBold.otf",
    "11": "YanoneKaffeesatz-Bold.otf",
    "12": "LinLibertine_RI.otf",
    "held-1": "Karla-Medium.otf",
    "held-2": "GenBasB.ttf",
    "held-3": "JetBrainsMono-Regular.ttf",
    "held-4": "Play-Bold.ttf",
}
KEPT_NAMES = (0, 8, 9, 11, 12, 13, 14)  # copyright, makers, licence and their addresses


def main(folder: Path) -> None:
    options = subset.Options(
        layout_features=[], hinting=False, notdef_outline=False, glyph_names=False, desubroutinize=False,
        name_IDs=[0, 1, 2, 3, 4, 6, *KEPT_NAMES], drop_tables=["GPOS", "GSUB", "GDEF", "DSIG", "kern", "FFTM", "PfEd", "meta"],
    )
    for number, source in SOURCES.items():
        path = next(folder.rglob(source))
        font = TTFont(path, recalcTimestamp=False)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=range(0x20, 0x7F))
        subsetter.subset(font)
        name = f"Scenes {number}"
        for record in font["name"].names:
            if record.nameID in (1, 3, 4):
                record.string = name
            elif record.nameID == 6:
                record.string = name.replace(" ", "-")
        if "CFF " in font:
            cff = font["CFF "].cff
            cff.fontNames = [name.replace(" ", "-")]
            top = cff.topDictIndex[0]
            for key in ("FullName", "FamilyName"):
                if hasattr(top, key):
                    setattr(top, key, name)
        suffix = path.suffix
        font.save(f"scenes-{number}{suffix}")
        copyright_ = next((str(r) for r in font["name"].names if r.nameID == 0), "?")
        print(f"| scenes-{number}{suffix} | {source} | {Path(f'scenes-{number}{suffix}').stat().st_size} | {copyright_[:200]}")


main(Path(sys.argv[1]))
