"""Keys: file modes, and who gets in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lodestar_live.errors import SettingsError, StreamError
from lodestar_live.settings import parse_settings
from lodestar_live.streams import ClientKeys, Publisher, Subscriber, request
from lodestar_live.streams.keys import create_keys, load_keys
from tests.streams.samples import RUN, make_keys, make_update, receive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with keys of a server, a friend and a stranger."""
    return make_keys(tmp_path, "server")


def secured(folder: Path, host: str = "127.0.0.1") -> Publisher:
    publisher = Publisher(
        f"tcp://{host}:0",
        None,
        control=f"tcp://{host}:0",
        keys=folder / "server.key_secret",
        clients=folder / "clients",
    )
    publisher.open(RUN)
    return publisher


def client_keys(folder: Path, name: str) -> ClientKeys:
    return ClientKeys(folder / f"{name}.key_secret", folder / "server.key")


def test_secret_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    public, secret = create_keys("lab-pc", tmp_path / "new" / "folder")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) & 0o077 == 0
    assert "secret" not in public.read_text()


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    create_keys("lab", tmp_path)
    before = (tmp_path / "lab.key_secret").read_bytes()
    with pytest.raises(StreamError, match="exists already"):
        create_keys("lab", tmp_path)
    assert (tmp_path / "lab.key_secret").read_bytes() == before


@pytest.mark.parametrize("name", ["../lab", "", "a/b", ".hidden", "a b", "x" * 65])
def test_key_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(StreamError, match="key name"):
        create_keys(name, tmp_path)


def test_secret_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    _, secret = create_keys("lab", tmp_path)
    secret.chmod(0o644)
    with pytest.raises(StreamError, match="chmod 600"):
        load_keys(secret)


def test_public_key_is_no_secret_key(tmp_path: Path) -> None:
    public, _ = create_keys("lab", tmp_path)
    with pytest.raises(StreamError, match="holds no secret key"):
        load_keys(public)


def test_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.key_secret").write_text("hello")
    with pytest.raises(StreamError, match=r"x\.key_secret: not a key file"):
        load_keys(tmp_path / "x.key_secret")


def test_friend_reads_and_commands(folder: Path) -> None:
    publisher = secured(folder)
    keys = client_keys(folder, "friend")
    try:
        with Subscriber(
            publisher.endpoints["stream"], ("tracks", "run"), keys=keys
        ) as reader:
            receive(reader, "run")
            publisher.write(make_update(1))
            assert receive(reader, "tracks").frame == 1
        assert request(publisher.endpoints["control"], "ping", keys=keys)["pong"]
    finally:
        publisher.close()


@pytest.mark.parametrize("name", ["stranger", None])
def test_others_get_nothing(folder: Path, name: str | None) -> None:
    publisher = secured(folder)
    keys = client_keys(folder, name) if name else None
    try:
        with Subscriber(publisher.endpoints["stream"], ("run",), keys=keys) as reader:
            # the friend's whole exchange takes a few ms; silence here is refusal
            assert reader.receive(timeout_s=0.5) is None
        with pytest.raises(StreamError, match="no answer"):
            request(publisher.endpoints["control"], "ping", timeout_s=0.3, keys=keys)
    finally:
        publisher.close()


def test_with_keys_other_addresses_are_allowed(folder: Path) -> None:
    publisher = secured(folder, host="0.0.0.0")
    publisher.close()


def test_server_without_any_client_key_is_refused(folder: Path) -> None:
    (folder / "clients" / "friend.key").unlink()
    with pytest.raises(StreamError, match="no public keys"):
        secured(folder)


def test_settings_need_both_or_neither() -> None:
    with pytest.raises(SettingsError, match="belong together"):
        parse_settings({"streams": {"keys": "server.key_secret"}})
