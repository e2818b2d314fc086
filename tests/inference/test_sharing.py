"""Uploads to a hub on localhost: visibility, replaced files and mistakes."""

import pytest
from huggingface_hub import close_session, constants

from flash_internimage.errors import UserError
from flash_internimage.inference.sharing import upload
from tests.inference.fake_hub import serving

TARGET = "hf://me/my-detector"


@pytest.fixture
def hub(monkeypatch):
    with serving() as hub:
        close_session()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub
        close_session()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/README.md").write_text("---\nlicense: apache-2.0\n---\n\n# My detector\n")
    return tmp_path / "shared"


def test_visibility_is_the_default_of_the_owner_unless_private(hub, folder):
    upload(folder, TARGET, private=False)
    assert not {"private", "visibility"} & set(hub.created[-1])
    upload(folder, "hf://me/other", private=True)
    assert hub.private == {"me/other"}
    upload(folder, "hf://me/other", private=True)
    assert len(hub.commits) == 3


def test_private_refuses_a_public_repository(hub, folder):
    hub.repositories["me/my-detector"] = {}
    with pytest.raises(UserError, match="hf://me/my-detector: --private, but this repository exists and is public; make it"):
        upload(folder, TARGET, private=True)
    assert (hub.commits, hub.repositories) == ([], {"me/my-detector": {}})


def test_images_of_an_earlier_upload_are_deleted_and_other_files_kept(hub, folder):
    (folder / "images").mkdir()
    for number in (1, 2):
        (folder / f"images/{number}.jpg").write_bytes(b"image")
    upload(folder, TARGET, private=False)
    hub.repositories["me/my-detector"].update({"images/logo.jpg": b"", "notes.md": b""})
    (folder / "images/2.jpg").unlink()
    upload(folder, TARGET, private=False)
    assert set(hub.repositories["me/my-detector"]) == {"README.md", "images/1.jpg", "images/logo.jpg", "notes.md"}
    (folder / "images/1.jpg").unlink()
    upload(folder, TARGET, private=False)
    assert set(hub.repositories["me/my-detector"]) == {"README.md", "images/logo.jpg", "notes.md"}


def test_unknown_license_is_one_sentence_before_a_repository_is_created(hub, folder):
    (folder / "README.md").write_text("---\nlicense: apache-3.0\n---\n\n# My detector\n")
    with pytest.raises(UserError, match="--license: the hub refuses .*must be one of .*apache-3.0.*; see https://"):
        upload(folder, TARGET, private=False)
    assert hub.created == []


def test_unreachable_hub_is_one_sentence(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"hf://me/my-detector: the hub at http://127.0.0.1:9 cannot be reached \(.+\); try again"
    ):
        upload(folder, TARGET, private=False)


def test_name_that_the_hub_does_not_allow_is_one_sentence(hub, folder):
    with pytest.raises(UserError, match=r"hf://me/a..b: expected hf://OWNER/NAME \(.+\)"):
        upload(folder, "hf://me/a..b", private=False)
