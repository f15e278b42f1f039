"""Published measurements of GPU memory, modelled: each configuration is data, and runs on no GPU."""
