"""The kit for a room without a network: what is in it, and that it installs and runs from itself.

The long test runs where MI_KIT names a kit that `make workshop` wrote: `make workshop-test`, which
keeps in data/room.json what it took (`RECORD=1`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import laptops
import pytest
import workshop
from laptops import Target
from setup_env import LOCK, SPACE

ROOT = Path(__file__).resolve().parents[1]
LOCKED = LOCK.read_text(encoding="utf-8")
SAMPLE = """# a comment
alpha==1.0
beta==2.0 ; sys_platform == 'win32'
gamma==3.1 ; python_full_version < '3.12'
gamma==3.2 ; python_full_version >= '3.12'
delta==4.0 ; platform_machine == 'aarch64' and sys_platform == 'linux'
"""
EARLY = (
    SAMPLE
    + """omega==1.0 ; python_full_version < '3.11.5'
omega==2.0 ; python_full_version >= '3.11.5'
"""
)


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
    assert laptops.requirements(target, SAMPLE) == [*expected, "uv>=0.5"]


@pytest.mark.parametrize("platform", laptops.TAGS)
def test_every_platform_gets_one_version_of_everything(platform: str) -> None:
    for python in laptops.PYTHONS:
        target = Target(platform, python)
        for patch in (laptops.FIRST, laptops.LAST):
            wanted = laptops.requirements(target, LOCKED, patch)
            names = [one.partition("==")[0] for one in wanted]
            assert len(names) == len(set(names)) > 100 and "torch" in names
        options = target.pip()
        assert options[options.index("--python-version") + 1].startswith(f"{python}.")
        assert options.count("--platform") == len(laptops.TAGS[platform]) > 0


def test_a_room_of_any_laptops_is_of_platforms_that_are_known() -> None:
    assert set(laptops.ROOM) < set(laptops.TAGS)
    assert len({platform.partition("-")[0] for platform in laptops.ROOM}) == 3
    assert {*laptops.ROOM, *laptops.INSTEAD} == set(laptops.TAGS)
    assert set(laptops.NAMES) == set(laptops.UV) == set(laptops.TAGS)


def test_this_machine_is_one_of_them_and_agrees_with_its_own_markers() -> None:
    here = laptops.this_machine()
    assert here.platform in laptops.TAGS
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

    monkeypatch.setattr(laptops, "pip", pip)
    lost = list(laptops.download(Target("linux-x86_64", "3.11"), tmp_path, EARLY))
    assert lost == ["gamma==3.1"]  # alpha was built; gamma's wheel would fit one platform alone
    assert not any({"omega==1.0", "omega==2.0"} <= set(call) for call in calls)
    assert any("omega==1.0" in call for call in calls) and any("omega==2.0" in c for c in calls)
    assert [path.name for path in tmp_path.iterdir()] == ["alpha-1.0-py3-none-any.whl"]
    assert all("--only-binary" in call for call in calls if call[0] == "download")


@pytest.mark.parametrize(
    ("platform", "answers", "options"),
    [
        ("linux-aarch64", True, ["--index-url", laptops.CPU_INDEX]),
        ("linux-aarch64", False, ["--no-index"]),  # never PyPI's, which starts with CUDA alone
        ("linux-x86_64", False, ["--no-index"]),
        ("macos-arm64", False, []),
    ],
)
def test_without_torch_nothing_else_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform, answers, options
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(laptops, "pip", lambda *call: calls.append([*map(str, call)]) or False)
    monkeypatch.setattr(laptops, "index_answers", lambda _: answers)
    target = Target(platform, "3.12")
    assert list(laptops.download(target, tmp_path, "alpha==1\ntorch==2.0\n")) == ["torch==2.0"]
    [call] = calls
    assert call[-len(options) - 1 :] == [*options, "torch==2.0"] and "alpha==1" not in call


def wheel(folder: Path, name: str, needs: str = "") -> None:
    """A wheel of nothing but its name and what it needs."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", text + (f"Requires-Dist: {needs}\n" if needs else ""))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.skipif(importlib.util.find_spec("uv") is None, reason="needs uv")
def test_a_resolver_finds_what_only_some_laptops_miss(tmp_path: Path) -> None:
    project = '[project]\nname = "x"\nversion = "1"\ndependencies = ["alpha"]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "requirements.lock").write_text("alpha==1.0\n")
    wheels = tmp_path / "wheels"
    wheel(wheels, "alpha", "omega==1.0 ; python_full_version < '3.11.5'")
    assert "omega" in laptops.resolves(Target("linux-x86_64", "3.11"), wheels, tmp_path)
    assert laptops.resolves(Target("linux-x86_64", "3.12"), wheels, tmp_path) == ""
    wheel(wheels, "omega")
    assert laptops.resolves(Target("windows-x86_64", "3.11"), wheels, tmp_path) == ""


