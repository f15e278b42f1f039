"""What the textbook says and no record can judge, sentence by sentence, and why not.

Together with the ledger this covers the chapter: a test reads it line by line.
"""

from __future__ import annotations

DEFINITION = "says what is done, not what it costs"
SHOWN = "the same as a sentence that the ledger judges"
ADVICE = "advice without a figure"

UNJUDGED: dict[str, str] = {
    "During training, we need to store activations for the backward pass:": DEFINITION,
    "For a transformer with L layers, sequence length N, and hidden dimension d:": DEFINITION,
    "- Activations per layer: O(N × d)": f"{SHOWN}: `none-memory`, whose series grows in L",
    "- Total activations: O(L × N × d)": f"{SHOWN}: `none-memory`",
    "**Example (GPT-3 175B scale):**": f"{SHOWN}: `gpt3-activations`",
    "- L = 96 layers": f"{SHOWN}: `gpt3-activations`",
    "- N = 2048 tokens": f"{SHOWN}: `gpt3-activations`",
    "- d = 12288": f"{SHOWN}: `gpt3-activations`",
    "This often exceeds GPU memory, limiting batch size and training efficiency.": (
        f"{SHOWN}: `gpt3-activations`; how often is not said"
    ),
    "Instead of storing all activations, store only some": DEFINITION,
    "Checkpoint every k layers:": DEFINITION,
    "Memory: O(L/k × N × d)": f"{SHOWN}: `every-k-memory`",
    "- Memory: O(√L × N × d)": f"{SHOWN}: `sqrt-memory`",
    "Only checkpoint expensive operations:": f"{SHOWN}: `expensive-operations`",
    "Store compressed checkpoints:": DEFINITION,
    "- Decompress during backward": DEFINITION,
    "Flash Attention already recomputes attention in backward:": (
        f"{SHOWN}: `flash-memory`; that backward does it is PyTorch's own kernel"
    ),
    "- Backward: Recompute attention from Q, K, V": f"{SHOWN}: `flash-memory`",
    "- Don't store intermediate layer outputs": f"{SHOWN}: `flash-and-checkpoints`",
    "- Recompute everything from checkpoints": f"{SHOWN}: `flash-and-checkpoints`",
    "3. **Memory-constrained**: Can't fit desired batch size": ADVICE,
    "4. **Fine-tuning**: When memory is tight": ADVICE,
    "1. **Inference**: No backward pass needed": (
        "true by construction: without gradients nothing is saved, and tests hold that no"
        " strategy then does anything"
    ),
    "For extreme memory constraints, offload checkpoints to CPU:": DEFINITION,
    "You now understand both Flash Attention and gradient checkpointing": DEFINITION,
    "class TransformerBlock(nn.Module):": f"{SHOWN}: `expensive-operations`",
    "Forward:  x0 → [Layer 1]": DEFINITION,
    "Without checkpointing:": DEFINITION,
    "k = 4:": DEFINITION,
    "For L = 16:": DEFINITION,
    "activations = []": DEFINITION,
    "checkpoints = [input]": f"{SHOWN}: `listing-loop`",
    "class EfficientTransformerBlock(nn.Module):": f"{SHOWN}: `flash-and-checkpoints`",
}
"""Each begins a line of the chapter, or is in the listing that it stands for."""
