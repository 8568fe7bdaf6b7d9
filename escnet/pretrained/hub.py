"""Files of the Hugging Face hub: "hub:owner/name[@revision]" in, paths in its cache out, or one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from escnet.pretrained.files import WeightsError, first_line
from escnet.pretrained.public import require_reachable

PREFIX = "hub:"
_LOG_IN = "log in by hf auth login or pass its token="
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REFERENCE = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+))?", re.ASCII)


class HubReference(NamedTuple):
    """What "hub:owner/name@revision" names.

    Attributes:
      repository: "owner/name".
      revision: a branch, a tag or a commit; None for the newest of the main branch.
    """

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_reference(text: object) -> bool:
    """Whether a text names a repository of the hub."""
    return str(text).startswith(PREFIX)


def parse_reference(text: str) -> HubReference:
    """Read "hub:owner/name[@revision]"; the prefix may be missing.

    Raises:
      WeightsError: it is none.
    """
    match = _REFERENCE.fullmatch(text.removeprefix(PREFIX))
    if not match or ".." in text or "--" in match[1]:
        raise WeightsError(f'"{text}" is no model of the hub; write {PREFIX}owner/name or {PREFIX}owner/name@revision')
    return HubReference(match[1], match[2])


def fetch_from_hub(reference: HubReference, files: Sequence[str], token: str | None = None) -> tuple[list[Path], str]:
    """The local paths of files of a repository, fetched into the hub's cache where they are not, and their commit.

    All are of one commit, that of the first, even where the branch moves meanwhile. Without a network, what an earlier
    call has fetched of the same revision is taken.

    Arguments:
      reference: of the repository.
      files: their names in it.
      token: of an account that may read it; else the one that the hub's client knows.

    Raises:
      WeightsError: they cannot be had; the message says what is wrong and what to do.
    """
    revision, paths = reference.revision, []
    with hub_errors(reference, "fetched from"):
        is_offline = constants.HF_HUB_OFFLINE or not _is_reachable()
        for name in files:
            path = Path(
                hf_hub_download(
                    reference.repository,
                    name,
                    revision=revision,
                    token=token,
                    local_files_only=is_offline,
                )
            )
            # .../snapshots/COMMIT/NAME
            revision = path.relative_to(path.parents[name.count("/") + 1]).parts[0]
            paths.append(path)
    return paths, str(revision)


@contextmanager
def hub_errors(reference: HubReference, action: str) -> Iterator[None]:
    """Turn what the hub's client raises within the block into one sentence.

    Arguments:
      reference: of the repository.
      action: what was tried, "fetched from" or "written to".

    Raises:
      WeightsError: in place of the client's errors.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # the client, and the one of HTTP below it, raise nearly anything
        raise WeightsError(f"{reference}: {_sentence(error, reference, action)}") from error


def _sentence(error: Exception, reference: HubReference, action: str) -> str:
    at = constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        return f"its owner grants access one by one; ask for it at {at}/{reference.repository}, and {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f'it has no revision "{reference.revision}"; its branches and tags are listed at {at}'
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{at} cannot be reached, and it was not fetched before; check the network, or pass the path of a folder "
            "that was fetched elsewhere"
        )
    if isinstance(error, EntryNotFoundError):
        return f"it is no model of escnet, since it has no such file ({first_line(error)})"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository at {at}, or it is private: check the name and, if it is, {_LOG_IN}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return f"{at} refuses ({status}); with an account that may do this, {_LOG_IN}"
    return f"could not be {action} {at} ({first_line(error)}); try again, which goes on with what is missing"


def _is_reachable() -> bool:
    # The hub's own client tries again for most of a minute before it gives up on a machine without internet.
    try:
        require_reachable(constants.ENDPOINT)
    except OSError:
        return False
    return True
