"""Published files brought to where they are looked for, unchanged."""

from __future__ import annotations

import shutil
from pathlib import Path

from escnet.safe_files import replacing


def bring(source: Path, target: Path, copy: bool) -> None:
    """Make `target` a copy of `source` or a link to it, in one step."""
    with replacing(target) as temporary:
        if copy:
            shutil.copyfile(source, temporary)
        else:
            temporary.symlink_to(source.resolve())
