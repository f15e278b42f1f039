"""The textbook's own code and its advice: each judge confirms and refutes, as records decide."""

import json
import re

import msgspec
import pytest
import stored_factory
from test_report_factory import gpt_options, make

from bench.report import pays
from bench.report.claims import LEDGER
from bench.report.display import percent
from bench.report.frame import build
from bench.report.page import page

CLAIMS = {claim.id: claim for claim in LEDGER}
BOUNDARIES = 8 * 4 * 256 * 256 * 4  # layers, batch, tokens, width, bytes
HELD = {"workload": "gpt-mini", "workload_options": gpt_options()}


def listing(strategy, peak=50, saved=40, equal=True, params=None, **changes):
    """`none`, and a listing beside it."""
    yield make("none", **HELD, peak_allocated_bytes=100, saved_after_forward_bytes=80)
    fields = {"grads_bitwise_equal": equal, "rng_restored": True, "grads_missing": []} | changes
    yield make(
        strategy,
        **HELD,
        params=params or {},
        peak_allocated_bytes=peak,
        saved_after_forward_bytes=saved,
        peer="the textbook",
        **fields,
    )


def custom(**changes):
    fields = {"equal": False, "status": "mismatch", "reason": "no gradient for h.0.w"} | changes
    return listing("textbook_custom_checkpoint", **fields)


def halved(part, loss=1.0, strategy="textbook_compressed_checkpoint", equal=False, **params):
    """`every_layer`, and the same with that part of its boundaries' bytes taken away."""
    yield make("every_layer", **HELD, saved_after_forward_bytes=2 * BOUNDARIES)
    yield make(
        strategy,
        **HELD,
        params=params,
        saved_after_forward_bytes=round((2 - part) * BOUNDARIES),
        loss=loss,
        reference_loss=1.0,
        grads_bitwise_equal=equal,
        grad_max_rel_err=0.0 if equal else 1e-4,
    )


def selective(textbook, core=0.8):
    yield make("none", **HELD, saved_after_forward_bytes=1000)
    for variant, share in (("textbook", textbook), ("attention_core", core)):
        yield make(
            "selective",
            spec=f"selective(variant={variant})",
            **HELD,
            params={"variant": variant},
            saved_after_forward_bytes=round(1000 * share),
        )


def together(both, checkpoints, flash):
    yield make("flash_checkpoint", **HELD, peak_allocated_bytes=both)
    yield make("every_layer", **HELD, peak_allocated_bytes=checkpoints)
    options = gpt_options(attention="flash")
    yield make("none", workload="gpt-mini", workload_options=options, peak_allocated_bytes=flash)


def slow(*factors):
    for workload, factor in zip(("gpt-mini", "mlp-chain"), factors, strict=True):
        shape = HELD if workload == "gpt-mini" else {}
        yield make(
            "every_layer",
            **shape,
            step_s=[factor * noise for noise in (1.0, 1.01, 0.99, 1.0, 1.02, 0.98)],
            none_step_s=[1.0] * 6,
        )


def steps(parameters=1000, seq=2048, batch=8, precision="bf16-autocast", fit=(True, True), **more):
    """One step without checkpoints and one with."""
    shape = {"layers": 2, "dim": 8, "heads": 2, "seq": seq, "batch": batch, "of": parameters}
    kinds = {"none": (100, 1.0), "every_layer": (60, 1.25)}
    for (spec, (peak, step_s)), fitting in zip(kinds.items(), fit, strict=True):
        yield make(
            spec,
            workload="gpt2-xl",
            workload_options=shape,
            device="sim:h100-80gb",
            modelled=True,
            precision=precision,
            optimizer="adamw",
            status="ok" if fitting else "oom",
            parameter_bytes=4 * parameters,
            modelled_step_s=step_s,
            **{"peak_allocated_bytes": peak, "saved_after_forward_bytes": peak} | more,
        )


def grown(**largest):
    """Up to that value a step fits without checkpoints; at twice it does with them alone."""
    [(name, value)] = largest.items()
    batch = 1 if name == "seq" else 8
    for times, fit in (
        (0.5, (True, True)),
        (1, (True, True)),
        (2, (False, True)),
        (4, (False,) * 2),
    ):
        yield from steps(**{name: round(times * value)}, batch=batch, fit=fit)


def precisions(half):
    yield from steps()
    yield from steps(
        precision="fp32",
        peak_allocated_bytes=round(100 / half),
        saved_after_forward_bytes=round(100 / half),
    )


