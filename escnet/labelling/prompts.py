"""What is pointed at in pictures, as JSON: read, checked, and dealt out to the pictures."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from escnet.labelling.pictures import LabellingError
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.vocabulary import Vocabulary
from escnet.word_prompts import PromptError, WordPrompts, prompts_by_row

FORM = '{"photo.jpg": {"cat": {"points": [[120, 80]], "labels": [1], "box": [90, 40, 200, 160], "mask": "cat.png"}}}'
PromptsOfPictures = dict[Path, dict[str, WordPrompts]]


def read_prompts(
    text: str, files: Sequence[Path], vocabulary: Vocabulary, kind: type[SegmentingModel]
) -> PromptsOfPictures:
    """The prompts of pictures, checked as far as they can be without the pictures' pixels.

    Args:
        text: JSON in the form of `FORM`, where each part of a word's prompts may be left out, or the path of a file
            with it. A picture is named by its path or, where only one has it, by its name without folders. Files of
            masks are looked for beside the file, or else from the current folder.
        files: the pictures.
        vocabulary: the words.
        kind: the class of the model.

    Returns:
        for each picture with prompts those of its words, by the names of their classes.

    Raises:
        LabellingError: the JSON is missing, faulty or of another form, names a picture that is not among the files, or
            prompts that cannot be used; the message says where.
    """
    source, folder, contents = _read(text)
    if not isinstance(contents, dict):
        raise LabellingError(f"{source}: has to be an object of pictures, such as {FORM}")
    found: PromptsOfPictures = {}
    owners = _owners(source, list(contents), files)
    for key, words in contents.items():
        if not isinstance(words, dict):
            raise LabellingError(f'{source}: "{key}" has to be an object of words with their prompts, as in {FORM}')
        try:
            named = prompts_by_row({word: _of_word(word, x, folder) for word, x in words.items()}, vocabulary, kind)
        except PromptError as error:
            raise LabellingError(f'{source}: "{key}": {error}') from error
        names = (*vocabulary.names, *vocabulary.background)
        if named:
            found[owners[key]] = {names[row]: prompts for row, (_, prompts) in named.items()}
    return found


def _read(text: str) -> tuple[str, Path, Any]:
    """What to call the JSON, the folder that its paths start from, and its contents."""
    source, folder = "--prompts", Path()
    if not text.lstrip().startswith("{"):
        path = Path(os.path.expanduser(text))
        source, folder = str(path), path.parent
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise LabellingError(
                f"--prompts {path}: there is no such file; give one, or the JSON itself: {FORM}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise LabellingError(
                f"--prompts {path}: cannot be read as UTF-8 ({error}); write the JSON again"
            ) from error

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise LabellingError(f'{source}: has "{min(twice)}" twice; join the two')
        return dict(pairs)

    try:
        return source, folder, json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LabellingError(f"{source}: is not valid JSON ({error}); its form is {FORM}") from None


def _owners(source: str, keys: Sequence[str], files: Sequence[Path]) -> dict[str, Path]:
    """The picture that each key names."""
    by_path = {os.path.abspath(file): file for file in files}
    owners: dict[str, Path] = {}
    unknown = []
    for key in keys:
        path = os.path.abspath(os.path.expanduser(key))
        matches = [by_path[path]] if path in by_path else [file for file in files if file.name == key]
        if len(matches) > 1:
            several = ", ".join(map(str, matches))
            raise LabellingError(f'{source}: "{key}" is the name of several pictures; write the path of one: {several}')
        if not matches:
            unknown.append(key)
        elif matches[0] in owners.values():
            other = next(name for name, owner in owners.items() if owner == matches[0])
            raise LabellingError(f'{source}: "{other}" and "{key}" are one picture, {matches[0]}; join the two')
        else:
            owners[key] = matches[0]
    if unknown:
        names = [file.name for file in files]
        near = difflib.get_close_matches(Path(unknown[0]).name, names, n=3, cutoff=0.5) or names[:3]
        listed = ", ".join(f'"{key}"' for key in unknown)
        raise LabellingError(
            f"{source}: has prompts of {listed}, not among the {len(files)} pictures of --input, such as "
            f"{', '.join(near)}; correct the name, or add the picture"
        )
    return owners


def _of_word(word: str, value: Any, folder: Path) -> WordPrompts:
    """The prompts of a word, with a mask from the folder.

    Raises:
        PromptError: they cannot be used, or there is no such mask.
    """
    try:
        if isinstance(value, Mapping) and value.get("mask") is not None:
            if not isinstance(value["mask"], str):
                raise PromptError(f"mask is {value['mask']!r}; give the path of a picture, in quotes")
            path = folder / os.path.expanduser(value["mask"])
            if not path.is_file():
                raise PromptError(f"the mask {path} is not there; paths start from the folder of the JSON file")
            value = {**value, "mask": path}
        return WordPrompts.of(value)
    except PromptError as error:
        raise PromptError(f'the prompts of "{word}": {error}') from error
