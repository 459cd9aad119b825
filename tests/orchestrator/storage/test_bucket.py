"""A bucket on a real S3 server: what is read is whole and undamaged, or not there."""

import io
import json
import os
import pickle
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from orchestrator.storage import answers
from orchestrator.storage import bucket as buckets
from orchestrator.storage.bucket import MANIFEST, Bucket
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

    bucket.filesystem = Replaced()
    assert bucket.read("a") == b"newer and larger"


def test_of_a_large_object_that_is_replaced_between_two_pieces_none_is_mixed_with_the_others(s3):
    bucket, other = Bucket(s3), Bucket(s3)
    old, new = (bytes([value]) * (buckets._PIECE_BYTES + 1) for value in (1, 2))
    bucket.write("a", old)
    replacing = [new]

    class Replaced:
        """A store in which somebody replaces the object after a reader's first piece, once."""

        def open_input_file(self, path):
            found = other.filesystem.open_input_file(path)

            def read(num_bytes):
                piece = found.read(num_bytes)
                if replacing:
                    other.write("a", replacing.pop())
                return piece

            return SimpleNamespace(read=read, size=found.size, metadata=found.metadata)

    bucket.filesystem = Replaced()
    assert bucket.read("a") == new


@pytest.mark.parametrize("prefix", ["", "/", "/inner/", "/a%20b", "/a+b", "/a=b&c", "/a%2Fb"])
def test_a_place_may_have_any_name_that_is_no_empty_one(s3, prefix):
    address, _, options = s3.partition("?")
    place = Bucket(f"{address}{prefix}?{options}").within("mine")
    place.write("k/one", b"1")
    assert place.names("k") == ["one"]
    assert pickle.loads(pickle.dumps(place)).parent.within("mine").read("k/one") == b"1"


def test_more_objects_than_a_store_lists_at_once_are_listed_and_removed(s3):
    bucket = Bucket(s3)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: bucket._write(f"many/{number:04d}", b""), range(1001)))
    assert len(bucket.names("many")) == 1001
    bucket.remove("many")
    assert bucket.names("many") == []


def test_a_stop_while_an_object_is_replaced_leaves_the_old_one_or_the_new_one(s3):
    bucket = Bucket(s3)
    bucket.write("a", b"old")
    opened = bucket.filesystem.open_output_stream
    stopped, written = threading.Event(), threading.Event()

    class Stopped:
        """A store in whose midst the user presses Ctrl-C."""

        def open_output_stream(self, path):
            stream = opened(path)
            os.kill(os.getpid(), signal.SIGINT)
            stopped.wait(30)
            return stream

    bucket.filesystem, write = Stopped(), bucket._write

    def told(name, content):
        write(name, content)
        written.set()

    bucket._write = told
    with pytest.raises(KeyboardInterrupt):
        bucket.write_for_certain("a", b"new")
    stopped.set()
    assert written.wait(30)
    assert Bucket(s3).read("a") == b"new"


class Refusing:
    """Connections to a server, of whose requests those whose first line has a text in it are refused."""

    def __init__(self, port):
        self._port, self.refuses, self.asked = port, b"", []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):  # until it is closed
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _ask(self, client, server):
        with client, server, suppress(OSError):
            while asked := client.recv(65536):
                self.asked.append(asked.partition(b"\r\n")[0])
                if self.refuses and self.refuses in self.asked[-1]:
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                server.sendall(asked)

    def _answer(self, server, client):
        with suppress(OSError):
            while answer := server.recv(65536):
                client.sendall(answer)

    def close(self):
        self._server.close()


@pytest.fixture
def refusing(s3_server):
    server = Refusing(s3_server)
    yield server
    server.close()


@pytest.mark.parametrize("request_of_it", [b"?uploads", b"partNumber=2", b"?uploadId="])
def test_a_large_object_that_is_refused_leaves_the_old_one(s3, s3_server, refusing, request_of_it):
    bucket = Bucket(s3.replace(f":{s3_server}", f":{refusing.port}"))
    bucket.write("a", b"old")
    refusing.refuses = request_of_it
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        bucket.write("a", bytes(2 * buckets._PIECE_BYTES))
    assert Bucket(s3).read("a") == b"old"


@pytest.fixture
def waited(monkeypatch):
    """For how long each answer is waited for."""
    found = []

    class Queue(SimpleQueue):
        def get(self, timeout):
            found.append(timeout)
            return super().get()

    monkeypatch.setattr(answers, "SimpleQueue", Queue)
    return found


