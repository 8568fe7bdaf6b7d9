"""Folders on which models that name things and draw masks are examined: where what lies in them.

words/CLASS/*.jpg    pictures of one thing each, for zero-shot accuracy
classes.tsv          the classes that compete, lines CLASS<TAB>name, synonym; some may have no pictures
objects/             photographs of several things
objects.json         the objects in them with their masks, COCO's format
"""

from __future__ import annotations

WORDS, CLASSES, OBJECTS, OBJECTS_FILE = "words", "classes.tsv", "objects", "objects.json"
