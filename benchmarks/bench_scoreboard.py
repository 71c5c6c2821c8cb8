#!/usr/bin/env python3
"""What each method of the scoreboard costs on one program; writes benchmarks/README.md.

    python benchmarks/bench_scoreboard.py

The compiled `indirect object`, 12 prompts, one thread. "runs" are runs of the model, a backward
pass counting as one. Methods take turns, so that a busy machine disturbs all alike; the fastest of
each, in processor time. "truth and areas" is what scoring a list takes: ranks, and circuits of ten
sizes run for CPR and CMD.
"""

from __future__ import annotations

import json
import time

import torch
from record import record

from mi_helpers.toys import programs, scoreboard

PROGRAM, REPEATS = "indirect object", 3


def report() -> list[dict[str, object]]:
    """A row for each method, and one for the scoring."""
    torch.set_num_threads(1)
    case, times = programs.case(PROGRAM), {name: [] for name in scoreboard.ALL_METHODS}
    scored = []
    for _ in range(REPEATS + 1):
        for name, method in scoreboard.ALL_METHODS.items():
            began = time.process_time()
            scores = method(case)
            times[name].append(time.process_time() - began)
            began = time.process_time()
            scoreboard.score(case, scores), scoreboard.areas(case, scores)
            scored.append(time.process_time() - began)
    rows = [{"method": name, "runs": scoreboard.passes(case, name),
             "seconds": round(min(found[1:]), 3)} for name, found in times.items()]  # fmt: skip
    return [*rows, {"method": "truth and areas", "runs": 11, "seconds": round(min(scored), 3)}]


NOTE = f"One thread, 12 prompts of `{PROGRAM}`; fastest of {REPEATS} in processor time."

if __name__ == "__main__":
    results = report()
    print(json.dumps(results))
    record("scoreboard", results, NOTE)
