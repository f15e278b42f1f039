"""Models as users write them, in files that are not in the repository."""

import dataclasses
import json
import sys
from pathlib import Path

BLOCKS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inner = nn.Linear(dim, dim)

    def forward(self, x):
        return x + self.inner(x).relu()
"""
NET = """
class Net(nn.Module):
    def __init__(self, layers=4, dim=8):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim) for _ in range(layers))
        self.head = nn.Linear(dim, 3)

    def run(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)
"""
PLAIN = BLOCKS + NET

FUNCTION = (
    PLAIN
    + """
    def forward(self, x):
        return self.run(x)

def build(layers=4):
    return Net(layers)

def batch(batch=5):
    return torch.randn(batch, 8)
"""
)
DICT = (
    PLAIN
    + """
    def forward(self, x):
        logits = self.run(x)
        return {"logits": logits, "loss": logits.square().sum()}
"""
)
TWO_INPUTS = PLAIN + "    def forward(self, x, scale):\n        return self.run(x * scale)\n"
BFLOAT = PLAIN + "    def forward(self, x):\n        return self.run(x)\n"
NEEDS_LOSS = (
    PLAIN
    + """
    def forward(self, x):
        logits = self.run(x)
        return logits.argmax(), logits

def loss(output, batch, smooth=0.0):
    return nn.functional.cross_entropy(output[1], batch.long()[:, 0] % 3, label_smoothing=smooth)
"""
)
CALLS_ITSELF = (
    PLAIN
    + """
    def forward(self, x):
        return self.run(x)

def batch():
    return torch.randn(4, 8), torch.arange(4) % 3

def loss(model, batch):
    x, classes = batch
    return nn.functional.cross_entropy(model(x), classes)
"""
)
MAPPING = (
    PLAIN
    + """
    def forward(self, *, x, scale=1.0, mask=None):
        return self.run(x * scale * mask)
"""
)
NUMPY = (
    PLAIN
    + """
    def forward(self, x):
        return self.run(x * self.scale)

def build():
    import numpy
    net = Net()
    net.register_buffer("scale", torch.from_numpy(numpy.ones(8, dtype=numpy.float32)))
    return net
"""
)
STATEFUL = """
import torch
from torch import nn

def build():
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1)) for _ in range(4)]
    return nn.Sequential(nn.Linear(8, 8), nn.Sequential(*blocks))
"""
RENEWED = (
    PLAIN.replace("return x + self", "self.last = x + self").replace(
        "relu()\n", "relu()\n        return self.last\n"
    )
    + "    def forward(self, x):\n        return self.run(x)\n"
)
"""Blocks that keep their last results."""
_NET = "\ndef build():\n    return Net()\n"
_TENSOR = "\ndef batch():\n    return torch.randn(5, 8)\n"
_PAIR = "\ndef batch():\n    return [torch.randn(5, 8), torch.tensor(2.0)]\n"
_NAMED = (
    "\ndef batch():\n    return {'x': torch.randn(5, 8), 'mask': torch.ones(5, 1), 'scale': 2.0}\n"
)
_HALF = """
def build():
    return Net().to(torch.bfloat16)

def batch():
    return torch.randn(5, 8, dtype=torch.bfloat16)
"""
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "torch_dtype": "bfloat16",
}
NET_BYTES = 4 * (4 * (8 * 8 + 8) + 8 * 3 + 3)
LLAMA_BYTES = 4 * (2 * 64 * 16 + 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 32 + 2 * 16) + 16)


@dataclasses.dataclass(frozen=True)
class Own:
    """A model of a user's.

    Attributes:
        name: the workload's; ``{}`` stands for the folder.
        options: of the workload, likewise.
        parameter_bytes: of the model.
        batch_bytes: of the batch.
        blocks: of the chain.
    """

    name: str
    parameter_bytes: int = NET_BYTES
    batch_bytes: int = 4 * 5 * 8
    options: dict = dataclasses.field(default_factory=dict)
    blocks: int = 4


OWN = {
    "a file with a function": Own("{}/own.py:build"),
    "sizes as arguments": Own(
        "{}/own.py:build", 4 * (2 * 72 + 27), 4 * 3 * 8, {"layers": 2, "batch": 3}, 2
    ),
    "a package": Own("ownpackage.nets:build", options={"inputs": "ownpackage.data:make"}),
    "a dict": Own("{}/gives_dict.py:build"),
    "two inputs": Own("{}/two_inputs.py:build", batch_bytes=4 * 5 * 8 + 4),
    "bf16": Own("{}/half.py:build", NET_BYTES // 2, 2 * 5 * 8),
    "needs a loss": Own(
        "{}/needs_loss.py:build", options={"criterion": "{}/needs_loss.py:loss", "smooth": 0.1}
    ),
    "a loss that calls": Own(
        "{}/calls.py:Net", NET_BYTES, 4 * 4 * 8 + 8 * 4, {"criterion": "{}/calls.py:loss"}
    ),
    "a mapping": Own("{}/mapping.py:build", batch_bytes=4 * 5 * 8 + 4 * 5),
    "numpy": Own("{}/with_numpy.py:build"),
    "batch statistics": Own("{}/stateful.py:build", 4 * (5 * 72 + 4 * 16), options={"blocks": "1"}),
    "last results": Own("{}/renewed.py:build"),
    "a configuration": Own("hf:{}/config.json", LLAMA_BYTES, 2 * 8 * 8, {"seq": 8, "batch": 1}, 2),
}
"""Each as a workload's name, with what is known about it."""


def write(folder: Path) -> None:
    """The files of all of them."""
    sources = {
        "own": FUNCTION,
        "gives_dict": DICT + _NET + _TENSOR,
        "two_inputs": TWO_INPUTS + _NET + _PAIR,
        "half": BFLOAT + _HALF,
        "needs_loss": NEEDS_LOSS + _NET + _TENSOR,
        "calls": CALLS_ITSELF,
        "mapping": MAPPING + _NET + _NAMED,
        "with_numpy": NUMPY + _TENSOR,
        "stateful": STATEFUL + _TENSOR,
        "renewed": RENEWED + _NET + _TENSOR,
        "ownpackage/__init__": "",
        "ownpackage/parts": BLOCKS,
        "ownpackage/nets": "from .parts import Block, nn\n"
        + NET
        + "    def forward(self, x):\n        return self.run(x)\n"
        + _NET,
        "ownpackage/data": "import torch\n\ndef make():\n    return torch.randn(5, 8)\n",
    }
    (folder / "ownpackage").mkdir()
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "config.json").write_text(json.dumps(LLAMA))


def flags_of(own: Own, folder: Path) -> list[str]:
    """The same on the command line."""
    flags = ["--model", own.name.format(folder)]
    named = {"inputs": "batch", "criterion": "loss"}
    for option, value in own.options.items():
        text = str(value).format(folder)
        if option in {*named, "batch", "layers", "seq", "blocks"}:
            flags += [f"--{named.get(option, option)}", text]
        else:
            flags += ["--option", f"{option}={text}"]
    return flags


def importable(folder, monkeypatch):
    """The files, and imports from their folder; afterwards nobody has imported them."""
    write(folder)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
