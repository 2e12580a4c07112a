#!/usr/bin/env python3
"""Checks what `preload-node demo --json` printed: one JSON object per line, every step ok, the summary complete."""

import json
import sys

ASSERTION = "assertion failed: !region.get_peers().is_empty()"


def problems(lines):
    try:
        steps = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        yield f"a line is not JSON: {error}"
        return
    if not steps or steps[-1].get("step") != "summary":
        yield "the last line is not the summary"
        return
    for step in steps:
        if step.get("ok") is not True:
            yield f"step {step.get('step')!r} is not ok"
    if len(steps) < 5:
        yield f"{len(steps) - 1} steps before the summary, at least 4 are expected"

    summary = steps[-1]
    answers = summary.get("answers") or []
    if ASSERTION not in str(summary.get("unguarded_fatal")):
        yield f"unguarded_fatal is {summary.get('unguarded_fatal')!r}"
    if answers[:1] != ["region_not_initialized"] or answers[-1:] != ["warm"]:
        yield f"answers are {answers!r}"
    share = summary.get("memory_read_share")
    if not (isinstance(share, (int, float)) and 0 < share <= 1):
        yield f"memory_read_share is {share!r}"
    if summary.get("first_read_source") != "memory":
        yield f"first_read_source is {summary.get('first_read_source')!r}"
    for side in ("memory", "disk"):
        for percentile in ("p50", "p99"):
            value = summary.get("read_ns", {}).get(side, {}).get(percentile)
            if not (isinstance(value, (int, float)) and value > 0):
                yield f"read_ns.{side}.{percentile} is {value!r}"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        found = list(problems([line for line in file if line.strip()]))
    for problem in found:
        print(f"demo: {problem}")
    print("demo: summary checked" if not found else f"demo: {len(found)} problem(s)")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
