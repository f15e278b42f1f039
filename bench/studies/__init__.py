"""Questions that take many cells, or a look inside one."""
