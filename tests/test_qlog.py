"""A qlog file goes on where the previous owner stopped."""

import errno
import os

import msgspec

from quicbaton.asyncio.qlog_folder import QlogFolder


def read(path):
    records = path.read_bytes().split(b"\x1e")
    assert records[0] == b""
    return [msgspec.json.decode(record) for record in records[1:]]


def test_two_owners_write_one_trace_with_one_header(tmp_path):
    first_owner, second_owner = QlogFolder(tmp_path), QlogFolder(tmp_path)
    trace = first_owner.start_trace(is_client=False, odcid=b"\x01\x02")
    trace.log_event(category="transport", event="packet_sent", data={"n": 1})
    first_owner.end_trace(trace)
    trace = second_owner.start_trace(is_client=False, odcid=b"\x01\x02")
    trace.log_event(category="transport", event="packet_sent", data={"n": 2})
    second_owner.end_trace(trace)

    header, *events = read(tmp_path / "0102.sqlog")
    assert header["qlog_format"] == "JSON-SEQ"
    assert [event["data"]["n"] for event in events] == [1, 2]
    assert all(event["name"] == "transport:packet_sent" for event in events)


def test_a_trace_that_could_not_be_written_leaves_its_descriptor_alone(tmp_path, monkeypatch):
    folder = QlogFolder(tmp_path)
    trace = folder.start_trace(is_client=False, odcid=b"\x01\x02")
    before = len(os.listdir("/proc/self/fd"))
    write = os.write

    def refuse(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    folder.end_trace(trace)
    assert folder.lost == {"qlog": 1}
    assert len(os.listdir("/proc/self/fd")) == before - 1
    # From here on the number may be another file's.
    written = []
    monkeypatch.setattr(os, "write", lambda *what: written.append(what))
    trace.log_event(category="transport", event="packet_sent", data={"n": 1})
    trace.flush()
    monkeypatch.setattr(os, "write", write)
    assert not written
