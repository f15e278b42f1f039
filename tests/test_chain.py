"""Discovery: which modules of a model are its blocks."""

import copy

import pytest
import torch
from models import (
    BLOCKS,
    CASES,
    WIDTH,
    Block,
    ConvBlock,
    Loop,
    Shared,
    Small,
    Stage,
    assert_same,
    step,
)
from torch import nn

import strategies
from strategies import Unsupported, find_chain
from strategies.profiling.ledger import Ledger


class Holder(nn.Module):
    """Holds what it is given."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        """To be called, in the tests that look alone."""


def linear(width=WIDTH):
    return nn.Linear(width, width)


PATHS = {
    "gpt": ["h"],
    "wrapped": ["inner.model.h"],
    "encoder": ["encoder.layers"],
    "resnet": ["layer1", "layer2", "layer3"],
    "sequential": [""],
    "unlike": [""],
    "norms": ["blocks"],
    "shared": ["h"],
    "pair-sequential": ["stages"],
}


@pytest.mark.parametrize("name", PATHS)
def test_where_the_blocks_are(name):
    model = CASES[name].model()
    chain = find_chain(model)
    assert list(chain.paths) == PATHS[name]
    for path, container in zip(chain.paths, chain.containers, strict=True):
        assert model.get_submodule(path) is container
    for block_name, block in zip(chain.names, chain.blocks, strict=True):
        assert model.get_submodule(block_name) is block
    assert len(chain) == sum(len(container) for container in chain.containers)
    assert find_chain(model, list(chain.paths) if chain.paths != ("",) else None) == chain


def test_stages_have_borders():
    chain = find_chain(CASES["resnet"].model())
    assert chain.borders == (3, 6)
    assert chain.names[2:4] == ("layer1.2", "layer2.0")
    assert {type(block) for block in chain.blocks} == {ConvBlock}
    assert find_chain(CASES["gpt"].model()).borders == ()


def test_a_block_that_repeats_is_counted_at_every_position():
    chain = find_chain(Shared())
    assert len(chain) == BLOCKS
    assert len({id(block) for block in chain.blocks}) == 1
    assert chain.names == tuple(f"h.{i}" for i in range(BLOCKS))


def test_stages_within_a_list():
    stages = nn.ModuleList([nn.Sequential(*[ConvBlock(4) for _ in range(n)]) for n in (2, 1, 3)])
    chain = find_chain(Holder(stem=nn.Conv2d(3, 4, 1), stages=stages))
    assert chain.paths == ("stages.0", "stages.1", "stages.2")
    assert chain.borders == (2, 3)


def test_a_block_with_a_list_of_networks_is_no_stage():
    """As MobileBERT's: most parameters are in the list, and attention is beside it."""

    class Mobile(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.output = Block(), Block()
            self.ffn = nn.ModuleList([Block() for _ in range(5)])

        forward = Holder.forward

    assert find_chain(Holder(layer=nn.ModuleList([Mobile(), Mobile()]))).paths == ("layer",)


@pytest.mark.parametrize(
    ("scores", "paths"), [(4, ("h",)), (5, ("h.0.mlps", "h.1.mlps", "h.2.mlps"))]
)
def test_a_block_with_a_router_is_no_stage(scores, paths):
    """Experts under any name: a score for each of them, by a matrix beside or before them."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.router = Block(), nn.Sequential(nn.Linear(WIDTH, scores))
            self.mlps = nn.ModuleList([Block() for _ in range(4)])

        forward = Holder.forward

    assert find_chain(Holder(h=nn.ModuleList([Layer() for _ in range(3)]))).paths == paths


def test_what_its_library_marks_is_a_block():
    """As the convolutions with which wav2vec2 listens, of one matrix each."""

    class Listens(nn.Module):
        gradient_checkpointing = False

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3)

        forward = Holder.forward

    listening = nn.ModuleList([Listens(), Listens()])
    chain = find_chain(Holder(conv=listening, layers=nn.ModuleList([Block(), Block()])))
    assert chain.paths == ("conv", "layers")


def test_the_largest_kind_of_block_wins():
    model = Holder(
        small=nn.ModuleList([nn.Linear(2, 2) for _ in range(9)]),
        large=nn.ModuleList([Block(), Block()]),
        also=nn.Sequential(Block(), Block(), Block()),
    )
    assert find_chain(model).paths == ("large", "also")


def test_blocks_win_over_what_is_inside_them():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([linear(), linear(), linear()])

    assert find_chain(Holder(h=nn.ModuleList([Deep(), Deep()]))).paths == ("h",)


def test_sequentials_of_sequentials():
    model = nn.Sequential(
        nn.Sequential(linear(), nn.ReLU()), nn.Sequential(linear(), nn.ReLU()), linear()
    )
    assert find_chain(model).names == ("0", "1", "2")


def test_empty_places_are_no_blocks():
    model = Loop()
    model.h._modules["2"] = None
    chain = find_chain(model)
    assert chain.names == ("h.0", "h.1", "h.3", "h.4")
    assert None not in chain.blocks


def test_containers_that_are_named():
    model = Holder(a=nn.ModuleList([Small(), Stage()]), b=nn.Sequential(linear(), linear()))
    chain = find_chain(model, "b")
    assert chain.names == ("b.0", "b.1")
    chain = find_chain(model, " b, a ")
    assert chain.paths == ("b", "a")
    assert chain.borders == (2,)
    assert chain == find_chain(model, ["b", "a"])
    assert strategies.apply(model, "every_layer", blocks="a").chain.names == ("a.0", "a.1")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("nothing", r"no module 'nothing'; blocks may be 'a', 'b'"),
        ("a,nothing", r"no module 'nothing'"),
        ("a.0", r"'a.0' is a Small, not a filled ModuleList or Sequential; blocks may be 'a', 'b'"),
        ("empty", r"'empty' is a ModuleList, not a filled"),
    ],
)
def test_names_of_no_container(blocks, message):
    model = Holder(
        a=nn.ModuleList([Small(), Stage()]),
        b=nn.Sequential(linear(), linear()),
        empty=nn.ModuleList(),
    )
    with pytest.raises(ValueError, match=message):
        find_chain(model, blocks)


@pytest.mark.parametrize(
    "model",
    [
        linear(),
        Holder(h=nn.ModuleList([linear()])),
        Holder(h=nn.Sequential(nn.ReLU(), nn.ReLU())),
        Holder(h=nn.ModuleList()),
        Holder(h=nn.ModuleDict({"0": linear(), "1": linear()})),
    ],
)
def test_models_without_blocks(model):
    with pytest.raises(Unsupported, match=r"no chain of blocks found.*blocks='path.to.container'"):
        find_chain(model)
    with pytest.raises(Unsupported, match="no chain of blocks"):
        strategies.apply(model, "none")


def test_a_model_without_containers_says_so():
    with pytest.raises(ValueError, match="it holds no ModuleList or Sequential"):
        find_chain(linear(), "h")


def test_one_block_can_be_named():
    chain = find_chain(Holder(h=nn.ModuleList([linear()])), "h")
    assert len(chain) == 1


def test_a_chain_does_not_change():
    chain = find_chain(CASES["gpt"].model())
    with pytest.raises(AttributeError):
        chain.blocks = ()


# Towers.


class Mlp(nn.Module):
    """A block of two matrices."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.up, self.down = linear(width), linear(width)

    def forward(self, x):
        return x + self.down(self.up(x).tanh())


class Other(Mlp):
    """A block of another class."""


class Staged(nn.Module):
    """A stage: blocks, and a layer behind them."""

    def __init__(self, name="blocks", blocks=2):
        super().__init__()
        setattr(self, name, nn.ModuleList([Mlp() for _ in range(blocks)]))
        self.behind = linear()

    forward = Holder.forward


class Numbered(nn.Module):
    """A stage whose blocks are attributes, as RegNet's in timm."""

    def __init__(self, *blocks):
        super().__init__()
        for number, block in enumerate(blocks, 1):
            setattr(self, f"b{number}", block)

    def forward(self, x):
        for block in self.children():
            x = block(x)
        return x


def mlps(count=2):
    return nn.ModuleList([Mlp() for _ in range(count)])


def stack():
    return nn.Sequential(linear(), nn.Tanh())


@pytest.mark.parametrize(
    ("model", "paths"),
    [
        (nn.Transformer(16, 2, 3, 3, 32, batch_first=True), ("encoder.layers", "decoder.layers")),
        (Holder(text=Holder(h=mlps()), vision=Holder(h=mlps(3))), ("text.h", "vision.h")),
        (Holder(h=nn.ModuleList([Mlp(), Other(), Mlp()])), ("h",)),
        (Holder(a=mlps(), b=nn.ModuleList([Other(), Other()])), ("a", "b")),
        (Holder(h=nn.ModuleList([Staged(), Staged()])), ("h.0.blocks", "h.1.blocks")),
        (
            Holder(h=nn.ModuleList([Staged(), Staged(blocks=1), Staged()])),
            ("h.0.blocks", "h.1.blocks", "h.2.blocks"),
        ),
        # Stages of one block each, as U-Nets of diffusers with one layer a level.
        (
            Holder(
                down=nn.ModuleList([Staged(blocks=1), Staged(blocks=1)]),
                up=nn.ModuleList([Staged(), Staged()]),
            ),
            ("down.0.blocks", "down.1.blocks", "up.0.blocks", "up.1.blocks"),
        ),
        (Holder(h=nn.ModuleList([Staged("experts"), Staged("experts")])), ("h",)),
        (Holder(h=nn.ModuleList([nn.Sequential(linear(), nn.GELU(), linear())] * 3)), ("h",)),
        (nn.Sequential(nn.Sequential(Mlp(), Mlp()), nn.Sequential(Mlp(), Mlp())), ("0", "1")),
        (Holder(h=nn.ModuleDict({"a": Mlp(), "b": Mlp()})), ("h",)),
        (Holder(h=nn.ModuleList([Mlp()])), ("h",)),
        (Holder(s1=Numbered(Mlp()), s2=Numbered(Mlp(), Mlp())), ("s1", "s2")),
        (Holder(query=Mlp(), key=Mlp(), h=mlps()), ("h",)),
        (Holder(query=Mlp(), key=Mlp()), ("",)),
        # Levels that are Sequentials, as in a tutorial, are blocks; the halves of a VGG are lists.
        (Holder(a=stack(), b=stack(), c=stack(), head=linear()), ("",)),
        (Holder(features=stack(), head=stack()), ("features", "head")),
        # One block beside a list of others, as EfficientNet's first stage.
        (nn.Sequential(nn.Sequential(Other()), nn.Sequential(Mlp(), Mlp())), ("0", "1")),
        (Holder(attentions=nn.ModuleList([Other()]), resnets=mlps()), ("attentions", "resnets")),
        # Stages of blocks of two classes, in which one repeats: EdgeNeXt's.
        (
            nn.Sequential(
                Holder(blocks=nn.Sequential(Mlp(), Mlp())),
                Holder(blocks=nn.Sequential(Mlp(), Mlp(), Other())),
                Holder(blocks=nn.Sequential(Mlp(), Other())),
            ),
            ("0.blocks", "1.blocks", "2.blocks"),
        ),
        # Parts of a block, of a class each: T5's.
        (Holder(h=nn.ModuleList([Holder(layer=nn.ModuleList([Mlp(), Other()]))] * 2)), ("h",)),
        (
            Holder(
                features=nn.Sequential(linear(), nn.Tanh()), head=nn.Sequential(linear(), Mlp())
            ),
            ("features", "head"),
        ),
        # Layers with an activation in place between them are no list of alike ones: MobileNet.
        (
            Holder(
                features=nn.Sequential(linear(), nn.Tanh()),
                head=nn.Sequential(linear(), nn.ReLU(inplace=True), linear()),
            ),
            ("features", "head"),
        ),
        (Holder(heads=nn.ModuleList([linear()] * 2), h=mlps()), ("h",)),
    ],
)
def test_towers(model, paths):
    assert find_chain(model).paths == paths


class Universal(nn.Module):
    """Runs its only block again and again, which no list holds."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Mlp(), linear()

    def forward(self, x):
        for number in range(4):
            x = self.block(x + number)
        return self.head(x)


@pytest.mark.parametrize("spec", ["every_layer", "recursive"])
def test_a_block_that_runs_many_times_is_named_itself(spec):
    model, rows = Universal(), torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH)
    wanted = step(model, rows)
    with pytest.raises(Unsupported, match="a block that runs many times with blocks='block'"):
        find_chain(model)
    applied = strategies.apply(model, spec, blocks="block", example=rows)
    assert applied.chain.names == ("block",)
    inside = []
    model.block.up.register_forward_hook(lambda *_: inside.append(1))
    assert_same(step(model, rows), wanted)
    assert len(inside) == (8 if spec == "every_layer" else 4)
    with pytest.raises(ValueError, match="'net' is a Holder, not a filled ModuleList"):
        find_chain(Holder(net=Holder(h=mlps())), "net")


# Lists of what only holds the parts of a block.


class Pair(nn.Module):
    """Is never called: the model calls its parts, or another method of it."""

    def __init__(self):
        super().__init__()
        self.mix, self.norm, self.mlp = Other(), nn.LayerNorm(WIDTH), Mlp()

    def both(self, x):
        return self.mlp(self.norm(self.mix(x)))


class Runs(nn.Module):
    """Runs the parts of what it is made of, by ``run(part, x)``."""

    def __init__(self, part, run):
        super().__init__()
        self.layers, self.run = nn.ModuleList([part() for _ in range(3)]), run

    def forward(self, x):
        for part in self.layers:
            x = self.run(part, x)
        return x


def listed():
    return nn.ModuleList([nn.LayerNorm(WIDTH), Other(), nn.ModuleList([Mlp()])])


def tabled():
    return nn.ModuleDict({"mix": Other(), "mlp": Mlp()})


PARTS = {
    "attributes": (Pair, lambda part, x: part.mlp(part.mix(x)), ("mix", "mlp")),
    "a method": (Pair, Pair.both, ("mix", "mlp")),
    "lists": (listed, lambda part, x: x + part[2][0](part[1](part[0](x))), ("1", "2.0")),
    "tables": (tabled, lambda part, x: part["mlp"](x + part["mix"](x)), ("mix", "mlp")),
}


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "recursive"])
@pytest.mark.parametrize("kind", PARTS)
def test_parts_of_what_cannot_be_called_are_blocks(kind, spec):
    part, run, names = PARTS[kind]
    model, rows = Runs(part, run), torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH)
    wanted = step(model, rows)
    applied = strategies.apply(model, spec)
    assert applied.chain.names == tuple(f"layers.{n}.{name}" for n in range(3) for name in names)
    assert applied.chain.paths == ("layers.*",)
    inside = []
    for block in applied.chain.blocks:
        block.up.register_forward_pre_hook(lambda module, _: inside.append(module))
    assert_same(step(model, rows), wanted)
    assert len(inside) > 4 / 3 * len(applied.chain)  # recursive leaves some as they are
    strategies.undo(model)
    for paths in (("layers",), applied.chain.paths):
        assert find_chain(model, paths).names == applied.chain.names


def test_sub_modules_are_looked_for_among_the_parts():
    model, rows = Runs(tabled, PARTS["tables"][1]), torch.linspace(-1, 1, WIDTH).view(1, WIDTH)
    wanted = step(model, rows)
    strategies.apply(model, "selective")
    assert all("forward" in vars(part["mlp"]) for part in model.layers)
    assert_same(step(model, rows), wanted)


@pytest.mark.usefixtures("uncompiled")
def test_parts_of_blocks_that_the_model_never_calls():
    """Nobody can see that; watching can, and says what to do."""

    class Called(Pair):
        forward = Holder.forward

    model, rows = Runs(Called, Pair.both), torch.ones(2, WIDTH)
    applied = strategies.apply(model, "every_layer", example=rows)
    assert any("blocks='layers.*'" in note for note in applied.notes)
    strategies.undo(model)
    strategies.apply(model, "every_layer")
    with pytest.warns(RuntimeWarning, match=r"blocks='layers\.\*'"):
        model(rows)
    strategies.undo(model)
    applied = strategies.apply(model, "every_layer", blocks="layers.*", example=rows)
    assert "6 of layers.*; they save" in applied.notes[0]


def test_single_layers_in_lists_are_no_blocks_and_the_refusal_says_what_to_do():
    def table():
        return nn.ModuleDict({name: linear() for name in ("query", "key", "value")})

    model = Holder(layers=nn.ModuleList([table(), table()]))
    with pytest.raises(Unsupported, match="or give the members of 'layers' a forward"):
        find_chain(model)
    with pytest.raises(ValueError, match=r"'layers\.\*' names no blocks: no two parts"):
        find_chain(model, "layers.*")


class Handwritten(nn.Module):
    """A U-Net as in a tutorial: its blocks are attributes, of two classes, with no list at all."""

    def __init__(self):
        super().__init__()
        self.stem, self.down1, self.down2 = linear(), Mlp(), Mlp()
        self.middle, self.up1, self.head = Other(), Mlp(), linear()

    def forward(self, x):
        first = self.down1(self.stem(x))
        second = self.down2(first)
        return self.head(self.up1(self.middle(second) * second) + first)


@pytest.mark.parametrize("blocks", [None, "net"])
def test_blocks_that_are_attributes(blocks):
    chain = find_chain(Holder(net=Handwritten(), behind=linear()), blocks)
    assert chain.names == ("net.down1", "net.down2", "net.middle", "net.up1")
    assert chain.paths == ("net",)


def test_blocks_that_are_attributes_are_planned_for():
    rows, model = torch.ones(3, WIDTH), Handwritten()
    wanted = step(model, rows)
    with strategies.apply(model, "optimal(budget='100%')", example=rows, check=True) as applied:
        assert applied.chain.names == ("down1", "down2", "middle", "up1")
        assert_same(step(model, rows), wanted)


@pytest.mark.parametrize("spec", ["every_layer", "sqrt", "recursive", "offload"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Numbered(Mlp(), Mlp(), Mlp()),
        lambda: nn.Sequential(linear(), nn.ReLU(inplace=True), linear(), nn.ReLU(inplace=True)),
        Handwritten,
    ],
)
def test_numbered_blocks_and_activations_in_place_run_to_the_bit(make, spec):
    torch.manual_seed(0)
    model, rows = make(), torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH)
    wanted = step(model, rows)
    with strategies.apply(model, spec) as applied:
        assert not any(isinstance(block, nn.ReLU) for block in applied.chain.blocks)
        assert_same(step(model, rows), wanted)


def test_an_activation_alone_is_no_checkpoint():
    """A stack of layers needs under every_layer what it needs without."""
    rows = torch.ones(3, WIDTH)

    def saved_bytes(spec):
        model = nn.Sequential(linear(), nn.Tanh(), linear(), nn.Sigmoid(), linear(), nn.ReLU())
        strategies.apply(model, spec)
        ledger = Ledger()
        ledger.adopt([*model.parameters(), rows])
        with ledger:
            start = ledger.mark("start")
            output = model(rows)
            return ledger.mark("forward").alive_bytes - start.alive_bytes - output.nbytes

    assert saved_bytes("every_layer") == saved_bytes("none") == 2 * rows.nbytes
    assert saved_bytes("every_k(k=3)") == rows.nbytes


class Backwards(nn.Module):
    """Declares its towers in another order than that in which they run, and one runs twice."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder, self.shared = mlps(), mlps(3), mlps()

    def forward(self, x):
        for block in (*self.encoder, *self.shared, *self.decoder, *self.shared):
            x = block(x)
        return x


def test_towers_are_planned_for_in_the_order_in_which_they_run():
    rows = torch.ones(3, WIDTH)
    model = Backwards()
    wanted = step(model, rows)
    with strategies.apply(model, "optimal(budget='100%')", example=rows) as applied:
        assert applied.chain.paths == ("encoder", "shared", "decoder", "shared")
        assert applied.chain.borders == (3, 5, 7)
        assert not applied.chain.left_out
        assert_same(step(model, rows), wanted)
    for spec in ("every_layer", "sqrt", "recursive", "every_k(k=2)"):
        with strategies.apply(model, spec) as applied:
            assert len(applied.chain) == 7
            assert_same(step(model, rows), wanted)


# What cannot be had falls back to the nearest that can.


class Enclosing(Loop):
    """Its blocks hold chains of their own."""

    block = staticmethod(lambda: nn.Sequential(*(Small() for _ in range(3))))


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=3)", "recursive", "offload(over=sqrt)"])
def test_a_list_within_a_block_of_another_is_left_out_with_a_note(spec):
    model, data = Enclosing(), CASES["loop"].input()
    plain = copy.deepcopy(model)
    with strategies.apply(model, spec, blocks=["h", "h.0", "h.3"]) as applied:
        assert applied.chain.paths == ("h",)
        assert applied.chain.left_out == ("h.0", "h.3")
        assert any("they lie in other blocks" in n and "h.0, h.3" in n for n in applied.notes)
        assert_same(step(model, data), step(plain, data))


def test_torchscript_is_left_out_with_a_note():
    model = Holder(one=mlps(), two=mlps())
    model.two = nn.ModuleList([torch.jit.script(linear()) for _ in range(2)])
    applied = strategies.apply(model, "every_layer", blocks="one,two")
    assert applied.chain.paths == ("one",)
    assert any("are TorchScript" in note and "two" in note for note in applied.notes)
    strategies.undo(model)
    with pytest.raises(Unsupported, match=r"apply the strategy before torch\.jit\.script"):
        strategies.apply(model, "every_layer", blocks="two")
    with pytest.raises(Unsupported, match="no chain of blocks found"):
        strategies.apply(torch.jit.script(nn.Sequential(linear(), linear())), "every_layer")


@pytest.mark.filterwarnings("ignore:Lazy modules")  # PyTorch's own
def test_lazy_modules_are_refused_until_they_know_their_shapes():
    model = nn.Sequential(*(nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(4)) for _ in range(2)))
    with pytest.raises(strategies.Unsupported, match="lazy modules have no shapes yet"):
        strategies.apply(model, "every_layer")
    model(torch.ones(1, 4))
    with strategies.apply(model, "every_layer") as applied:
        assert len(applied.chain) == 4
