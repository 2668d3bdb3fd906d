"""The files of runs."""

import hashlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.artifacts import ArtifactStore
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound
from modelyard.core.instants import EPOCH, FixedClock
from modelyard.core.work import Store
from modelyard.tracking import ArtifactFiles, ExperimentTracker
from modelyard.tracking.files import CHUNK

DAY = 86_400


@pytest.fixture
def clock():
    return FixedClock(EPOCH)


@pytest.fixture
def files(tmp_path, clock):
    return ArtifactFiles(Store.at(tmp_path, clock=clock))


def put(files, path, content):
    return files.write(path, io.BytesIO(content))


def blobs(files):
    return [key.rpartition("/")[2] for key in files.store.blobs.keys("sha256/")]


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", "a\\b", "a\0b", "a\nb", "..", ".", 7, None),
        *("a/" + "n" * 256, "/".join(["n" * 200] * 30), "a\ud800", "a\u202eb"),
    ],
    ids=repr,
)
def test_a_path_that_leads_out_or_astray_is_refused_everywhere(files, path):
    for call in (files.entry, files.open, files.delete, files.begin, lambda it: put(files, it, b"x")):
        with pytest.raises(Invalid, match="no path of a file"):
            call(path)
    if path:
        with pytest.raises(Invalid, match="no path of a file"):
            files.list(path)


@pytest.mark.parametrize("path", [".hidden", "a b/ü.txt", "%2e%2e/x", "...", "a.b/c-d_e", "n" * 255, "a/..b"])
def test_a_plain_path_is_a_name_and_nothing_else(files, path):
    put(files, path, b"x")
    assert files.open(path).read() == b"x"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_a_file_comes_back_whole_however_it_is_read(files, size):
    content = os.urandom(size)
    entry = put(files, "a/b", content)
    assert (entry.size, entry.digest) == (size, hashlib.sha256(content).hexdigest())
    assert files.open("a/b").read() == content
    with files.open("a/b") as stream:
        parts = iter(lambda: stream.read(100_003), b"")
        assert b"".join(parts) == content


def test_damaged_bytes_are_never_given_whole(files):
    content = os.urandom(2 * CHUNK)
    entry = put(files, "a/b", content)
    path = files.store.blobs.path(f"sha256/{entry.digest[:2]}/{entry.digest}")
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Damaged, match="a/b is damaged"), files.open("a/b") as stream:  # noqa: PT012
        while stream.read(1000):
            pass
    with pytest.raises(Damaged):
        files.save("a/b", files.store.folder / "copy")
    assert not (files.store.folder / "copy").exists()
    assert not list(files.store.folder.glob(".part*"))
    path.write_bytes(content[:CHUNK])
    with pytest.raises(Damaged):
        files.open("a/b").read()


def test_equal_files_are_stored_once_and_collected_a_day_after_the_last_is_gone(files, clock):
    put(files, "a/one", b"same")
    put(files, "b/two", b"same")
    put(files, "b/three", b"other")
    assert len(blobs(files)) == 2
    assert files.delete("a/one") == 1
    clock.advance(2 * DAY)
    assert files.collect() == 0
    assert files.delete("b") == 2
    put(files, "c", b"other")
    assert files.collect() == 1
    assert blobs(files) == [hashlib.sha256(b"other").hexdigest()]
    clock.advance(2 * DAY)
    assert files.collect() == 0
    assert files.open("c").read() == b"other"


def test_bytes_of_a_killed_writer_are_collected_a_day_after_they_were_first_seen(files, clock):
    digest = hashlib.sha256(b"lost").hexdigest()
    files.store.blobs.put(f"sha256/{digest[:2]}/{digest}", io.BytesIO(b"lost"))
    assert files.collect() == 0
    clock.advance(DAY + 1)
    assert files.collect() == 1
    assert blobs(files) == []


def test_a_file_that_is_written_again_has_its_new_bytes(files):
    put(files, "a", b"old")
    put(files, "a", b"new")
    assert files.open("a").read() == b"new"
    assert len(files.list()) == 1


def test_a_file_is_no_folder_and_a_folder_is_no_file(files):
    put(files, "a/b", b"x")
    with pytest.raises(Conflict, match="is a folder"):
        put(files, "a", b"y")
    with pytest.raises(Conflict, match="'a/b' is a file"):
        put(files, "a/b/c/d", b"y")
    with pytest.raises(Invalid, match="is a folder"):
        files.open("a")
    assert files.list("a/b/c") == []


