"""CURVE keys: who may read the stream and send commands from other machines.

Each program has a pair of files, made by ``lodestar-live keys new NAME``: NAME.key is
public and is handed to the other side, NAME.key_secret never leaves its machine.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from lodestar_live.errors import StreamError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ZAP_DOMAIN = "lodestar"

_log = logging.getLogger(__name__)


def create_keys(name: str, folder: str | Path) -> tuple[Path, Path]:
    """Write a new pair of key files and return (public, secret).

    The secret file can be read by its owner only, from the moment it exists.

    Raises
    ------
    StreamError
        The name is not a plain file name, or the files exist already.
    """
    if _NAME.fullmatch(name) is None:
        raise StreamError(
            f"key name {name!r}: expected letters, digits, dots, dashes, e.g. lab-pc."
        )
    folder = Path(folder)
    public, secret = folder / f"{name}.key", folder / f"{name}.key_secret"
    public_key, secret_key = (key.decode() for key in zmq.curve_keypair())
    text = f'metadata\n    name = "{name}"\ncurve\n    public-key = "{public_key}"\n'
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(secret, text + f'    secret-key = "{secret_key}"\n', mode=0o600)
        _write_new(public, text, mode=0o644)
    except FileExistsError as error:
        raise StreamError(
            f"{error.filename}: exists already; delete it or choose another name."
        ) from error
    except OSError as error:
        raise StreamError(f"{folder}: cannot be written ({error.strerror}).") from error
    return public, secret


def load_keys(path: str | Path) -> tuple[bytes, bytes]:
    """Return (public, secret) of a secret key file.

    Raises
    ------
    StreamError
        Not a secret key file, or other users of this machine may read it.
    """
    path = Path(path)
    public_key, secret_key = _load(path)
    if secret_key is None:
        raise StreamError(f"{path}: holds no secret key; expected NAME.key_secret.")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise StreamError(
            f"{path}: other users of this machine may read it; run "
            f"`chmod 600 {path}`, or make new keys."
        )
    return public_key, secret_key


class KnownClients:
    """The clients let in: whose public key lies in a folder, as it is at this moment.

    A key put into the folder works at once, and one taken out stops at once: handshakes
    and commands ask here, and the publisher closes the connections of `withdrawn` ones.

    Raises
    ------
    StreamError
        The folder holds no public key, so nobody could ever connect.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._listing: frozenset[tuple[str, int, int]] | None = None
        self._keys: frozenset[bytes] = frozenset()
        self._let_in: set[bytes] = set()
        if not self.keys():
            raise StreamError(
                f"{self._folder}: holds no public keys; copy each client's NAME.key "
                "there."
            )

    def keys(self) -> frozenset[bytes]:
        """Return the public keys, z85; read anew when a file has changed."""
        listing = self._list()
        with self._lock:
            if listing != self._listing:
                paths = (self._folder / name for name, _, _ in sorted(listing))
                self._keys = frozenset(key for key in map(_public_key, paths) if key)
                self._listing = listing
            return self._keys

    def callback(self, _domain: str, key: bytes) -> bool:
        """Answer the handshake of a client (pyzmq's interface)."""
        is_known = key in self.keys()
        if is_known:
            with self._lock:
                self._let_in.add(bytes(key))
        return is_known

    def are_withdrawn(self) -> bool:
        """Tell, once, whether a client that was let in has lost its key since."""
        keys = self.keys()
        with self._lock:
            lost = self._let_in - keys
            self._let_in -= lost
        return bool(lost)

    def _list(self) -> frozenset[tuple[str, int, int]]:
        try:
            with os.scandir(self._folder) as entries:
                return frozenset(
                    (e.name, e.stat().st_mtime_ns, e.stat().st_size)
                    for e in entries
                    if e.name.endswith(".key")
                )
        except OSError:  # no folder: nobody is known
            return frozenset()


def _public_key(path: Path) -> bytes | None:
    try:
        return _load(path)[0]
    except StreamError as error:
        _log.warning("%s", error)
        return None


def authenticate(
    context: zmq.Context[zmq.Socket[bytes]], clients: KnownClients
) -> ThreadAuthenticator:
    """Ask `clients` at every handshake in `context`, on a thread of its own."""
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(
        domain=ZAP_DOMAIN, credentials_provider=clients
    )
    return authenticator


def secure_server(socket: zmq.Socket[bytes], keys: str | Path) -> None:
    """Make a socket speak CURVE as the server; call before it binds."""
    socket.curve_publickey, socket.curve_secretkey = load_keys(keys)
    socket.curve_server = True


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs to reach a secured publisher.

    Parameters
    ----------
    secret
        The client's own NAME.key_secret.
    server
        The publisher's public NAME.key.
    """

    secret: str | Path
    server: str | Path

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket speak CURVE as the client; call before it connects."""
        socket.curve_publickey, socket.curve_secretkey = load_keys(self.secret)
        socket.curve_serverkey = _load(Path(self.server))[0]


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise StreamError(
            f"{path}: not a key file ({error}); make one with "
            "`lodestar-live keys new NAME`."
        ) from error


def _write_new(path: Path, text: str, *, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, mode), "w", encoding="utf-8") as file:
        file.write(text)
