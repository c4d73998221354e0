"""The token of a run's control socket: made anew for each run, for its user only.

Whoever may read the user's own files may command the run; other users of the machine,
and web pages, may not. The file is named after the address, so that a client that knows
the address finds the token by itself.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from lodestar_live.errors import StreamError, shown

_log = logging.getLogger(__name__)
_FOLDER_NAME = "LODESTAR_LIVE_TOKENS"  # environment: another folder than the usual
MAX_TOKEN_LENGTH = 128


def token_folder() -> Path:
    """Return the folder of token files, usually ``~/.lodestar-live/tokens``."""
    told = os.environ.get(_FOLDER_NAME)
    return Path(told) if told else Path.home() / ".lodestar-live" / "tokens"


def token_file(endpoint: str) -> Path:
    """Return where the token for an address lies, e.g. ``tcp-127.0.0.1-5558.token``."""
    name = re.sub(r"^tcp://localhost:", "tcp://127.0.0.1:", endpoint)
    return token_folder() / (re.sub(r"[^0-9A-Za-z.]+", "-", name) + ".token")


def find_token(endpoint: str) -> str | None:
    """Return the token of the run at an address; None: none that is ours.

    Raises
    ------
    StreamError
        Other users of this machine may read the file, or it holds no token.
    """
    path = token_file(endpoint)
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StreamError(
            f"{path}: cannot be read ({error}); expected the token of the run."
        ) from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise StreamError(
            f"{path}: other users of this machine may read it, so it is not used. "
            "Delete it and start the run again."
        )
    if not 0 < len(text) <= MAX_TOKEN_LENGTH:
        raise StreamError(f"{path}: holds {shown(text)}, not a token.")
    return text


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is in force, and the file that holds it."""

    text: str
    path: Path

    @classmethod
    def issue(cls, endpoint: str) -> Token:
        """Make a token for an address and write its file, mode 0600.

        Raises
        ------
        StreamError
            The folder cannot be written, or other users may write in it.
        """
        token = cls(secrets.token_urlsafe(32), token_file(endpoint))
        folder, new = token.path.parent, token.path.with_suffix(f".{os.getpid()}.new")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and folder.stat().st_mode & 0o022:
                raise StreamError(
                    f"{folder}: other users may write there; run `chmod 700 {folder}`, "
                    f"or set {_FOLDER_NAME} to a folder of your own."
                )
            new.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(new, flags, 0o600), "w", encoding="ascii") as file:
                file.write(token.text + "\n")
            new.replace(token.path)  # readers see the old token or the new one, whole
        except OSError as error:
            raise StreamError(
                f"{folder}: the control socket's token cannot be written "
                f"({error.strerror}). Set {_FOLDER_NAME} to a folder you may write to, "
                "or leave streams.control unset."
            ) from error
        return token

    def is_given_by(self, given: object) -> bool:
        """Tell whether a client gave this token; every guess takes the same time."""
        if not isinstance(given, str) or len(given) > MAX_TOKEN_LENGTH:
            return False
        if not given.isascii():
            return False
        return secrets.compare_digest(given.encode(), self.text.encode())

    def withdraw(self) -> None:
        """Delete the file, unless another run has put its own token there."""
        try:
            if self.path.read_text(encoding="ascii").strip() == self.text:
                self.path.unlink()
        except (OSError, ValueError) as error:
            _log.debug("token file %s left behind: %s", self.path, error)