def test_without_a_site_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`make run site` first"):
        workshop.build(tmp_path / "kit", [laptops.this_machine()], ["pocket"], tmp_path / "none")
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize("ends", ["a kind is missing", "interrupted", "whole"])
def test_the_kit_before_stays_until_another_serves_as_many(tmp_path, monkeypatch, ends) -> None:
    def download(*_: object):
        if ends == "interrupted":
            raise KeyboardInterrupt
        yield from ["torch==1"] if ends == "a kind is missing" else []

    for name in ("copy_repository", "write_short"):  # the tests of a small kit look at these
        monkeypatch.setattr(workshop, name, lambda *_: None)
    monkeypatch.setattr(workshop, "download", download)
    monkeypatch.setattr(workshop, "resolves", lambda *_: "")
    here, kit, site = laptops.this_machine(), tmp_path / "kit", tmp_path / "site"
    (kit / "wheels").mkdir(parents=True)
    (kit / "wheels" / "KINDS").write_text(f"plan9-z80 3.12\n{here.platform} {here.python}\n")
    site.mkdir()
    (site / "index.html").touch()
    if ends == "whole":
        workshop.build(kit, [here], ["pocket"], site)
        assert (kit / "START.md").is_file() and "plan9" not in (kit / "wheels/KINDS").read_text()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "site"]
        return
    error, said = KeyboardInterrupt, "^$"
    if ends == "a kind is missing":
        error, said = FileNotFoundError, "torch==1 for .*is kept; .*kit.part .*same call"
    with pytest.raises(error, match=said):
        workshop.build(kit, [here], ["pocket"], site)
    assert "plan9" in (kit / "wheels" / "KINDS").read_text()


@pytest.fixture
def small_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit without wheels, written as the real one is."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("the site")
    here, other = laptops.this_machine(), Target("windows-x86_64", "3.99")
    lost = {here: [], other: ["nosuch==1"]}
    monkeypatch.setattr(workshop, "download", lambda target, *_: iter(lost[target]))
    monkeypatch.setattr(workshop, "resolves", lambda *_: "")
    found = workshop.build(tmp_path / "kit", [here, other], ["pocket"], tmp_path / "site")
    assert found == lost
    told = workshop.told(tmp_path / "kit", found)
    assert told["kinds"] == [str(here)] and told["missing"] == [f"nosuch==1 for {other}"]
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
    here = laptops.this_machine()
    assert f"{laptops.NAMES[here.platform]}, Python {here.python}\n" in text and "`pocket`" in text
    assert "- Windows on x86-64, Python 3.99: nosuch==1 could not be had." in text
    windows = here.platform.startswith("windows")  # whose wheels serve instead
    assert ("Windows on Arm" in text) == windows
    [need] = re.findall(r"about ([\d.]+) GB there", text)
    assert float(need) == pytest.approx(workshop.gigabytes(small_kit) + SPACE, abs=0.06)


def test_start_says_what_another_laptop_can_do() -> None:
    whole = [Target(name, python) for name in laptops.ROOM for python in laptops.PYTHONS]
    kinds, others = workshop.kinds_said(whole), workshop.others_said(whole, {})
    for name in laptops.ROOM:
        assert f"- {laptops.NAMES[name]}, Python 3.11, 3.12 or 3.13" in kinds
    assert "- Windows on Arm: install Python for x86-64" in others
    assert "- a Mac with an Intel processor: " in others and "read the site" in others
    assert "none" in workshop.kinds_said([])


def test_a_kind_that_the_resolver_finds_incomplete_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workshop, "download", lambda *_: iter([]))
    monkeypatch.setattr(workshop, "resolves", lambda *_: "error: there is no omega")
    target = Target("linux-aarch64", "3.12")
    assert workshop.collect([target], tmp_path) == {target: ["error: there is no omega"]}


