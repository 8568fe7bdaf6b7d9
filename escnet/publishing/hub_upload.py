"""A model written to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants

from escnet.pretrained.hub import HubReference, hub_errors
from escnet.pretrained.public import require_reachable
from escnet.publishing.model_folder import CONFIG, DELTA, MANIFEST, README, WHOLE


def push_folder(
    folder: Path,
    reference: HubReference,
    private: bool,
    token: str | None,
    message: str,
) -> str:
    """Write the folder of a model to a repository, which is made if it is missing, in one commit; returns its address.

    Args:
        folder: that `write_model_folder` wrote.
        reference: the repository; its revision is a branch, made if it is missing.
        private: of a repository that is made; the visibility of one that is there stays.
        token: of an account that may write there; else the one that `hf auth login` stored.
        message: of the commit.

    Raises:
        WeightsError: it cannot be written; the message says why.
    """
    api = HfApi(token=token)
    with hub_errors(reference, "written to"):
        require_reachable(constants.ENDPOINT)
        api.create_repo(reference.repository, private=private, exist_ok=True)
        if reference.revision:
            api.create_branch(reference.repository, branch=reference.revision, exist_ok=True)
        written = {path.name for path in folder.iterdir()}
        commit = api.upload_folder(
            repo_id=reference.repository,
            folder_path=folder,
            revision=reference.revision,
            commit_message=message,
            # The other weight file, where a delta follows a complete model.
            delete_patterns=[name for name in (MANIFEST, CONFIG, README, WHOLE, DELTA) if name not in written],
        )
    return str(commit.commit_url)
