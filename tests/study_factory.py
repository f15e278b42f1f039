"""A made-up budget study, with every verdict in it."""

import msgspec

from bench.store.budgets import BlockTimes, Budget, Contender, Study

MB = 1_000_000
WOBBLE = (1.0, 1.01, 0.99, 1.0, 1.0, 1.01)


def contender(plan, peak_mb, ratio, heuristics=(), predicted=None, **changes):
    """A plan that takes ``ratio`` of `none`'s second, give or take what is the same in a round."""
    steps = changes.pop("step_s", [ratio * wobble for wobble in WOBBLE])
    fields = {
        "plan": plan,
        "heuristics": list(heuristics),
        "predicted_peak_bytes": int(peak_mb * MB),
        "predicted_step_s": predicted or ratio,
        "peak_allocated_bytes": int(peak_mb * MB),
        "grads_bitwise_equal": True,
        "step_s": steps,
    }
    return Contender(**fields | changes)


CONTENDERS = [
    contender("0 1 2 3", 100, 1.0, ["none"]),
    contender("[0] [1] [2] [3]", 40, 1.3, ["every_layer"]),
    contender("[0 1] [2 3]", 60, 1.2, ["every_k(k=2)", "sqrt"]),
    contender("[0] [1] [2] 3:core", 35, 1.4),  # no rule fits
    contender("0 [1] [2] [3]", 50, 1.15, predicted=1.265),  # faster than every_layer
    contender("0 1 [2 3]", 70, 1.25),  # slower than every_k
    contender("0 1 2:core 3", 80, 0, step_s=[1.0, 1.4, 1.0, 1.4, 1.0, 1.4]),  # noise
]
CHOSEN = ((36, 3), (40, 1), (52, 4), (75, 5), (85, 6), (100, 0))


def study(**changes):
    fields = {
        "workload": "gpt-mini",
        "workload_options": {"layers": 4, "attention": "math"},
        "device": "cpu",
        "device_name": "Test CPU",
        "precision": "fp32",
        "optimizer": "none",
        "blocks": [BlockTimes(forward_s=0.05, backward_s=0.1, last_recompute_s=0.04)] * 4,
        "fixed_s": 0.4,
        "contenders": CONTENDERS,
        "budgets": [
            Budget(budget_bytes=size * MB, contender=which, bound_step_s=1.0, slot_bytes=1000)
            for size, which in CHOSEN
        ],
        "profile_rounds": 7,
        "rounds": 6,
        "warmup": 1,
        "seed": 0,
        "torch_version": "2.13.0+cpu",
        "python_version": "3.11.2",
        "threads": 2,
        "machine_id": "m1",
        "machine": {"cores": 2},
        "commit": "0" * 40,
        "dirty": False,
        "started_at_utc": "2026-01-02T03:04:05+00:00",
        "duration_s": 60.0,
    }
    return Study(**fields | changes)


def changed(one, **changes):
    return msgspec.structs.replace(one, **changes)
