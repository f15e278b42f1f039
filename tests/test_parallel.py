"""How ranks share a step, as text and as a mesh; and what cannot be shared."""

import pytest
import torch

from bench import workloads
from bench.ranks import context, divisible
from bench.ranks.parallel import Parallel, parse
from bench.ranks.tensor_plans import interleaved, restored


@pytest.mark.parametrize(
    ("text", "ranks", "wanted"),
    [
        ("ddp", 2, Parallel(data="ddp", replicas=2)),
        ("fsdp2", 4, Parallel(data="fsdp2", replicas=4)),
        ("fsdp2(reshard=false)", 2, Parallel(data="fsdp2", replicas=2, reshard=False)),
        ("fsdp2+tp=2", 4, Parallel(data="fsdp2", replicas=2, tensor=2)),
        ("sp", 2, Parallel(tensor=2, sequence=True)),
        ("fsdp2(mixed=true)", 2, Parallel(data="fsdp2", replicas=2, mixed=True)),
        ("megatron(sequence=true)", 2, Parallel(tensor=2, sequence=True, megatron=True)),
        ("cp", 2, Parallel(data="ddp", context=2)),
        ("fsdp2+cp=2", 4, Parallel(data="fsdp2", replicas=2, context=2)),
        ("pp(gpipe=true,microbatches=3)", 2, Parallel(pipeline=2, microbatches=3, gpipe=True)),
        ("fsdp2=2 + pp(microbatches=4)", 4,
         Parallel(data="fsdp2", replicas=2, pipeline=2, microbatches=4)),
    ],
)  # fmt: skip
def test_text_is_a_mesh_of_all_ranks(text, ranks, wanted):
    assert parse(text, ranks) == wanted
    assert wanted.ranks == ranks


@pytest.mark.parametrize(
    ("text", "ranks", "problem"),
    [
        ("zero3", 2, "--set-parallel takes ddp, fsdp2, cp, tp, sp, megatron, pp, joined by"),
        ("", 2, "not ''"),
        ("tp=2", 4, "does not divide 4 ranks"),
        ("tp=0", 4, "does not divide 4 ranks"),
        ("tp=3+fsdp2", 4, "does not divide 4 ranks"),
        ("tp+pp", 4, "only one size may be left out"),
        ("tp=2+sp=2", 4, "divides tensor twice"),
        ("fsdp2(reshard=2)", 2, "in brackets may stand reshard=true or false"),
        ("ddp(reshard=true)", 2, "in brackets may stand nothing"),
        ("pp(gpipe=true,gpipe=false)", 2, "gives gpipe twice"),
        ("pp(microbatches=0)", 2, "in brackets may stand microbatches=2"),
    ],
)
def test_text_that_says_nothing_is_refused_in_a_sentence(text, ranks, problem):
    with pytest.raises(ValueError, match=problem):
        parse(text, ranks)


@pytest.mark.parametrize(
    ("workload", "options", "text", "problem"),
    [
        ("gpt-mini", {"batch": 3}, "fsdp2", "a batch of 3 does not go into 2 equal parts"),
        ("gpt-mini-dropout", {}, "ddp", "set dropout to 0"),
        ("mlp-chain", {}, "tp", "how to divide the blocks of a "),
        ("llama-mini", {"kv_heads": 1}, "tp", "2 ranks do not divide 1 kv_heads"),
        ("gpt-mini", {"layers": 3}, "pp", "2 stages do not divide 3 blocks"),
        ("gpt-mini", {"tied": True}, "pp", "set tied to false"),
        ("gpt-mini", {"seq": 31}, "sp", "2 ranks do not divide a sequence of 31"),
        ("gpt-mini", {"seq": 6}, "cp", "does not go into 4 equal parts, two for a rank"),
        ("mlp-chain", {}, "cp", "how to divide the blocks of a "),
        ("gpt-mini", {"seq": 8}, "cp", None),
        ("gpt-mini", {}, "fsdp2", None),
        ("mlp-chain", {}, "ddp", None),
    ],
)
def test_what_cannot_be_divided_says_why(workload, options, text, problem):
    found = divisible.problem(parse(text, 2), workloads.get(workload, **options))
    assert (found is None) if problem is None else (problem in found)


def test_ranks_hold_a_part_of_the_front_and_one_of_the_back():
    whole = torch.arange(16).view(2, 8)
    parts = [context.shared(whole, rank, 2) for rank in range(2)]
    assert [part[0].tolist() for part in parts] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts)


def test_a_sequence_is_not_split_beside_matrices():
    workload = workloads.get("gpt-mini")
    found = divisible.problem(parse("cp=2+pp=2", 4), workload)
    assert found == "cp is joined with fsdp2 or ddp alone"


def test_ranks_of_a_fused_matrix_hold_a_part_of_each():
    stacked = torch.arange(12).view(12, 1)  # queries 0 to 3, keys 4 to 7, values 8 to 11
    first, second = interleaved(stacked, 3, 2).chunk(2)
    assert first.flatten().tolist() == [0, 1, 4, 5, 8, 9]
    assert second.flatten().tolist() == [2, 3, 6, 7, 10, 11]
    assert torch.equal(restored(interleaved(stacked, 3, 2), 3, 2), stacked)
