"""Records of cells that several ranks share: one of each rank, and one of all together.

They have a folder of their own: a rank's bytes are no step's, and no table mixes them.
"""

from __future__ import annotations

from bench.store.json_store import JsonStore
from bench.store.records import SCHEMA_VERSION, Record
from bench.store.records import STORE as RECORDS


def _name(record: Record) -> str:
    rank = "" if record.rank is None else f"-rank{record.rank}"
    file = f"{record.strategy}-{record.cell_id}{rank}.json"
    return f"{record.machine_id}/{record.workload}/{file}"


STORE = JsonStore(
    kind=Record,
    noun="record",
    folder="ranks",
    name=_name,
    version=SCHEMA_VERSION,
    migrations=RECORDS.migrations,
)
