"""Each claim can be confirmed, refuted and refined; which one only the records decide."""

import json
import re

import pytest
from test_listings import CASES as LISTED
from test_listings import FAILURE_IS_EVIDENCE
from test_report_factory import FLOP, UNIT, chain, gpt_options, make, options

from bench.report import claims
from bench.report.frame import build
from bench.report.judges import CLOSE, NEAR, ORDER, combined, grade

GPT = {"workload": "gpt-mini", "workload_options": gpt_options()}
CLAIMS = {claim.id: claim for claim in claims.LEDGER}


def judge(name, records):
    return CLAIMS[name].check(build(list(records)))


def ks(shares, **changes):
    """every_k at each k, recomputing that share of a forward."""
    for k, share in shares.items():
        yield from chain(
            "every_k", (16,), spec=f"every_k(k={k})", params={"k": k}, recompute=share, **changes
        )


def kept(share, strategy, params, **changes):
    """A series that keeps that share of what `none` keeps."""
    spec = f"{strategy}({', '.join(f'{k}={v}' for k, v in params.items())})"
    return chain(
        strategy, spec=spec, params=params, growth=lambda layers: share * layers, **changes
    )


def example(saved, peak, recompute=1.0):
    """4 of 8 layers on the chain, with those shares of `none`."""
    yield make("none", peak_allocated_bytes=1000, saved_after_forward_bytes=1000)
    yield make(
        "every_k",
        spec="every_k(k=4)",
        params={"k": 4},
        peak_allocated_bytes=round(peak * 1000),
        saved_after_forward_bytes=round(saved * 1000),
        step_flops=round((24 + 8 * recompute) * FLOP),
        recompute_flops=round(8 * recompute * FLOP),
    )


def peaks(sqrt, every_k):
    yield make("sqrt", peak_allocated_bytes=sqrt)
    for k, peak in every_k.items():
        yield make("every_k", spec=f"every_k(k={k})", params={"k": k}, peak_allocated_bytes=peak)


def gpt3(gigabytes):
    shape = {"layers": 96, "seq": 2048, "dim": 12288, "batch": 2}
    return [
        make(
            "none",
            workload="gpt3-175b",
            workload_options=shape,
            modelled=True,
            device="sim:h100",
            saved_after_forward_bytes=round(2 * gigabytes * 1e9),
        )
    ]


def kernels(math, flash):
    """`none` with each attention kernel; in units of one N × N matrix a head and layer."""
    matrices = 8 * 4 * 4 * 256**2 * 4
    for kernel, count in (("math", math), ("flash", flash)):
        yield make(
            "none",
            workload="gpt-mini",
            workload_options=gpt_options(attention=kernel),
            saved_after_forward_bytes=round(count * matrices),
        )


def offloaded(ratio, device="cuda"):
    for strategy, factor in (("every_layer", 1.3), ("offload", ratio)):
        yield make(
            strategy,
            **GPT,
            device=device,
            params={"over": "every_layer"} if strategy == "offload" else {},
            step_s=[factor, factor * 1.01, factor * 0.99, factor, factor],
            none_step_s=[1.0] * 5,
        )


def power(strategy, exponent, **changes):
    return chain(strategy, growth=lambda layers: layers**exponent, **changes)


def both(strategy, chain_exponent, model_exponent):
    return [*power(strategy, chain_exponent), *power(strategy, model_exponent, **GPT)]


def shares(strategy, on_chain, on_model, params=None):
    spec = strategy if not params else f"{strategy}({params})"
    extra = {"spec": spec, "params": params or {}}
    return [
        *chain(strategy, (16,), recompute=on_chain, **extra),
        *chain(strategy, (16,), recompute=on_model, **extra, **GPT),
    ]


