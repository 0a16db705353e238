"""Files by their content: in a folder and in an fsspec address, missing, damaged, and with names that are none."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest

from deployments.scenes.blobs import Blobs, blobs_of
from serve.config.scene_models import SceneStoreModel
from serve.errors import ConfigError, NotFound, Unavailable
from tests.support.bucket import Bucket

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(params=["", "file://", "memory://", "bucket://"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param in ("", "file://"):
        return Blobs(f"{request.param}{tmp_path}/deep/blobs")
    return Blobs(f"{request.param}blobs-{secrets.token_hex(4)}/deep")


def test_a_file_is_known_by_its_content(blobs: Blobs) -> None:
    assert blobs.list() == {}
    assert blobs.write(b"") == EMPTY
    digest = blobs.write(b"0123456789")
    assert blobs.write(b"0123456789") == digest
    assert blobs.read(digest) == b"0123456789"
    assert (blobs.read_range(digest, 2, 3), blobs.read_range(digest, 8, 5)) == (b"234", b"89")
    assert blobs.read_range(digest, 10, 5) == blobs.read_range(digest, 99, 5) == b""
    assert blobs.read(EMPTY) == blobs.read_range(EMPTY, 0, 5) == b""
    assert blobs.size(digest) == 10
    assert blobs.list() == {EMPTY: 0, digest: 10}
    blobs.delete(digest)
    blobs.delete(digest)
    assert blobs.list() == {EMPTY: 0}


def test_a_file_is_taken_as_it_is(blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.write_bytes(b"made")
    blobs.take(path, Blobs.digest(b"made"))
    assert not path.exists()
    assert blobs.read(Blobs.digest(b"made")) == b"made"


@pytest.mark.parametrize(
    "name", ["0" * 64, "../" + "0" * 61, "/etc/passwd", "", "owner", "０" * 64, "A" * 64, f"{EMPTY}\n"]
)
def test_what_is_not_there_or_no_digest_is_gone(blobs: Blobs, name: str) -> None:
    blobs.write(b"something")
    calls = (
        lambda: blobs.read(name),
        lambda: blobs.read_range(name, 0, 1),
        lambda: blobs.size(name),
        lambda: blobs.path(name) or blobs.size(name),
    )
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("scene_gone", "scene")


def test_a_damaged_file_is_noticed_and_healed_by_storing_it_again(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    digest = blobs.write(b"whole")
    path = blobs.path(digest)
    assert path == tmp_path / digest
    path.write_bytes(b"half")
    with pytest.raises(Unavailable) as caught:
        blobs.read(digest)
    assert caught.value.code == "scene_damaged"
    blobs.write(b"whole")
    assert blobs.read(digest) == b"whole"


def test_a_folder_that_is_not_mounted_is_not_a_deleted_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        Blobs(str(tmp_path / "nothing")).read(EMPTY)
    assert caught.value.code == "store_io"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        Blobs(str(tmp_path / "file" / "blobs")).write(b"x")


def test_an_address_that_nobody_knows_is_an_error_of_the_cluster_file() -> None:
    with pytest.raises(ConfigError, match="nosuch") as caught:
        Blobs("nosuch://bucket/prefix")
    assert caught.value.param == "blobs"


def test_an_object_store_whose_driver_is_not_installed_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match="s3fs") as caught:
        Blobs("s3://bucket/prefix")
    assert caught.value.param == "blobs"


def test_an_object_store_that_fails_is_no_file_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(f"bucket://{secrets.token_hex(4)}")
    digest = blobs.write(b"0123456789")

    def failing(*args: object, **options: object) -> bytes:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Bucket, "cat_file", failing)
    for call in (lambda: blobs.read(digest), lambda: blobs.read_range(digest, 2, 3)):
        with pytest.raises(Unavailable, match="Access Denied") as caught:
            call()
        assert caught.value.code == "store_io"


def test_they_lie_in_the_stores_folder_unless_it_says_where(tmp_path: Path) -> None:
    inside = SceneStoreModel(kind="scene_store", path=str(tmp_path))
    digest = blobs_of(inside).write(b"x")
    assert blobs_of(inside).path(digest) == tmp_path / "blobs" / digest
    elsewhere = SceneStoreModel(kind="scene_store", path=str(tmp_path), blobs="memory://elsewhere")
    assert blobs_of(elsewhere).path(blobs_of(elsewhere).write(b"x")) is None
