"""What the documents say of memory, sizes and minutes is what was measured, rounded."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path

import laptops
import pytest
import setup_env
import workshop
import yaml

ROOT = Path(__file__).resolve().parents[1]
RUNS = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))["runs"]
ROOM = json.loads(workshop.MEASURED.read_text(encoding="utf-8"))
ONE = str(ROOM["test"]["kind"])
MACHINE_GIB, SYSTEM_GIB = 24, 2  # as benchmarks/bench_memory.py reckons


def said(page: str, pattern: str) -> str:
    """The one number that a page says where the pattern has its group; lines are joined."""
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{page} must say /{pattern}/ once, and says it {len(found)} times"
    return found[0]


def peaks(model: str) -> dict[str, float]:
    return {run["notebook"]: run["peak_gib"] for run in RUNS if run["model"] == model}


def benchmark(row: str) -> dict[str, float]:
    """A row of the benchmarks page's table of memory, by its columns."""
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = page.partition("<!-- memory -->")[2].partition("<!-- end memory -->")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    [found] = [line for line in lines if line[0].startswith(row)]
    return {name[:-5].lower(): float(one) for name, one in zip(lines[0][1:], found[1:])}  # noqa: B905


@pytest.fixture(scope="module")
def memory() -> dict[str, str]:
    """What the chart's values say of a learner's memory."""
    values = yaml.safe_load((ROOT / "docker" / "values.yaml").read_text(encoding="utf-8"))
    return values["singleuser"]["memory"] | {"cpu": str(values["singleuser"]["cpu"]["limit"])}


def test_both_hubs_have_the_same_limits(memory: dict[str, str]) -> None:
    assert said("docs/hub.md", r"set limits\.memory (\S+)") == memory["limit"]
    assert said("docs/hub.md", r"set limits\.cpu (\S+)") == memory["cpu"]


def test_the_chart_asks_for_what_a_learner_holds_at_rest(memory: dict[str, str]) -> None:
    rest = benchmark("kernel")["pss"] + benchmark("JupyterLab")["pss"]
    asked = float(memory["guarantee"].removesuffix("G")) * 1e9 / 2**30
    assert rest < asked < rest + 0.3


def test_the_guide_to_hubs_plans_by_the_highest_peak() -> None:
    found = peaks("pocket")
    guide = "docs/hub.md"
    hungriest = said(guide, r"the hungriest on `pocket`, (\d+),")
    (peak,) = (gib for name, gib in found.items() if name[:2] == hungriest)
    assert peak > 0.85 * max(found.values())  # a peak differs by a tenth from run to run
    assert said(guide, r"reaches (\d+) GiB, so that 24") == str(math.ceil(max(found.values())))
    each = max(found.values()) + benchmark("JupyterLab")["pss"]
    fit = math.floor((MACHINE_GIB - SYSTEM_GIB) / each)
    hold = int(said(guide, r"so that 24 GiB hold (\d+) learners"))
    assert fit - 2 <= hold <= fit  # a peak differs by a tenth from run to run
    assert int(said(guide, r"for 30 plan (\d+) GiB")) >= 30 * each + SYSTEM_GIB
    assert int(said(guide, r"or three machines of (\d+)")) == MACHINE_GIB and 3 * hold >= 30
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    [row] = re.findall(r"\| learners in 24 GiB.*\|\s+\| (\d+) \|\s+\| (\d+) \|", page)
    assert said(guide, r"notebook 01 alone: (\d+ to \d+)\)") == f"{row[1]} to {row[0]}"
    real = max(peaks("smollm2-q4").values())
    assert said(guide, r"On SmolLM2 a notebook reaches up to (\d+) GiB") == str(math.ceil(real))


def test_the_readme_says_what_a_learner_needs() -> None:
    real = peaks("smollm2-q4").values()
    assert said("README.md", r"On `pocket` a learner needs up to (\d+) GiB of memory") == str(
        math.ceil(max(peaks("pocket").values()))
    )
    said_real = r"at GPT-2 small's size (\d+) GiB or, in some notebooks, up to \d"
    assert said("README.md", said_real) == f"{statistics.median(real):.0f}"
    most = said("README.md", r"at GPT-2 small's size \d+ GiB or, in some notebooks, up to (\d+)")
    assert most == str(math.ceil(max(real)))