CASES = [
    ("none-memory", both("none", 1.0, 1.1), "confirmed"),
    ("none-memory", both("none", 0.5, 0.4), "refuted"),
    ("none-memory", both("none", 1.0, 0.5), "refined"),
    ("none-compute", shares("none", 0, 0), "confirmed"),
    ("none-compute", shares("none", 0.01, 0.5), "refuted"),
    ("none-compute", shares("none", 0, 0.01), "refined"),
    ("every-layer-memory", both("every_layer", 0.0, 0.1), "confirmed"),
    ("every-layer-memory", both("every_layer", 1.0, 0.97), "refuted"),
    ("every-layer-memory", both("every_layer", 0.0, 1.0), "refined"),
    ("every-layer-compute", shares("every_layer", 1.0, 0.96), "confirmed"),
    ("every-layer-compute", shares("every_layer", 0.0, 0.4), "refuted"),
    ("every-layer-compute", shares("every_layer", 0.7, 0.7), "refined"),
    ("every-k-memory", [*chain("none"), *kept(0.25, "every_k", {"k": 4})], "confirmed"),
    (
        "every-k-memory",
        [*chain("none"), *chain("every_k", params={"k": 4}, growth=lambda n: 20 * n**0.4)],
        "refuted",
    ),
    ("every-k-memory", [*chain("none"), *kept(0.35, "every_k", {"k": 4})], "refined"),
    ("every-k-compute", ks({2: 0.5, 4: 0.75, 8: 0.875}), "confirmed"),
    ("every-k-compute", ks({2: 1.0, 4: 0.1}), "refuted"),
    ("every-k-compute", ks({2: 0.7, 4: 0.95}), "refined"),
    ("sqrt-memory", both("sqrt", 0.5, 0.45), "confirmed"),
    ("sqrt-memory", both("sqrt", 1.0, 0.9), "refuted"),
    ("sqrt-memory", both("sqrt", 0.5, 1.0), "refined"),
    ("sqrt-compute", shares("sqrt", 1.0, 0.97), "confirmed"),
    ("sqrt-compute", shares("sqrt", 0.2, 1.6), "refuted"),
    ("sqrt-compute", shares("sqrt", 0.75, 1.0), "refined"),
    (
        "selective-memory",
        [*chain("none", **GPT), *kept(0.5, "selective", {"variant": "textbook"}, **GPT)],
        "confirmed",
    ),
    (
        "selective-memory",
        [
            *chain("none", **GPT),
            *chain(
                "selective", growth=lambda n: n**0.2, params={"variant": "attention_core"}, **GPT
            ),
        ],
        "refuted",
    ),
    (
        "selective-memory",
        [*chain("none", **GPT), *kept(0.8, "selective", {"variant": "textbook"}, **GPT)],
        "refined",
    ),
    ("selective-compute", shares("selective", 0, 0.45, {"variant": "textbook"}), "confirmed"),
    ("selective-compute", shares("selective", 0.4, 0.9, {"variant": "textbook"}), "refuted"),
    ("selective-compute", shares("selective", 0.4, 0.2, {"variant": "textbook"}), "refined"),
    ("example-compute", example(0.25, 0.25, recompute=1.0), "confirmed"),
    ("example-compute", example(0.25, 0.25, recompute=0.4), "refuted"),
    ("example-compute", example(0.25, 0.25, recompute=0.75), "refined"),
    ("example-memory", example(0.25, 0.27), "confirmed"),
    ("example-memory", example(0.8, 0.9), "refuted"),
    ("example-memory", example(0.25, 0.5), "refined"),
    ("uniform-compute-limit", ks({2: 0.5, 4: 0.75, 8: 0.875}), "confirmed"),
    ("uniform-compute-limit", ks({2: 0.9, 8: 0.5}), "refuted"),
    ("uniform-compute-limit", ks({2: 0.2, 8: 0.5}), "refined"),
    (
        "sqrt-compute-text",
        chain("sqrt", recompute=lambda layers: layers**-0.5),
        "confirmed",
    ),
    ("sqrt-compute-text", chain("sqrt", recompute=1.0), "refuted"),
    (
        "sqrt-compute-text",
        [*chain("sqrt", recompute=lambda n: n**-0.5), *chain("sqrt", recompute=1.0, **GPT)],
        "refined",
    ),
    ("sqrt-optimal", peaks(100, {2: 150, 4: 99}), "confirmed"),
    ("sqrt-optimal", peaks(100, {2: 150, 4: 80}), "refuted"),
    ("gpt3-activations", gpt3(118), "confirmed"),
    ("gpt3-activations", gpt3(400), "refuted"),
    ("gpt3-activations", gpt3(150), "refined"),
    ("flash-memory", kernels(5.0, 3.9), "confirmed"),
    ("flash-memory", kernels(5.0, 5.0), "refuted"),
    ("flash-memory", kernels(5.0, 4.5), "refined"),
    ("offload-latency", offloaded(1.5), "confirmed"),
    ("offload-latency", offloaded(1.1), "refuted"),
    ("offload-latency", offloaded(1.3), "refined"),
]


