"""Answers of commands: found around other text on stdout, read from a file, or an error that says what to do."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from workers.runners.answer import AnswerWatch, decode_file, find_answer, read_file
from workers.runners.output_capture import Capture, whole_lines_of_tail
from workers.runners.protocol import RunRefused

ANSWER = {"complete_job": {"rows": 3}}
LINE = json.dumps(ANSWER)
INDENTED = json.dumps({"note": [{"x": 1}], **ANSWER}, indent=2)


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"loading 3 rows ...\n{LINE}\n",
        f"{LINE}\nbye\n\n",
        f"{INDENTED}\nbye {{now}}\n",
        f"{{curly}} [1/2]\n[3]\n{INDENTED}",
        f"progress... {LINE}\n",
        f"10%\r100%\r{LINE}\r\n",
        f"[INFO] \x1b[32mdone\x1b[0m {LINE}",
        f"done: {INDENTED}",
        f"\ufeff{LINE}",
        f'{{"complete_job": 1}}\n{{"rows": 2}}\n{LINE}\n{{"rows": 3}}\n["complete_job"]',
        f"{{'complete_job': 1}}\n{LINE}\n",
        f'{{"complete_job": 1}}{LINE}',
        f'{LINE}\nstats: {{"events": 3}}',
        f'{LINE}\nusage: the key "next_state" is kept\n',
    ],
)
def test_the_last_answer_counts_whatever_is_printed_around_it(text):
    found = find_answer(text)
    assert found is not None
    assert {"complete_job": json.loads(found)["complete_job"]} == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        f"[{LINE}]",
        f"result\n[{LINE},\n {LINE}]\n",
        f'{{"log": {LINE}}}',
        f'log\n{{"body":\n{LINE}\n}}\n',
        f"note [{LINE}] end",
        json.dumps({"message": f"sent {LINE}"}),
        'sent {"events": 3} and {"event": []}',
        "{'events': 3, 'users': 5}",
        'the key "complete_job": the output',
        'set {braces} here\n\n"complete_job": ends the job',
        "status, next_state: RUNNING",
        '"complete_job"\n"next_state"',
    ],
)
def test_what_holds_no_object_with_an_answer_key_of_its_own_is_plain(text):
    assert find_answer(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("log line\n{'rows': 1, 'complete_job': {'rows': 3}}", "key must be a string at line 2 column 2"),
        ("{'rows': 1,\n 'complete_job': 3}", "key must be a string at line 1 column 2"),
        ("result: {'complete_job': 1}", "key must be a string at line 1 column 10"),
        ("{'events': [{'type': 'x'}]}", "key must be a string"),
        ("{\n  complete_job: { rows: 3 }\n}", "key must be a string at line 2 column 3"),  # console.log of Node
        ('{"complete_job"=>{"rows"=>3}}', "expected `:`"),  # Ruby's inspect
        ('log\n{"next_state": 1', "EOF while parsing an object"),
        ('{"a": 1\n "next_state": 2}', "expected `,` or `}` at line 2 column 2"),
        ('{"a": {"b": 1}, "next_state": 2,}', "trailing comma"),
        (f"{LINE} bye", "trailing characters at line 1 column 31"),
        (f"{LINE}\n{{'next_state': 2}}", "key must be a string at line 2 column 2"),
        (f"log\n{LINE} \x1b[0m", "trailing characters at line 2 column 31"),
        ('x\n{"next_state": NaN}', "expected value at line 2 column 16"),
        ('x {"next_state": ' + "[" * 100_000, "recursion limit exceeded"),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_with_its_place_and_advice(text, said):
    with pytest.raises(ValueError, match="but is not valid JSON: ") as raised:
        find_answer(text)
    assert said in str(raised.value)
    assert "json.dumps" in str(raised.value)
    assert "MIRROR_NEURON_ANSWER_FILE" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_answer_that_was_encoded_twice_is_an_error():
    with pytest.raises(ValueError, match="contains complete_job, but within a JSON string"):
        find_answer(f"log\n{json.dumps(LINE)}\n")


@pytest.mark.parametrize(
    "text",
    ['{"a": [' * 50_000, '{"a' * 150_000, "{ " * 250_000],
    ids=["objects", "strings", "braces"],
)
def test_half_a_megabyte_of_broken_json_takes_linear_time(text):
    began = time.process_time()
    assert find_answer(f"events\n{text}") is None
    assert time.process_time() - began < 20  # a quadratic search takes much longer, this one 1 s


def test_strict_takes_only_objects_that_begin_their_line():
    assert find_answer(f"{LINE}\n", strict=True) == LINE
    for text in (f"x {LINE}", f"  {LINE}", f'"inner": {LINE}', '{"events": []}'):
        assert find_answer(text, strict=True) is None


# ------------------------------------------------------------------ output that is cut


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        (LINE, "complete_job"),
        (f"{'x' * 50}\n{{\n  'a': 1, 'next_state' : 2", "next_state"),
        ('{ "events": [', "events"),
        ('log\n{"events" : [', "events"),
        ('{"x": 1, "events": [], "user": "complete_job"}', ""),
    ],
)
def test_answer_keys_are_noticed_in_pieces_of_any_size(text, key, step):
    watch = AnswerWatch()
    for at in range(0, len(text), step):
        watch.add(text.encode()[at : at + step])
    assert watch.key == key


def test_of_cut_output_the_whole_lines_behind_the_marker_are_read():
    capture = Capture(200)
    capture.add(f"{LINE}\n{'x' * 500}\n{LINE}\n".encode())
    assert capture.cut
    assert find_answer(whole_lines_of_tail(capture.text()), strict=True) == LINE


# ------------------------------------------------------------------ the file


def test_the_file_is_a_json_object_with_one_of_the_keys_or_empty(tmp_path):
    file = tmp_path / "answer"
    assert read_file(file, 100) is None
    for text in (LINE, INDENTED, "{}", f"\ufeff{LINE}\n"):
        file.write_text(text)
        assert json.loads(decode_file(read_file(file, 100) or b"")) == json.loads(text.strip("\ufeff"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"complete_job": {"rows": 3', "is not valid JSON: EOF while parsing an object at line 1 column 27; was it"),
        (b"{'complete_job': 1}", "is not valid JSON: key must be a string at line 1 column 2; was it written"),
        (b"done", "is not valid JSON: expected value"),
        (b'{"complete_job": NaN}', "is not valid JSON: expected value"),
        (f"{LINE}\n{LINE}".encode(), "is not valid JSON: trailing characters at line 2"),
        (f"[{LINE}]".encode(), "must be a JSON object, not list"),
        (json.dumps(LINE).encode(), "must be a JSON object, not str"),
        (b'{"rows": 3}', "has none of the keys complete_job, complete_job?, emit_messages, events, next_state; the"),
        (b'{"complete_job": "caf\xe9"}', "is not UTF-8: byte 21 is 0xe9"),
        (LINE.encode("utf-16"), "is not UTF-8: byte 0 is 0xff"),
    ],
)
def test_a_file_that_is_no_answer_is_a_one_line_error(data, said):
    with pytest.raises(ValueError, match=r".") as raised:
        decode_file(data)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_too_large_or_not_regular_is_refused(tmp_path: Path):
    file = tmp_path / "answer"
    file.write_bytes(b"x" * 101)
    with pytest.raises(RunRefused, match=r"has 101 bytes, more than MIRROR_NEURON_MAX_MESSAGE_BYTES \(100\)"):
        read_file(file, 100)
    file.unlink()
    os.mkfifo(file)  # opening it for reading would block
    with pytest.raises(RunRefused, match="is not a regular file"):
        read_file(file, 100)
    file.unlink()
    file.mkdir()
    with pytest.raises(RunRefused, match="is not a regular file"):
        read_file(file, 100)
    file.rmdir()
    file.symlink_to("/etc/hostname")
    with pytest.raises(RunRefused, match="is not a regular file"):
        read_file(file, 100)
