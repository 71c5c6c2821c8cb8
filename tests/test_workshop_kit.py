"""The kit for a room without a network: what is in it, and that it installs and runs from itself.

The long test runs where MI_KIT names a kit that `make workshop` wrote: `make workshop-test`, which
keeps in data/room.json what it took (`RECORD=1`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import workshop
from setup_env import LOCK
from workshop import Target

ROOT = Path(__file__).resolve().parents[1]
LOCKED = LOCK.read_text(encoding="utf-8")
SAMPLE = """# a comment
alpha==1.0
beta==2.0 ; sys_platform == 'win32'
gamma==3.1 ; python_full_version < '3.12'
gamma==3.2 ; python_full_version >= '3.12'
delta==4.0 ; platform_machine == 'aarch64' and sys_platform == 'linux'
"""


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("linux-x86_64", "3.11"), ["alpha==1.0", "gamma==3.1"]),
        (Target("linux-aarch64", "3.13"), ["alpha==1.0", "gamma==3.2", "delta==4.0"]),
        (Target("windows-x86_64", "3.12"), ["alpha==1.0", "beta==2.0", "gamma==3.2"]),
        (Target("macos-arm64", "3.12"), ["alpha==1.0", "gamma==3.2"]),
    ],
    ids=str,
)
def test_a_laptop_gets_what_its_markers_ask_for(target: Target, expected: list[str]) -> None:
    assert workshop.requirements(target, SAMPLE) == [*expected, "uv>=0.5"]


@pytest.mark.parametrize("platform", workshop.TAGS)
def test_every_platform_gets_one_version_of_everything(platform: str) -> None:
    for python in ("3.11", "3.12", "3.13"):
        target = Target(platform, python)
        names = [one.partition("==")[0] for one in workshop.requirements(target, LOCKED)]
        assert len(names) == len(set(names)) > 100 and "torch" in names
        options = target.pip()
        assert options[options.index("--python-version") + 1].startswith(f"{python}.")
        assert options.count("--platform") == len(workshop.TAGS[platform]) > 0


def test_a_room_of_any_laptops_is_of_platforms_that_are_known() -> None:
    assert set(workshop.ROOM) < set(workshop.TAGS)
    assert len({platform.partition("-")[0] for platform in workshop.ROOM}) == 3


def test_this_machine_is_one_of_them_and_agrees_with_its_own_markers() -> None:
    here = workshop.this_machine()
    assert here.platform in workshop.TAGS
    from packaging.markers import default_environment

    own, told = default_environment(), here.environment()
    for key in ("sys_platform", "platform_system", "os_name", "platform_machine", "python_version"):
        assert told[key] == own[key], key


def test_what_is_missing_is_told_and_what_is_only_source_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def pip(*arguments: object) -> bool:
        call = tuple(map(str, arguments))
        calls.append(call)
        if call[0] == "wheel":
            name = call[-1].partition("==")[0]
            tag = "none-any" if name == "alpha" else "cp311-linux"
            folder = Path(call[call.index("--wheel-dir") + 1])
            folder.mkdir(parents=True)
            (folder / f"{name}-1.0-py3-{tag}.whl").touch()
            return name in ("alpha", "gamma")
        return not {"alpha==1.0", "gamma==3.1"} & set(call)

    monkeypatch.setattr(workshop, "pip", pip)
    lost = list(workshop.download(Target("linux-x86_64", "3.11"), tmp_path, SAMPLE))
    assert lost == ["gamma==3.1"]  # alpha was built; gamma's wheel would fit one platform alone
    assert [path.name for path in tmp_path.iterdir()] == ["alpha-1.0-py3-none-any.whl"]
    assert all("--only-binary" in call for call in calls if call[0] == "download")


def test_without_a_site_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`make run site` first"):
        workshop.build(tmp_path / "kit", [workshop.this_machine()], ["pocket"], tmp_path / "none")
    assert not (tmp_path / "kit").exists()


@pytest.fixture
def small_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit without wheels, written as the real one is."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("the site")
    monkeypatch.setattr(workshop, "download", lambda *_: iter(["nosuch==1"]))
    target = workshop.this_machine()
    lost = workshop.build(tmp_path / "kit", [target], ["pocket"], tmp_path / "site")
    assert lost == [f"nosuch==1 for {target}"]
    return tmp_path / "kit"


def start_module(kit: Path):
    spec = importlib.util.spec_from_file_location("kit_start", kit / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_kit_holds_the_repository_the_site_and_a_start(small_kit: Path) -> None:
    repository = small_kit / "repository"
    assert (small_kit / "site" / "index.html").read_text() == "the site"
    for path in ("tools/setup_env.py", "data/pocket/model/model.safetensors", "requirements.lock"):
        assert (repository / path).read_bytes() == (ROOT / path).read_bytes()
    short = [path.name for path in (repository / "notebooks" / "short").iterdir()]
    assert "00_start_here_short.ipynb" in short
    assert not list(repository.rglob("__pycache__")) and not (repository / "build").exists()
    text = (small_kit / "START.md").read_text(encoding="utf-8")
    assert "python3 start.py" in text and "{" not in text
    assert workshop.this_machine().python in text and "`pocket`" in text


def test_start_asks_no_network_and_refuses_another_python(
    small_kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = start_module(small_kit)
    told = start.settings()
    for key in ("PIP_NO_INDEX", "UV_OFFLINE", "HF_HUB_OFFLINE"):
        assert told[key] == "1"
    assert told["PIP_FIND_LINKS"] == told["UV_FIND_LINKS"] == str(small_kit / "wheels")
    assert "MI_CACHE_DIR" not in told and "HF_HUB_CACHE" not in told  # only pocket is in it
    (small_kit / "models" / "mi-helpers").mkdir(parents=True)
    assert start.settings()["MI_CACHE_DIR"] == str(small_kit / "models" / "mi-helpers")
    (small_kit / "wheels" / "PYTHONS").write_text("3.97 3.99\n3.98")
    assert start.main(["--setup-only"]) == 1
    said = capsys.readouterr().out
    assert "3.97, 3.98, 3.99" in said and "python3.99 start.py" in said
    assert not (small_kit / "repository" / ".venv").exists()


def test_a_model_that_is_not_here_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MI_CACHE_DIR", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="make real"):
        workshop.copy_model("smollm2-q4", tmp_path / "models")
    (tmp_path / "empty").mkdir()
    from mi_helpers.models.smollm2 import converted_folder

    converted_folder().mkdir()
    (converted_folder() / "config.json").write_text("{}")
    assert "MI_MODEL=smollm2-q4" in workshop.copy_model("smollm2-q4", tmp_path / "models")
    assert list((tmp_path / "models" / "mi-helpers").glob("*/config.json"))


# A new namespace has no network at all; a laptop without one still talks to itself.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("MI_KIT" not in os.environ, reason="needs a kit: make workshop-test")
def test_a_kit_installs_and_runs_without_a_network_from_a_clean_home(tmp_path: Path) -> None:
    apart = ["unshare", "--net", "--map-root-user", sys.executable, "-c", LOOPBACK_UP]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"]).returncode:
        pytest.skip("no network namespace can be made here: unshare is missing or not allowed")
    kit = tmp_path / "kit"
    shutil.copytree(os.environ["MI_KIT"], kit)
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "LC_ALL")}
    environment = kept | {"HOME": str(home), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def inside(*command: str | Path, cwd: Path = kit) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*apart, *map(str, command)], cwd=cwd, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    probe = "import socket; socket.create_connection(('1.1.1.1', 443), 3)"
    assert "unreachable" in inside(sys.executable, "-c", probe).stdout
    python = Path(sys.executable).resolve()  # not this environment's: what the laptop would have
    start = time.monotonic()
    done = inside(python, "start.py", "--setup-only")
    assert done.returncode == 0 and "environment ready" in done.stdout, done.stdout[-3000:]
    took = {"set-up, s": round(time.monotonic() - start)}
    took["environment, GB"] = round(workshop.gigabytes(kit / "repository" / ".venv"), 2)
    assert took["environment, GB"] <= workshop.INSTALLED
    own = kit / "repository" / ".venv" / "bin" / "python"
    assert inside(own, "-m", "pip", "check").returncode == 0
    copies = inside(own, "tools/lab.py", "--copies-only", cwd=kit / "repository")
    assert copies.returncode == 0 and (kit / "repository" / "work").is_dir(), copies.stdout
    start = time.monotonic()
    environment |= {"HF_HUB_OFFLINE": "1", "MI_MODEL": "pocket", "MI_STRICT": "1"}
    done = inside(
        own, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-q", "-p", "no:cacheprovider",
        "notebooks/00_start_here.ipynb", cwd=kit / "repository",
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-3000:]
    took["notebook 00, s"] = round(time.monotonic() - start)
    start = time.monotonic()
    again = inside(python, "start.py", "--setup-only")
    assert again.returncode == 0 and "installing" not in again.stdout
    took["set-up again, s"] = round(time.monotonic() - start)
    print(took)
    if os.environ.get("MI_RECORD"):
        workshop.record("test", took | {"kind": str(workshop.this_machine())})
