"""Mutation testing: is every line of plans and solvers held by a test?

    python -m mutants [FILE …]                # `nox -s mutants`

Cosmic Ray finds what can be changed, changes it, and keeps what is known in its session file.
Here: which changes are taken (`population`), which tests can see one (`killers`), how these tests
run on it (`runs`), and what came of it (`outcome`).
"""
