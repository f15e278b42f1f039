"""Which lines and branches of the project do its tests run?

    python -m covered [FILE …] [--long] [--write]      # `nox -s coverage`

Each test file runs in a process of its own (`runs`), and what it ran is kept: with the digest of
every source, so that it counts only for sources that are as they were. What came of it is stored
and judged (`outcome`).
"""
