"""A bucket on a real S3 server: what is read is whole and undamaged, or not there."""

import json
import pickle

import pytest

from orchestrator.bucket import MANIFEST, Bucket
from trainables.errors import InputError

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "one").write_bytes(b"1")
    (made / "inner/two").write_bytes(b"22")
    return made


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_objects_are_written_replaced_listed_and_removed(s3):
    bucket = pickle.loads(pickle.dumps(Bucket(s3)))  # as Ray hands it to trials
    assert bucket.read("a") is None
    assert bucket.names() == []
    bucket.write("a", b"old")
    bucket.write("a", b"new")
    bucket.write("b/c", b"")
    assert bucket.read("a") == b"new"
    assert bucket.names() == ["a", "b"]
    assert bucket.within("b").read("c") == b""
    bucket.remove("b")
    bucket.remove("not there")
    assert bucket.names() == ["a"]
    bucket.require_usable()
    assert bucket.names() == ["a"]


def test_an_object_that_is_replaced_while_it_is_read_is_read_whole(s3):
    bucket, other = Bucket(s3), Bucket(s3)
    bucket.write("a", b"old")

    class Replaced:
        """A store in which somebody replaces the object between a reader's two requests, once."""

        def open_input_file(self, path):
            found = other.filesystem.open_input_file(path)
            if found.size() == 3:
                other.write("a", b"newer and larger")
            return found

        def get_file_info(self, path):
            return other.filesystem.get_file_info(path)

    bucket.filesystem = Replaced()
    assert bucket.read("a") == b"newer and larger"


def test_a_folder_comes_back_as_it_was(s3, folder, tmp_path):
    bucket = Bucket(s3)
    bucket.push(folder, "kept/it")
    assert bucket.pull("kept/it", tmp_path / "back")
    assert content(tmp_path / "back") == content(folder)
    assert not bucket.pull("kept/other", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "made"]


DAMAGES = {
    "an object is gone": lambda bucket: bucket.remove("it/inner/two"),
    "an object is another": lambda bucket: bucket.write("it/one", b"7"),
    "the manifest is not written yet": lambda bucket: bucket.remove(f"it/{MANIFEST}"),
    "the manifest is no JSON": lambda bucket: bucket.write(f"it/{MANIFEST}", b"{"),
    "the manifest is a list": lambda bucket: bucket.write(f"it/{MANIFEST}", b"[]"),
    "the manifest leads outside": lambda bucket: bucket.write(f"it/{MANIFEST}", json.dumps({"../x": "0"}).encode()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_not_whole_is_not_there(s3, folder, tmp_path, damage):
    bucket = Bucket(s3)
    bucket.push(folder, "it")
    DAMAGES[damage](bucket)
    assert not bucket.pull("it", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_bucket_that_is_not_there_is_named_with_the_reason(s3):
    with pytest.raises(InputError, match=r"s3://nowhere/.* cannot be written to: .*bucket does not exist"):
        Bucket(s3.replace("models", "nowhere")).require_usable()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "ftp://host/place",
            "ftp://… is no storage that is known; give a folder, or an address that begins with s3://",
        ),
        ("s3:///place", "s3://… is no storage"),
        ("s3://me:s3cret@models/place", "holds a key.*AWS_ACCESS_KEY_ID"),
        ("s3://models/place?secret_key=s3cret", "holds a key"),
        ("abfss://models@me.dfs.core.windows.net/place?sv=1&sig=s3cret", "holds a key"),
        ("s3://models/place?colour=red", "cannot be understood: .*colour"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address, said):
    with pytest.raises(InputError, match=said) as refused:
        Bucket(address)
    assert "s3cret" not in str(refused.value)