def test_start_asks_no_network_and_refuses_another_python(
    small_kit: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = start_module(small_kit)
    told = start.settings()
    for key in ("PIP_NO_INDEX", "UV_OFFLINE", "HF_HUB_OFFLINE"):
        assert told[key] == "1"
    assert told["PIP_FIND_LINKS"] == told["UV_FIND_LINKS"] == str(small_kit / "wheels")
    assert "MI_CACHE_DIR" not in told and "HF_HUB_CACHE" not in told  # only pocket is in it
    (small_kit / "models" / "mi-helpers").mkdir(parents=True)
    assert start.settings()["MI_CACHE_DIR"] == str(small_kit / "models" / "mi-helpers")
    assert start.refusal() == ""
    here = start.this_platform()
    assert here == laptops.this_machine().platform
    (small_kit / "wheels" / "KINDS").write_text(f"{here} 3.97\n{here} 3.98\nplan9-z80 3.99\n")
    assert start.main(["--setup-only"]) == 1
    said = capsys.readouterr().out
    call = "py -3.98" if os.name == "nt" else "python3.98"
    assert "3.97, 3.98;" in said and f"{call} start.py" in said and "3.99" not in said
    with monkeypatch.context() as patch:  # python.org's installer for Windows has no python3.98
        patch.setattr(start, "this_platform", lambda: here)
        patch.setattr(start.sys, "platform", "win32")
        assert "py -3.98 start.py" in start.refusal()
    (small_kit / "wheels" / "KINDS").write_text("plan9-z80 3.99\n")
    assert start.main(["--setup-only"]) == 1
    assert f"no wheels for {here}: START.md" in capsys.readouterr().out
    assert not (small_kit / "repository" / ".venv").exists()


def test_an_emulated_python_gets_its_own_wheels(small_kit: Path, monkeypatch) -> None:
    start = start_module(small_kit)
    monkeypatch.setattr(start.sys, "platform", "win32")
    monkeypatch.setattr(start.platform, "machine", lambda: "ARM64")
    for made_for, name in {"win-amd64": "windows-x86_64", "win-arm64": "windows-arm64"}.items():
        monkeypatch.setattr(start.sysconfig, "get_platform", lambda made_for=made_for: made_for)
        assert start.this_platform() == name
    monkeypatch.setattr(start.sys, "platform", "darwin")
    monkeypatch.setattr(start.platform, "machine", lambda: "arm64")
    assert start.this_platform() == "macos-arm64"


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
    said = workshop.copy_model("smollm2-q4", tmp_path / "models")
    assert "`MI_MODEL=smollm2-q4 python3 start.py`" in said
    assert '`$env:MI_MODEL="smollm2-q4"`, then `py start.py`' in said  # as PowerShell takes it
    assert list((tmp_path / "models" / "mi-helpers").glob("*/config.json"))


# A new namespace has no network at all; a laptop without one still talks to itself.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS
os.execvp(sys.argv[1], sys.argv[1:])
"""

# JupyterLab as a learner starts it; it is asked twice from inside, and ended.
OPEN = r"""
import os, re, signal, subprocess, sys, urllib.error, urllib.request
command = [sys.executable, "start.py", "--no-browser"]
lab = subprocess.Popen(command, text=True, stdout=-1, stderr=-2, start_new_session=True)
answers = re.compile(r"JupyterLab answers: (http://127\.0\.0\.1:\d+/)\S*(\?token=[0-9a-f]{20,})")

def status(url):
    try:
        return urllib.request.urlopen(url, timeout=60).status
    except urllib.error.HTTPError as err:
        return err.code

for line in lab.stdout:
    print(line, end="")
    if found := answers.search(line):
        print("without a token", status(found[1] + "api/contents"))
        print("with it", status(found[1] + "api/contents" + found[2]))
        break
os.killpg(lab.pid, signal.SIGTERM)
print(lab.communicate(timeout=120)[0])
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("MI_KIT" not in os.environ, reason="needs a kit: make workshop-test")
def test_a_kit_installs_and_runs_without_a_network_from_a_clean_home(tmp_path: Path) -> None:
    apart = ["unshare", "--net", "--map-root-user", sys.executable, "-c", LOOPBACK_UP]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"]).returncode:
        why = "no network namespace can be made here: unshare is missing or not allowed"
        (pytest.fail if os.environ.get("MI_KIT_STRICT") else pytest.skip)(why)
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
    assert took["environment, GB"] < SPACE
    own = kit / "repository" / ".venv" / "bin" / "python"
    assert inside(own, "-m", "pip", "check").returncode == 0
    opened = inside(python, "-c", OPEN)
    assert "\nwithout a token 403\nwith it 200\n" in opened.stdout, opened.stdout[-3000:]
    start = time.monotonic()
    environment |= {"HF_HUB_OFFLINE": "1", "MI_MODEL": "pocket", "MI_STRICT": "1"}
    done = inside(
        own, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-q", "-p", "no:cacheprovider",
        "work/00_start_here.ipynb", "work/00_start_here_short.ipynb", cwd=kit / "repository",
    )  # fmt: skip
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-3000:]
    took["notebook 00, whole and short, s"] = round(time.monotonic() - start)
    start = time.monotonic()
    again = inside(python, "start.py", "--setup-only")
    assert again.returncode == 0 and "installing" not in again.stdout
    took["set-up again, s"] = round(time.monotonic() - start)
    print(took)
    if os.environ.get("MI_RECORD"):
        workshop.record("test", took | {"kind": str(laptops.this_machine())})
