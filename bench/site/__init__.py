"""The documentation site: what mkdocs is given beside ``docs/``, made from code and records."""