CASES = [(name, list(records), expected) for name, records, expected in [*CASES, *LISTED]]


@pytest.mark.parametrize(("name", "records", "expected"), CASES)
def test_records_decide(name, records, expected):
    found = judge(name, records)
    assert found.verdict == expected, found.evidence
    assert set(found.records) <= {record.cell_id for record in records}
    assert found.records
    assert re.search(r"\d", found.evidence)
    assert re.search(r"torch 2\.13\.0\+cpu; 2026-01-02\)$", found.evidence)


def test_every_claim_is_tried_both_ways():
    for name in CLAIMS:
        assert {e for n, _, e in CASES if n == name} >= {"confirmed", "refuted"}, name


@pytest.mark.parametrize("name", CLAIMS)
def test_without_records_a_claim_is_unmeasured_and_names_the_command(name):
    found = judge(name, [])
    assert found.verdict == "unmeasured"
    assert found.records == ()
    assert re.search(r"python -m bench (run --workload|peers$|pays$)", found.evidence)


@pytest.mark.parametrize("name", sorted(CLAIMS.keys() - FAILURE_IS_EVIDENCE))
def test_failed_records_are_no_evidence(name):
    records = [record for n, records, _ in CASES if n == name for record in records]
    failed = [make(**{f: getattr(r, f) for f in r.__struct_fields__ if f != "status"} | {
        "status": "mismatch", "reason": "wrong"}) for r in records]  # fmt: skip
    assert judge(name, failed).verdict == "unmeasured"


def test_modelled_evidence_says_so():
    assert "modelled sim:h100" in judge("gpt3-activations", gpt3(118)).evidence


def test_measured_comes_before_modelled():
    modelled = power("none", 0.3, depths=(2, 4, 8, 16, 32, 64), modelled=True)
    assert judge("none-memory", [*modelled, *power("none", 1.0)]).verdict == "confirmed"


def test_offload_on_a_cpu_says_nothing_about_a_bus():
    assert judge("offload-latency", offloaded(1.5, device="cpu")).verdict == "unmeasured"


def test_example_is_of_8_layers_only():
    other = [
        make(r.strategy, spec=r.spec, params=r.params, workload_options=options(layers=16))
        for r in example(0.25, 0.25)
    ]
    assert judge("example-memory", other).verdict == "unmeasured"
    assert judge("example-compute", other).verdict == "unmeasured"


def test_flash_attention_rows_do_not_judge_the_textbooks_strategies():
    flash = {"workload": "gpt-mini", "workload_options": gpt_options(attention="flash")}
    records = [*power("sqrt", 0.5), *power("sqrt", 1.0, **flash)]
    assert judge("sqrt-memory", records).verdict == "confirmed"


def test_mixed_precision_gives_way_to_single():
    half = chain("sqrt", (64,), recompute=0.1, precision="bf16-autocast")
    full = chain("sqrt", (16,), recompute=1.0)
    assert judge("sqrt-compute", [*half, *full]).verdict == "confirmed"


