"""Imported first by the server that cells are forked from: no garbage is looked for in it.

What it imports stays, and to look for garbage in that takes a sixth of the time; the processes that
are forked from it collect theirs (`bench.run.executor.child`).
"""

import gc

gc.disable()