CHECKLIST = "workshops/checklist.md"


def test_the_checklist_states_the_kits_weights() -> None:
    weighs = ROOM[ONE]["gb"]["whole"]
    assert said(CHECKLIST, r"for one kind of laptop and one Python weighs ([\d.]+) GB") == (
        f"{weighs:.1f}"
    )
    more = ROOM["test"]["environment, GB"]
    assert said(CHECKLIST, r"Set up, a laptop holds ([\d.]+) GB more") == f"{more:.1f}"
    assert weighs + setup_env.SPACE <= int(said(CHECKLIST, r"\((\d+) GB do for a kit of one kind"))


def test_a_laptop_has_the_disk_for_the_kit_of_any_room() -> None:
    """All kinds, of which those that could not be had are taken to weigh as much as the others."""
    room = ROOM["all"]
    share = len(room["kinds"]) / (len(laptops.ROOM) * len(laptops.PYTHONS))
    asked = int(said(CHECKLIST, r"Ask for (\d+) GB of free disk"))
    assert room["gb"]["whole"] / share + setup_env.SPACE <= asked


def test_the_checklist_states_how_many_notebooks_the_weighed_site_had() -> None:
    """Of a whole site, nothing need be said."""
    there = len(list((ROOT / "notebooks").glob("*.ipynb")))
    had = {kit["site's notebooks"] for kit in ROOM.values() if "site's notebooks" in kit}
    text = " ".join((ROOT / CHECKLIST).read_text(encoding="utf-8").split())
    told = re.findall(r"their site had (\d+) of the (\d+) notebooks", text)
    assert told == ([(str(min(had)), str(there))] if min(had) < there else [])


def test_the_checklist_states_the_sites_weight() -> None:
    """To a tenth: figures differ from run to run by less, and so do the two kits' sites."""
    told = int(said(CHECKLIST, r"their site, with all pages, (\d+) MB"))
    for kit in ("all", ONE):
        assert told == pytest.approx(ROOM[kit]["gb"]["site"] * 1000, rel=0.1)


def test_the_checklist_states_how_long_the_notebooks_take_to_execute() -> None:
    """Two at a time, as `make run` does by default."""
    minutes = sum(run["seconds"] for run in RUNS if run["model"] == "pocket") / 2 / 60
    assert said(CHECKLIST, r"executes all notebooks: (a quarter of an hour) on two free cores")
    assert 8 < minutes < 20


def test_the_checklist_states_what_a_room_of_any_laptops_weighs() -> None:
    room = ROOM["all"]
    whole, missing = len(room["kinds"]), len(room["missing"])
    assert whole + missing == len(laptops.ROOM) * len(laptops.PYTHONS)
    assert all(one.startswith("torch==") and " for linux-" in one for one in room["missing"])
    told = said(CHECKLIST, r"for (\d+ of the \d+) kinds of `--all`")
    assert told == f"{whole} of the {whole + missing}"
    assert said(CHECKLIST, r"`--all` it was ([\d.]+) GB") == f"{room['gb']['whole']:.1f}"
    wheels = said(CHECKLIST, r"of which (\d+ wheels [\d.]+) GB")
    assert wheels == f"{room['wheels']} wheels {room['gb']['wheels']:.1f}"
    assert said(CHECKLIST, r"the other (\d+), all Linux") == str(missing)


def test_the_checklist_states_what_a_laptop_takes_to_set_up() -> None:
    test = ROOM["test"]
    minutes = math.ceil(test["set-up, s"] / 60)
    assert said(CHECKLIST, r"it took (\d+) minutes? to set up") == str(minutes)
    assert said(CHECKLIST, r"on (\d) cores that other programs") == test["machine"].split()[0]


def test_a_laptop_has_the_memory_for_the_hungriest_notebook_and_a_browser() -> None:
    laptop = int(said(CHECKLIST, r"and (\d+) GiB of memory a laptop"))
    assert laptop >= max(peaks("pocket").values()) + 1.5


def test_the_setup_refuses_a_disk_that_cannot_hold_it() -> None:
    assert ROOM["test"]["environment, GB"] + 0.5 < setup_env.SPACE
