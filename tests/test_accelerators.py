"""The catalogue says what the datasheets say, and a specification is only ever read."""

import dataclasses
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.devices import accelerators

# As the datasheets print them: GB, then bf16, fp16, fp32 in TFLOPS (dense), memory in GB/s, and
# the host link's two directions together in GB/s.
DATASHEETS = {
    "v100-16gb": (16, None, 125, 15.7, 900, 32),
    "a100-40gb": (40, 312, 312, 19.5, 1555, 64),
    "a100-80gb": (80, 312, 312, 19.5, 2039, 64),
    "h100-80gb": (80, 989.4, 989.4, 66.9, 3350, 128),
    "h200-141gb": (141, 989.4, 989.4, 66.9, 4800, 128),
    "b200": (180, 2250, 2250, 75, 7700, 128),
    "rtx4090-24gb": (24, 165.2, 165.2, 82.6, 1008, 64),
    "l4-24gb": (24, 121, 121, 30.3, 300, 64),
    "mi300x-192gb": (192, 1307.4, 1307.4, 163.4, 5300, 128),
    "t4-16gb": (16, None, 65, 8.1, 320, 32),
    "p100-16gb": (16, None, 18.7, 9.3, 732, 32),
}
# In GiB, as out-of-memory messages and device queries print it.
REPORTED_GIB = {
    "v100-16gb": 15.78,
    "a100-40gb": 39.49,
    "a100-80gb": 79.25,
    "h100-80gb": 79.11,
    "h200-141gb": 139.80,
    "b200": 178.35,
    "rtx4090-24gb": 23.52,
    "l4-24gb": 22.03,
    "mi300x-192gb": 191.98,
    "t4-16gb": 14.56,
    "p100-16gb": 15.90,
}
# NVLink's or Infinity Fabric's two directions together in GB/s for one device, then adapters of a
# node of eight and what each of them carries in Gb/s.
INTERCONNECTS = {
    "v100-16gb": (6 * 50, 4, 100),
    "a100-40gb": (12 * 50, 8, 200),
    "a100-80gb": (12 * 50, 8, 200),
    "h100-80gb": (18 * 50, 8, 400),
    "h200-141gb": (18 * 50, 8, 400),
    "b200": (14_400 / 8, 8, 400),
    "mi300x-192gb": (7 * 128, 8, 400),
}


def test_catalogue_is_the_list():
    assert accelerators.names() == tuple(DATASHEETS)


@pytest.mark.parametrize("name", DATASHEETS)
def test_figures_are_the_datasheets(name):
    found = accelerators.get(name)
    rates = (found.bf16_flops_per_s, found.fp16_flops_per_s, found.fp32_flops_per_s)
    assert DATASHEETS[name] == (
        found.datasheet_memory_bytes / 2**30,
        *(None if rate is None else pytest.approx(rate / 1e12) for rate in rates),
        found.memory_bandwidth_bytes_per_s / 1e9,
        2 * found.link_bandwidth_bytes_per_s / 1e9,
    )
    assert found.launch_overhead_s == 4e-6
    assert "PCIe Gen" in found.link_source
    assert "https://" in found.source


@pytest.mark.parametrize("name", DATASHEETS)
def test_memory_is_what_a_process_may_allocate(name):
    found = accelerators.get(name)
    assert found.memory_bytes / 2**30 == pytest.approx(REPORTED_GIB[name], abs=0.005)
    assert found.memory_bytes < found.datasheet_memory_bytes


@pytest.mark.parametrize("name", DATASHEETS)
def test_links_between_devices_are_what_their_sources_print(name):
    found = accelerators.get(name).interconnect
    assert (found is None) == (name not in INTERCONNECTS)
    if found:
        both_gb_s, adapters, gbit_s = INTERCONNECTS[name]
        assert 2 * found.peer_bytes_per_s / 1e9 == both_gb_s
        assert 8 * found.network_bytes_per_s / 1e9 == adapters * gbit_s / found.devices_per_node


def test_every_rate_of_a_link_has_a_source():
    """An address for each: none is `unverified` today, which the schema would take."""
    known = accelerators.catalogue().values()
    fields = {field.name for field in dataclasses.fields(accelerators.Interconnect)}
    rates = {name for name in fields if name.endswith("_bytes_per_s")}
    assert {name.replace("_bytes_per_s", "_source") for name in rates} <= fields
    sources = [one.link_source for one in known]
    for one in filter(None, (device.interconnect for device in known)):
        sources += [one.peer_source, one.network_source]
    assert all("https://" in source for source in sources)


def row(**changes):
    """The first row of the catalogue, changed; ``...`` takes a field away."""
    first = dataclasses.asdict(accelerators.get("v100-16gb"))
    del first["workspace_bytes"], first["made_after"]  # custom ones have them alone
    first |= changes
    return json.dumps([{k: v for k, v in first.items() if v is not ...}]).encode()


def test_reads_what_it_wrote():
    assert accelerators.read(row()) == [accelerators.get("v100-16gb")]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"memory_gb": 16}, "unknown field `memory_gb`"),
        ({"source": ...}, "missing required field `source`"),
        ({"bf16_flops_per_s": ...}, "missing required field `bf16_flops_per_s`"),
        ({"memory_bytes": 1.5}, "Expected `int`"),
        ({"memory_bytes": "16"}, "Expected `int`"),
        ({"fp32_flops_per_s": 0}, "> 0"),
        ({"fp32_flops_per_s": None}, "Expected `float`"),
        ({"launch_overhead_s": -1e-6}, ">= 0"),
        ({"source": ""}, "length >= 1"),
        ({"link_source": "from memory"}, "matching regex"),
        ({"interconnect": {"peer_bytes_per_s": 1.0}}, "missing required field"),
    ],
)
def test_refuses_a_malformed_row(changes, match):
    with pytest.raises(msgspec.ValidationError, match=match):
        accelerators.read(row(**changes))