def test_growth_evidence_gives_exponent_depths_and_peak():
    evidence = judge("sqrt-memory", power("sqrt", 0.5)).evidence
    assert evidence.startswith("Claimed L^0.5. mlp-chain, L = 4, 8, 16, 32, 64: bytes saved")
    assert "L^0.50 (R² 1.000), the peak as L^0." in evidence


def test_a_constant_part_does_not_bend_the_exponent():
    # Ten units of head and loss: fitted plainly, four units a group would grow as L^0.3.
    none = chain("none", growth=lambda layers: layers + 10)
    every_k = chain(
        "every_k",
        spec="every_k(k=4)",
        params={"k": 4},
        growth=lambda layers: layers / 4 + 10,
    )
    found = judge("every-k-memory", [*none, *every_k])
    assert found.verdict == "confirmed"
    assert "L^1.00, 0.250 of none at L = 64 (claimed 0.25)" in found.evidence
    assert len(found.records) == 10


def test_the_examples_constant_part_is_not_counted():
    shape = {"workload_options": options(batch=512)}
    none = list(chain("none", growth=lambda layers: layers + 2, **shape))
    other = make(
        "every_k",
        params={"k": 4},
        saved_after_forward_bytes=4 * UNIT,
        peak_allocated_bytes=round(0.25 * none[1].peak_allocated_bytes),
        **shape,
    )
    found = judge("example-memory", [*none, other])
    assert found.verdict == "confirmed"
    assert "falls by 75.0 % (with the constant 4.19 MB of head and loss: 60.0 %)" in found.evidence


def test_gpt3_is_judged_by_the_sequence():
    evidence = judge("gpt3-activations", gpt3(118)).evidence
    assert "118,000.0 MB with math attention in fp32 (modelled)" in evidence
    assert f"{96 * 2048 * 12288 * 4 / 1e6:,.1f} MB" in evidence


def test_sources_cover_every_row_of_the_textbooks_table_twice():
    table = [c.source for c in claims.LEDGER if c.source.startswith("|")]
    assert sorted(table.count(row) for row in set(table)) == [2] * 5
    assert len({c.id for c in claims.LEDGER}) == len(claims.LEDGER)


def test_grades():
    assert grade(0.29, 0.25) == "confirmed"
    assert grade(0.36, 0.25) == "refined"
    assert grade(0.38, 0.25) == "refuted"
    assert grade(0.27, 0.3, 0.5) == grade(0.4, 0.3, 0.5) == grade(0.54, 0.3, 0.5) == "confirmed"
    assert grade(0.74, 0.3, 0.5) == "refined"
    assert grade(0.001, 0.0) == "refuted"
    assert combined(["confirmed", "confirmed"]) == "confirmed"
    assert combined(["confirmed", "refuted"]) == "refined"


def test_page_and_data_agree():
    records = [*both("none", 1.0, 1.0), *both("every_layer", 1.0, 1.0)]
    frame = build(records)
    data = claims.data(frame)
    assert json.loads(claims.as_json(frame)) == data
    by_id = {entry["id"]: entry for entry in data}
    assert by_id["none-memory"]["verdict"] == "confirmed"
    assert by_id["none-memory"]["source"] == "| No checkpointing | O(L × N × d) | 0 |"
    assert len(by_id["none-memory"]["records"]) == 10
    page = claims.markdown(frame)
    for line, entry in zip(
        [text for text in page.splitlines() if text.startswith("| `")], data, strict=True
    ):
        cells = re.split(r"(?<!\\)\|", line)
        assert len(cells) == 8
        assert cells[1].strip() == f"`{entry['id']}`"
        assert cells[4].strip() == f"**{entry['verdict']}**"
    for threshold in (ORDER, CLOSE, NEAR):
        assert threshold.reason in page


def test_page_without_records():
    assert "No records." in claims.markdown(build([]))


def test_factory_units_are_those_of_the_claims():
    assert next(iter(chain("none", (4,)))).saved_after_forward_bytes == 4 * UNIT