def test_each_piece_of_a_large_object_is_waited_for(s3, s3_server, refusing, waited):
    bucket = Bucket(s3.replace(f":{s3_server}", f":{refusing.port}"))
    content = os.urandom(2 * buckets._PIECE_BYTES + 1)
    bucket.write("a", content)
    assert waited == [answers.seconds_for(buckets._PIECE_BYTES)] * 4  # three pieces and the end
    refusing.asked.clear()
    sent = []
    bucket._write("a", content, lambda: sent.append(sum(b"partNumber=" in line for line in refusing.asked)))
    assert sent == [1, 2, 2]
    waited.clear()
    assert Bucket(s3).read("a") == content
    assert waited == [30, *[answers.seconds_for(buckets._PIECE_BYTES)] * 4, 30]  # and between opening and looking again
    bucket.write("a", b"small")
    waited.clear()
    assert bucket.read("a") == b"small"
    assert max(waited) < 31


def test_a_store_that_shows_no_progress_holds_nobody_long(waited, monkeypatch):
    store = SimpleNamespace(open_output_stream=lambda _path: io.BytesIO())
    monkeypatch.setattr(buckets.pafs, "FileSystem", SimpleNamespace(from_uri=lambda _address: (store, "photos")))
    Bucket("gs://photos").write("a", bytes(20_000_000))
    assert waited == [50, 50]  # at 1 MB/s, and the end


def test_where_a_bucket_is_is_asked_once(monkeypatch):
    asked = []

    class Store:
        """One that is told a region, or finds out."""

        @staticmethod
        def from_uri(address):
            asked.append("region=" not in address)
            return SimpleNamespace(region="eu-north-1"), "photos/runs"

    monkeypatch.setattr(buckets.pafs, "FileSystem", Store)
    bucket = Bucket("s3://photos/runs?scheme=https")
    pickle.loads(pickle.dumps(bucket)).within("mine").parent  # noqa: B018
    assert asked == [True, False, False, False]
    assert bucket.address == "s3://photos/runs?scheme=https&region=eu-north-1"


def test_a_folder_comes_back_as_it_was(s3, folder, tmp_path):
    bucket = Bucket(s3)
    bucket.push(folder, "kept/it")
    assert bucket.pull("kept/it", tmp_path / "back")
    assert content(tmp_path / "back") == content(folder)
    assert not bucket.pull("kept/other", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "made"]


def test_a_folder_that_another_process_brings_here_at_the_same_time_is_no_error(s3, folder, tmp_path, monkeypatch):
    Bucket(s3).push(folder, "it")
    assert Bucket(s3).pull("it", tmp_path / "back")
    monkeypatch.setattr(Path, "exists", lambda path: False)  # when this process looked
    assert Bucket(s3).pull("it", tmp_path / "back")
    assert content(tmp_path / "back") == content(folder)


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
            "ftp://… is no storage that is known; an address begins with s3://",
        ),
        ("s3:///place", "s3://… is no storage"),
        ("s3://me:s3cret@models/place", "holds a key.*AWS_ACCESS_KEY_ID"),
        ("s3://models/place?secret_key=s3cret", "holds a key"),
        ("abfss://models@me.dfs.core.windows.net/place?sv=1&sig=s3cret", "holds a key"),
        ("s3://models/place?colour=red", "'s3://models/place' cannot be understood: .*colour"),
        ("s3://models/place?secretkey=s3cret", "'s3://models/place' cannot be understood: [^;]*secretkey[^;]*$"),
        ("s3://models/my place?secretkey=s3cret", "'s3://models/my place' cannot be understood: .*syntax error"),
        ("s3://models/my bucket?region=eu-north-1", r"cannot be understood: .*; write s3://models/my%20bucket$"),
        ("s3://models/müll/100%25?secretkey=s3cret", r"cannot be understood: .*; write s3://models/m%C3%BCll/100%25$"),
        ("s3://s3cret@models/place", "holds a key"),
        ("s3://models//place", "a # or an empty name in it"),
        ("s3://models/place#1?region=eu-north-1", "a # or an empty name in it; write %23 for a #"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address, said):
    with pytest.raises(InputError, match=said) as refused:
        Bucket(address)
    assert "s3cret" not in str(refused.value)