@pytest.mark.parametrize("text", ["h100-80gb", "sim:h100-80gb", " sim:h100-80gb "])
def test_get_with_and_without_prefix(text):
    found = accelerators.get(text)
    assert found.product == "NVIDIA H100 SXM5 80GB"
    assert found.spec_text == "sim:h100-80gb"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sim:h100", r"did you mean h100-80gb"),
        ("A100-80GB", r"did you mean a100-80gb or "),
        ("sim:tpu", r"'sim:tpu'; there are v100-16gb, .*p100-16gb, and sim:custom\("),
        ("", "unknown accelerator ''"),
        ("customer", "unknown accelerator 'customer'"),
    ],
)
def test_unknown_name_says_what_there_is(text, match):
    with pytest.raises(ValueError, match=match):
        accelerators.get(text)


def test_rate_is_by_dtype():
    device = accelerators.get("b200")
    assert device.flops_per_s("bfloat16") == device.flops_per_s("float16") == 2.25e15
    assert device.flops_per_s("float32") == device.flops_per_s("int64") == 75e12


def test_bf16_without_units_runs_at_the_rate_of_fp32():
    device = accelerators.get("v100-16gb")
    assert device.flops_per_s("bfloat16") == 15.7e12
    assert device.flops_per_s("float16") == 125e12


def test_custom_has_what_is_given():
    found = accelerators.get(
        "sim:custom(memory_gb=48, bf16_tflops=None, fp16_tflops=90, fp32_tflops=30.5,"
        " bandwidth_gb_s=900, link_gb_s=25, launch_us=0)"
    )
    assert found.memory_bytes == found.datasheet_memory_bytes == 48 * 2**30
    assert found.bf16_flops_per_s is None
    assert found.fp16_flops_per_s == 90e12
    assert found.fp32_flops_per_s == 30.5e12
    assert found.memory_bandwidth_bytes_per_s == 900e9
    assert found.link_bandwidth_bytes_per_s == 25e9
    assert found.launch_overhead_s == 0


def test_custom_takes_the_rest_from_an_a100_and_says_so():
    found = accelerators.get("custom(memory_gb=48)")
    like = accelerators.get("a100-80gb")
    for rate in ("bf16_flops_per_s", "fp16_flops_per_s", "fp32_flops_per_s"):
        assert getattr(found, rate) == getattr(like, rate)
    assert found.memory_bandwidth_bytes_per_s == like.memory_bandwidth_bytes_per_s
    assert found.link_bandwidth_bytes_per_s == like.link_bandwidth_bytes_per_s
    assert found.launch_overhead_s == like.launch_overhead_s
    assert found.spec_text == (
        "sim:custom(memory_gb=48, bf16_tflops=312, fp16_tflops=312, fp32_tflops=19.5,"
        " bandwidth_gb_s=2039, link_gb_s=32, launch_us=4)"
    )


@pytest.mark.parametrize("name", DATASHEETS)
def test_specification_of_a_known_one_reads_back(name):
    assert accelerators.get(accelerators.get(name).spec_text) == accelerators.catalogue()[name]


POSITIVE = st.floats(1e-6, 1e9) | st.integers(1, 10**9)


OPTIONAL = st.none() | st.just(0) | POSITIVE


@given(POSITIVE, st.none() | POSITIVE, POSITIVE, st.just(0) | POSITIVE, OPTIONAL)
def test_specification_of_a_custom_one_reads_back(memory_gb, bf16, fp32, launch_us, workspace):
    made = accelerators.custom(
        memory_gb=memory_gb,
        bf16_tflops=bf16,
        fp32_tflops=fp32,
        launch_us=launch_us,
        workspace_mib=workspace,
    )
    assert accelerators.get(made.spec_text) == made


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("custom", "cannot read accelerator 'custom'"),
        ("custom(48)", "write numbers by name, as in sim:custom"),
        ("custom(memory_gb=48", "cannot read"),
        ("custom(memory_gb=48)(memory_gb=48)", "cannot read"),
        ("custom(memory_gb=2 * 24)", "cannot read"),
        ("custom(memory_gb=open('x'))", "cannot read"),
        ("custom(**{'memory_gb': 48})", "no parameter 'None'"),
        ("custom(memory_gb=" + "(" * 500, "cannot read"),
        ("custom()", "memory_gb is missing; it takes memory_gb, bf16_tflops"),
        ("custom(fp32_tflops=3)", "memory_gb is missing"),
        ("custom(memory_gb=1, memory_gb=2)", "memory_gb is given twice"),
        ("custom(memory_gb=1, bf16_flops=2)", r"'bf16_flops' \(did you mean 'bf16_tflops'\?\)"),
        ("custom(memory_gb=0)", "memory_gb must be a positive number, not 0"),
        ("custom(memory_gb=-1)", "memory_gb must be a positive number, not -1"),
        ("custom(memory_gb=True)", "not True"),
        ("custom(memory_gb='48')", "not '48'"),
        ("custom(memory_gb=None)", "not None"),
        ("custom(memory_gb=1e999)", "not inf"),
        ("custom(memory_gb=1" + "0" * 400 + ")", "must be a positive number"),
        ("custom(memory_gb=1, fp16_tflops=None)", "fp16_tflops must be"),
        ("custom(memory_gb=1, launch_us=-1)", "launch_us must be"),
        ("custom(memory_gb=1, workspace_mib=-1)", "workspace_mib must be"),
    ],
)
def test_custom_refuses(text, match):
    with pytest.raises(ValueError, match=match):
        accelerators.get(text)