CASES = [
    *(
        (name, list(listing(strategy, params=params, **changes)), expected)
        for name, strategy, params in (
            ("listing-loop", "torch_checkpoint", {"reentrant": False}),
            ("listing-sequential", "torch_checkpoint_sequential", {"segments": 4}),
            ("listing-transformers", "transformers_checkpoint", {"every": 1, "offload": False}),
        )
        for changes, expected in (
            ({}, "confirmed"),
            ({"equal": False}, "refuted"),
            ({"peak": 100}, "refuted"),
        )
    ),
    ("listing-custom", custom(equal=True, status="ok", reason=None), "confirmed"),
    ("listing-custom", custom(grads_missing=["h.0.w"], rng_restored=False), "refuted"),
    ("listing-custom", custom(status="crash", reason="Traceback\nTypeError: a key"), "refuted"),
    ("listing-offload", listing("textbook_offload_checkpoint"), "confirmed"),
    ("listing-offload", listing("textbook_offload_checkpoint", saved=80), "refuted"),
    ("listing-compression", halved(0.5, equal=True), "confirmed"),
    ("listing-compression", halved(0.5, loss=1.5), "refined"),
    ("listing-compression", halved(0.1), "refuted"),
    *(
        (f"compression-{name}", list(halved(part, strategy="compressed", codec=name)), expected)
        for name, share in (("fp16", 0.5), ("int8", 0.75), ("projection", 0.5))
        for part, expected in ((share, "confirmed"), (share / 10, "refuted"))
    ),
    ("compression-int8", halved(0.7, strategy="compressed", codec="int8"), "confirmed"),
    ("compression-int8", halved(0.69, strategy="compressed", codec="int8"), "refined"),
    ("expensive-operations", selective(0.2), "confirmed"),
    ("expensive-operations", selective(0.6), "refuted"),
    ("flash-and-checkpoints", together(10, 20, 30), "confirmed"),
    ("flash-and-checkpoints", together(20, 10, 30), "refined"),
    ("flash-and-checkpoints", together(40, 20, 30), "refuted"),
    ("latency", slow(1.3, 1.4), "confirmed"),
    ("latency", slow(1.3, 1.0), "refined"),
    ("latency", slow(0.7, 0.8), "refuted"),
    ("large-models", grown(parameters=700_000_000), "confirmed"),
    ("large-models", grown(parameters=300_000_000), "refined"),
    ("large-models", grown(parameters=1_100_000_000), "refuted"),
    ("long-sequences", grown(seq=1024), "confirmed"),
    ("long-sequences", grown(seq=512), "refined"),
    ("long-sequences", grown(seq=8192), "refuted"),
    ("small-models", grown(parameters=1000), "confirmed"),
    ("small-models", steps(fit=(False, True)), "refuted"),
    ("mixed-precision", precisions(0.5), "confirmed"),
    ("mixed-precision", precisions(2), "refuted"),
    ("mixed-precision", precisions(1.25), "refined"),
]
FAILURE_IS_EVIDENCE = {name for name, _, _ in CASES if name.startswith("listing-")}


def evidence(name, records):
    return CLAIMS[name].check(build(list(records))).evidence


def test_custom_checkpoint_is_told_by_what_it_did():
    found = evidence("listing-custom", custom(grads_missing=["h.0.w"] * 3, rng_restored=False))
    assert "3 parameters get no gradient" in found
    assert "such as h.0.w, and the random state is not restored" in found
    found = evidence("listing-custom", custom(status="crash", reason="Traceback\nTypeError: a key"))
    assert "it ends in an error, TypeError: a key" in found


def test_the_size_where_it_starts_to_pay_is_named_with_what_it_costs():
    found = evidence("large-models", grown(parameters=700_000_000))
    assert "without checkpoints has 700,000,000" in found
    assert "the smallest that fits with them alone 1,400,000,000" in found
    assert f"{percent(0.4)} of the peak away for {percent(0.25)} more time" in found


def test_a_codec_needs_a_gradient_with_values():
    """A simulated one has none."""
    records = halved(0.5, strategy="compressed", codec="fp16")
    simulated = [msgspec.structs.replace(one, grad_max_rel_err=None) for one in records]
    assert CLAIMS["compression-fp16"].check(build(simulated)).verdict == "unmeasured"


def test_the_page_judges_by_all_that_tables_are_judged_by():
    stored = stored_factory.stored(pays=list(grown(parameters=700_000_000)))
    ledger = {one["id"]: one["verdict"] for one in json.loads(stored.tables()["claims.json"])}
    text = page.render(stored).decode()
    items = re.findall(r'<li data-verdict="(\w+)" id="claim-([\w-]+)"', text)
    assert {name: verdict for verdict, name in items} == ledger
    assert ledger["large-models"] != "unmeasured"
    assert "<summary>Where checkpointing starts to pay</summary>" in text


def test_what_fits_nowhere_pays_nowhere():
    [pair] = pays.pairs(build(list(steps(fit=(False, False)))))
    assert not pair.pays
    assert pair.spared == pytest.approx(0.4)
    assert pair.slower == pytest.approx(1.25)


def test_the_table_and_the_figure_show_every_pair():
    records = [*grown(parameters=700_000_000), *grown(seq=1024), *precisions(0.5)]
    text = pays.markdown(records)
    assert text.count("| 2 × 8 |") == len(pays.pairs(build(records))) == 10
    assert "| 700 M | 8 × 2,048 | bf16-autocast | 0.0 | 0.0 | 40.0 % | 1.25× | yes | yes |" in text
    assert "| 1.4 G |" in text
    assert "**no** | yes |" in text
    assert "modelled sim:h100-80gb" in text
    drawn = pays.figure(records)
    size, length = drawn.axes
    points = [sum(len(c.get_offsets()) for c in panel.collections) for panel in (size, length)]
    assert points == [2 * (4 + 1), 2 * 4]
    other = [
        msgspec.structs.replace(one, device="sim:l4-24gb", cell_id=one.cell_id[::-1])
        for one in records
    ]
    drawn = pays.figure([*records, *other])  # a page's width: sizes above, lengths below
    assert [panel.get_subplotspec().colspan.start for panel in drawn.axes] == [0, 1, 0, 1]
    assert [panel.get_xlabel()[:6] for panel in drawn.axes] == 2 * ["Parame"] + 2 * ["Tokens"]
    assert drawn.get_figwidth() < 10
