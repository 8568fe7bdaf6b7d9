"""Questions of the page and their answers: words, clicks, files and maps, without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escnet.app.downloads import download
from escnet.app.limits import Limits
from escnet.app.models import LoadedModels
from escnet.app.pictures import UploadedPicture, read_uploaded
from escnet.app.pointing import sent_prompt, sent_prompts, takes_pointing
from escnet.app.sessions import Question, Session, Sessions, Shown
from escnet.app.typed_words import typed_words
from escnet.app.view_payload import mask_payload, picture_url, result_payload
from escnet.prompt_values import PromptError

if TYPE_CHECKING:
    from escnet.encoded_image import EncodedImage
    from escnet.vocabulary import Vocabulary


_KEPT = "picture not encoded again"


class NothingShownError(ValueError):
    """A question about an answer that the session does not have, or no longer."""


class Answering:
    """Answers for all sessions; many threads may ask.

    Args:
        models: those that are offered.
        limits: what is taken, and how much is kept.

    Every method takes the name of a session and gives what the view shows. They raise ImageError, VocabularyError,
    PromptError and WeightsError, and other ValueErrors with a sentence for the user.
    """

    def __init__(self, models: LoadedModels, limits: Limits | None = None) -> None:
        self.models = models
        self.limits = limits or Limits()
        self.sessions = Sessions(self.limits.sessions, self.limits.encoded)

    def segment(
        self, session: str, upload: tuple[Path, str] | None, words: str, background: str, model: str
    ) -> dict[str, Any]:
        """Segment a picture by words.

        Args:
            session: its name.
            upload: the path of the stored file, and what its user calls it; None for no picture.
            words, background: as they are typed.
            model: the name of one.
        """
        if upload is None:
            raise ValueError("there is no picture; drop one, take one with the camera, or choose an example")
        names, others = typed_words(words, background, self.limits)
        picture = read_uploaded(*upload, self.limits)
        kept = self.sessions.of(session)
        with kept.lock:
            segmenter = self.models.segmenter(model)
            # Wrong words should be told before the image is encoded.
            vocabulary = segmenter.vocabulary(names, others)
            encoded, encoding = _encoded(kept, picture, model, segmenter.encode)
            prompts = _still_valid(kept.shown, picture, model, vocabulary)
            return _answer(kept, Question(picture, model, encoded, vocabulary, prompts), encoding)

    def point(self, session: str, prompts: Any) -> dict[str, Any]:
        """Segment the picture that is shown anew, with clicks and boxes for some of its words; {} for none.

        `prompts` are as `sent_prompts` takes them.
        """
        kept = self.sessions.of(session)
        with kept.lock:
            question = replace(_shown(kept).question, prompts=sent_prompts(prompts, self.limits))
            return _answer(kept, question, None)

    def point_without_word(self, session: str, prompt: Any) -> dict[str, Any]:
        """One mask of what is pointed at in the picture that is shown, as `sent_prompt` takes it, without a word."""
        kept = self.sessions.of(session)
        with kept.lock:
            question = _shown(kept).question
            given = sent_prompt(prompt, self.limits)
            if not given:
                raise PromptError("there is nothing to point at; give points or a box")
            start = time.perf_counter()
            answer = question.encoded.masks(**given)
            seconds = time.perf_counter() - start
            quality = float(answer.quality.max())
            return {
                **mask_payload(question.encoded.pixels, answer.likeliest, quality),
                **_pointing(question),
                "prompts": question.prompts,
                "mask_prompt": given,
                "status": f"{question.model}: {_KEPT}; mask in {seconds:.2f} s, expected IoU {quality:.2f}.",
            }

    def file(self, session: str, kind: str) -> dict[str, Any]:
        """A file of the result that is shown, as `downloads.download` gives it."""
        kept = self.sessions.of(session)
        with kept.lock:
            shown = _shown(kept)
            return {"file": download(shown.result, kind, shown.question.picture.name)}

    def maps(self, session: str) -> tuple[str, str]:
        """The correlation maps and prompts behind the result that is shown: a data URL, and what it shows in words."""
        kept = self.sessions.of(session)
        with kept.lock:
            shown = _shown(kept)
            name, model = shown.question.picture.name, shown.question.model
            return picture_url(
                shown.result.draw_prompts(), "PNG"
            ), f"CLIP's maps, prompts and blocks of {model}: {name}"


def _answer(kept: Session, question: Question, encoding: float | None) -> dict[str, Any]:
    """Segment an encoded picture by words; the session keeps the answer once there is one.

    `encoding` are the seconds that encoding took; None for a picture that was encoded before.
    """
    start = time.perf_counter()
    result = question.encoded(question.vocabulary, prompts=question.prompts)
    seconds = time.perf_counter() - start
    kept.shown = Shown(question, result)
    encoded = _KEPT if encoding is None else f"picture encoded in {encoding:.2f} s"
    note = f" {question.picture.note}." if question.picture.note else ""
    return {
        **result_payload(result),
        **_pointing(question),
        "prompts": question.prompts,
        "status": f"{question.model}: {encoded}; words in {seconds:.2f} s.{note}",
    }


def _pointing(question: Question) -> dict[str, Any]:
    """What can be pointed at, and for which words; another "digest" says that earlier clicks no longer hold."""
    return {
        "digest": f"{question.picture.digest} {question.model}",
        "pointing": takes_pointing(question.encoded.segmenter.model),
        "words": question.vocabulary.names,
    }


def _encoded(
    kept: Session, picture: UploadedPicture, model: str, encode: Callable[[Any], EncodedImage]
) -> tuple[EncodedImage, float | None]:
    """The picture, encoded by the model, and the seconds that took; None for one that was kept."""
    key, start = (picture.digest, model), time.perf_counter()
    is_kept = key in kept.encoded
    encoded = kept.encoded.get(key, lambda: encode(picture.pixels))
    return encoded, None if is_kept else time.perf_counter() - start


def _shown(kept: Session) -> Shown:
    if kept.shown is None:
        raise NothingShownError("the page no longer keeps this picture; press Segment again")
    return kept.shown


def _still_valid(shown: Shown | None, picture: UploadedPicture, model: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """The prompts of words that are still asked for, in the same picture, of the same model."""
    if shown is None or (shown.question.picture.digest, shown.question.model) != (picture.digest, model):
        return {}
    return {word: given for word, given in shown.question.prompts.items() if word in vocabulary.names}
