"""The 847 words of MojiScenes, and which of them are objects, ground or in no picture at all."""

from __future__ import annotations

from functools import lru_cache

from escnet.data.class_tables import ClassRow, load_class_table

CLASS_FILE = "mojiscenes_847.tsv"

# Rows of the class file, whose raw ids are code points where the word is a glyph's. After these: further glyphs that
# can be named, and nouns without a picture.
BASE = range(0, 80)
STUFF = range(80, 92)
NOVEL = range(92, 132)
UNNAMED = range(132, 282)

GLYPH_SETS = {"base": BASE, "novel": NOVEL, "unnamed": UNNAMED}


@lru_cache(maxsize=1)
def words() -> tuple[ClassRow, ...]:
    """The rows of the class file."""
    return load_class_table(CLASS_FILE)
