"""Synthetic records for the tests of the report, with the textbook's growth built in."""

import hashlib
import math

from bench.store.records import Record, decode, encode

UNIT = 2_097_152  # 2048 × 256 floats
FLOP = 1_000_000


def make(strategy="none", **changes):
    """One complete record; any field may be changed."""
    fields = {
        "workload": "mlp-chain",
        "workload_options": {"layers": 8, "batch": 2048, "dim": 256, "seed": 0},
        "strategy": strategy,
        "spec": strategy,
        "params": {},
        "device": "cpu",
        "device_name": "Test CPU",
        "status": "ok",
        "exact": True,
        "peak_allocated_bytes": 10 * UNIT,
        "saved_after_forward_bytes": 8 * UNIT,
        "forward_flops": 8 * FLOP,
        "step_flops": 24 * FLOP,
        "recompute_flops": 0,
        "torch_version": "2.13.0+cpu",
        "python_version": "3.11.2",
        "threads": 2,
        "machine_id": "m1",
        "machine": {"cpu": "Test CPU", "cores": 2},
        "commit": "0" * 40,
        "dirty": False,
        "code_hash": "c0de",
        "started_at_utc": "2026-01-02T03:04:05Z",
    } | changes
    if "cell_id" not in fields:
        parts = [fields[n] for n in ("workload", "workload_options", "spec", "params", "device")]
        parts += [fields[n] for n in ("device_name", "torch_version")]
        parts += [changes.get(n) for n in ("modelled", "precision", "optimizer", "threads")]
        fields["cell_id"] = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    return Record(**fields)


def options(**changes):
    return {"layers": 8, "batch": 2048, "dim": 256, "seed": 0} | changes


def gpt_options(**changes):
    shape = {"layers": 8, "seq": 256, "batch": 4, "dim": 256, "heads": 4, "attention": "math"}
    return shape | {"seed": 0} | changes


def kept(strategy, layers, k=4):
    """Boundaries that a strategy of the textbook keeps after forward, in units."""
    return {
        "none": layers,
        "every_layer": layers,
        "every_k": math.ceil(layers / k),
        "sqrt": math.isqrt(layers - 1) + 1,
        "selective": layers / 2,
    }[strategy]


def chain(strategy, depths=(4, 8, 16, 32, 64), *, growth=None, recompute=0.75, **changes):
    """A depth series: ``growth(layers)`` units are kept, ``recompute`` forwards done again."""
    shape = changes.pop("workload_options", options())
    for layers in depths:
        units = growth(layers) if growth else kept(strategy, layers)
        again = recompute(layers) if callable(recompute) else recompute
        yield make(
            strategy,
            **{
                "workload_options": shape | {"layers": layers},
                "saved_after_forward_bytes": round(units * UNIT),
                "peak_allocated_bytes": round((units + 2) * UNIT),
                "forward_flops": layers * FLOP,
                "step_flops": 3 * layers * FLOP + round(again * layers * FLOP),
                "recompute_flops": round(again * layers * FLOP),
            }
            | changes,
        )


def test_factory_makes_whole_records():
    record = make("sqrt", step_s=[1.0, 2.0], grads_bitwise_equal=True)
    assert decode(encode(record)) == record
    assert [r.workload_options["layers"] for r in chain("sqrt", (4, 8))] == [4, 8]
