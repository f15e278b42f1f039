"""Published measurements of GPU memory, modelled: a configuration is data, and no GPU is there."""
