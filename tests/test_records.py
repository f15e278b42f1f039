"""Records on disk: whole or not at all, and nothing untrustworthy trusted or lost."""

import json
import os
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_factory import make

from bench.store import json_store, parts, records

RECORD = make("every_k", params={"k": 4}, step_s=[0.1, 0.2], notes=["a | b"], reason=None)


def test_written_is_what_is_read(tmp_path):
    path = records.write(RECORD, tmp_path)
    assert path == tmp_path / "raw" / "m1" / "mlp-chain" / f"every_k-{RECORD.cell_id}.json"
    assert records.read(path) == RECORD
    assert list(records.read_all(tmp_path)) == [RECORD]


def test_file_is_json_in_schema_order_ending_in_a_newline():
    data = records.encode(RECORD)
    assert data.endswith(b"}\n")
    assert list(json.loads(data)) == [*records.Record.__struct_fields__, "checksum"]


def test_line_is_one_line_and_reads_back():
    line = records.encode_line(RECORD)
    assert "\n" not in line
    assert records.decode(line.encode()) == RECORD


def test_every_other_length_of_a_record_is_refused():
    data = records.encode(RECORD)
    for end in range(0, len(data) - 2, 37):
        with pytest.raises(ValueError, match="not a record"):
            records.decode(data[:end])


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data):
    with pytest.raises(ValueError, match="not a record"):
        records.decode(data)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema_version": 99}, "schema version 99; this program reads 1, 2"),
        ({"surprise": 1}, "surprise"),
        ({"status": "fine"}, "status"),
        ({"peak_allocated_bytes": "much"}, "peak_allocated_bytes"),
        ({"step_s": [None]}, "step_s"),
    ],
)
def test_what_is_not_understood_is_refused(change, match):
    data = json.loads(records.encode(RECORD)) | change
    with pytest.raises(ValueError, match=match):
        records.decode(json.dumps(data).encode())


@pytest.mark.parametrize("data", [b"", b'{"schema', b"\xff\xfe", b"[]", b'{"cell": 1}'])
def test_untrustworthy_files_are_set_aside_whole(tmp_path, data):
    good = records.write(RECORD, tmp_path)
    bad = good.with_name("bad.json")
    bad.write_bytes(data)
    with pytest.warns(UserWarning, match=r"bad\.json.*set aside as bad\.json\.set-aside"):
        assert list(records.read_all(tmp_path)) == [RECORD]
    assert not bad.exists()
    assert bad.with_name("bad.json.set-aside").read_bytes() == data
    assert list(records.read_all(tmp_path)) == [RECORD]


def test_setting_aside_never_overwrites_what_was_set_aside(tmp_path):
    path = tmp_path / "x.json"
    for text in ("first", "second", "third"):
        path.write_text(text)
        with pytest.warns(UserWarning, match="set aside"):
            assert records.read(path) is None
    found = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert found == {
        "x.json.set-aside": "first",
        "x.json.set-aside-2": "second",
        "x.json.set-aside-3": "third",
    }


@pytest.mark.parametrize("old", [None, b"old"])
def test_killed_half_way_keeps_the_old_and_no_temporary(tmp_path, monkeypatch, old):
    path = tmp_path / "a.json"
    if old is not None:
        path.write_bytes(old)

    def fsync(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        json_store.write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["a.json"])
    assert old is None or path.read_bytes() == old


def test_written_files_can_be_read_by_others(tmp_path):
    path = records.write(RECORD, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_temporary_files_are_no_records(tmp_path):
    path = records.write(RECORD, tmp_path)
    path.with_name(f".{path.name}.abc.tmp").write_bytes(b"half")
    assert list(records.read_all(tmp_path)) == [RECORD]


def test_no_folder_has_no_records(tmp_path):
    assert list(records.read_all(tmp_path / "nowhere")) == []


def fields_of(record=RECORD, **changes):
    """As of a record from before there was a checksum."""
    fields = json.loads(records.encode(record)) | changes
    del fields["checksum"]
    return fields


@pytest.mark.parametrize(
    ("device", "storage", "tier"),
    [
        ("cpu", "raw on auto, overlapped", "disk"),
        ("cpu", "raw on disk, overlapped", "disk"),
        ("cuda", "raw on disk, overlapped", "disk"),
        ("cuda", "raw on auto, overlapped", "host"),
        ("sim:h100-80gb", "raw on host, overlapped", "host"),
    ],
)
def test_a_record_of_version_1_is_migrated(tmp_path, device, storage, tier):
    old = fields_of(schema_version=1, device=device, storage=storage, plan="[0]@host 1 [2 3]@host")
    record = records.decode(json.dumps(old).encode())
    assert record.schema_version == records.SCHEMA_VERSION == 2
    assert record.plan == f"[0]@{tier} 1 [2 3]@{tier}"
    assert records.decode(records.encode(record)) == record


def test_a_damaged_record_of_version_1_is_no_record():
    old = fields_of(schema_version=1, surprise=1)
    with pytest.raises(ValueError, match=r"not a record of schema 2: .*surprise"):
        records.decode(json.dumps(old).encode())


@pytest.mark.filterwarnings("error")
def test_a_newer_schema_is_refused_by_name_and_left_alone(tmp_path):
    path = records.write(RECORD, tmp_path)
    path.write_text(json.dumps(fields_of(schema_version=3)))
    before = path.read_bytes()
    with pytest.raises(json_store.UnknownVersionError, match=rf"{path.name}: schema version 3; "):
        list(records.read_all(tmp_path))
    assert path.read_bytes() == before


PARTS = parts.Part.__subclasses__()


def test_parts_have_the_fields_of_the_record_and_their_types():
    assert len(PARTS) > 8
    kinds = get_type_hints(records.Record)
    for part in PARTS:
        for name, kind in get_type_hints(part).items():
            allowed = set(get_args(kinds[name])) or {kinds[name]}
            own = (
                {kind}
                if get_origin(kind) in (dict, list, Literal)
                else set(get_args(kind)) or {kind}
            )
            assert own <= allowed | {kinds[name]}, (part, name)


def test_two_parts_cannot_say_the_same():
    part = parts.Missing(grads_missing=["a"])
    assert RECORD.with_parts(part).grads_missing == ["a"]
    with pytest.raises(TypeError, match="two parts of a record have the field grads_missing"):
        RECORD.with_parts(part, part)