NAMES = st.sampled_from(["a", "b", "a.b", "c d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.booleans(), PATHS), max_size=12))
def test_folders_behave_as_a_dictionary_of_paths_does(tmp_path_factory, steps):
    files = ArtifactFiles(Store.at(tmp_path_factory.mktemp("files")))
    model = {}
    for adds, path in steps:
        inside = [known for known in model if known.startswith(f"{path}/")]
        if adds:
            blocked = inside or any(path.startswith(f"{known}/") for known in model)
            try:
                put(files, path, path.encode())
            except Conflict:
                assert blocked
            else:
                assert not blocked
                model[path] = path.encode()
        else:
            gone = inside + ([path] if path in model else [])
            try:
                assert files.delete(path) == len(gone)
            except NotFound:
                assert not gone
            for known in gone:
                del model[known]
    assert {entry.path: files.open(entry.path).read() for entry in files.walk()} == model
    for folder in {"", *(path.rpartition("/")[0] for path in model), "nowhere"}:
        start = f"{folder}/" if folder else ""
        names = {path.removeprefix(start).partition("/")[0] for path in model if path.startswith(start)}
        assert {entry.name for entry in files.list(folder)} == names


def test_parts_make_a_file(files, clock):
    upload = files.begin("big/model.bin")
    parts = {number: os.urandom(size) for number, size in ((1, CHUNK + 3), (2, 0), (3, 10))}
    digests = {number: files.write_part(upload, number, io.BytesIO(parts[number])) for number in (3, 1, 2)}
    files.write_part(upload, 3, io.BytesIO(b"wrong"))
    with pytest.raises(Conflict, match="Part 3"):
        files.complete(upload, sorted(digests.items()))
    files.write_part(upload, 3, io.BytesIO(parts[3]))
    for wrong in ([], [(2, digests[2]), (1, digests[1])], [(1, digests[1]), (1, digests[1])]):
        with pytest.raises(Invalid, match="order"):
            files.complete(upload, wrong)
    with pytest.raises(Conflict, match="Part 4"):
        files.complete(upload, [(1, digests[1]), (4, digests[1])])
    with pytest.raises(NotFound):
        files.entry("big/model.bin")
    files.complete(upload, [(number, f'"{digests[number]}"') for number in (1, 2, 3)])
    assert files.open("big/model.bin").read() == parts[1] + parts[2] + parts[3]
    for call in (lambda: files.complete(upload, [(1, digests[1])]), lambda: files.write_part(upload, 1, io.BytesIO())):
        with pytest.raises(NotFound, match="no upload"):
            call()
    for number in (0, 10_001, "1", True):
        with pytest.raises(Invalid, match="number"):
            files.write_part(files.begin("x"), number, io.BytesIO())
    clock.advance(2 * DAY)
    files.collect()
    assert len(blobs(files)) == 1
    assert not files.abort(upload)


def test_a_source_that_breaks_leaves_no_file(files):
    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            if self.given:
                raise ConnectionError("gone")
            self.given = True
            buffer[:3] = b"abc"
            return 3

        given = False

    with pytest.raises(ConnectionError):
        files.write("a", Broken())
    assert files.list() == []
    assert blobs(files) == []


def test_a_run_keeps_its_files_and_the_log_their_digest(tmp_path):
    tracker = ExperimentTracker(tmp_path / "yard")
    run = tracker.create_run("0")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pkl").write_bytes(b"\x80\x04N.")
    (tmp_path / "model" / "deep").mkdir()
    (tmp_path / "model" / "deep" / "MLmodel").write_text("flavors: {}")
    tracker.log_artifact(run.run_id, tmp_path / "model", folder="out")
    assert [(one.path, one.is_dir) for one in tracker.list_artifacts(run.run_id, folder="out/model")] == [
        ("out/model/deep", True),
        ("out/model/model.pkl", False),
    ]
    tracker.files.copy_to(f"0/{run.run_id}/artifacts/out/model", tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "MLmodel").read_text() == "flavors: {}"
    tracker.end_run(run.run_id)
    with tracker.store.reading() as rows:
        told = rows.one("SELECT details FROM events WHERE event_type = 'run_ended'")
    assert '"files":2' in told["details"]
    for path in ("../secret", "/etc/passwd", ""):
        with pytest.raises(Invalid):
            tracker.download_artifact(run.run_id, path, tmp_path / "x")
        with pytest.raises(Invalid):
            tracker.delete_artifact(run.run_id, path)
    with pytest.raises(Invalid):
        tracker.log_artifact(run.run_id, tmp_path / "nothing")
    with pytest.raises(Invalid):
        tracker.list_artifacts(run.run_id, folder="../other")
    assert tracker.delete_artifact(run.run_id, "out") == 2
    assert tracker.list_artifacts(run.run_id) == []


def test_files_that_lie_elsewhere_are_not_ours(tmp_path):
    tracker = ExperimentTracker(tmp_path)
    run = tracker.create_run(tracker.create_experiment("a", artifact_location="s3://bucket").experiment_id)
    with pytest.raises(Conflict, match="s3://bucket"):
        tracker.list_artifacts(run.run_id)


def test_bytes_that_are_a_models_too_are_stored_once_and_outlive_the_runs_file(files, clock, small_model):
    artifacts = ArtifactStore(files.store)
    put(files, "a/model.txt", small_model.read_bytes())
    assert len(blobs(files)) == 1
    admitted = artifacts.add(small_model)
    assert len(blobs(files)) == 1
    files.delete("a/model.txt")
    clock.advance(2 * DAY)
    assert files.collect() == 0
    assert artifacts.fetch(admitted.digest).read_bytes() == small_model.read_bytes()


def test_a_runs_file_outlives_the_model_with_its_bytes(files, clock, small_model):
    artifacts = ArtifactStore(files.store)
    artifacts.add(small_model)
    put(files, "a/model.txt", small_model.read_bytes())
    clock.advance(400 * DAY)
    for _ in range(2):
        assert artifacts.collect().blobs == ()
        clock.advance(400 * DAY)
    assert files.open("a/model.txt").read() == small_model.read_bytes()
    files.delete("a/model.txt")
    clock.advance(2 * DAY)
    assert files.collect() == 1
    assert blobs(files) == []
