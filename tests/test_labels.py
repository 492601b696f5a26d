"""Audacity label tracks: round trip, conditions, and every fault as one sentence."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtconv.errors import RtconvError
from rtconv.labels import Label, label_path, label_text, read_labels, write_labels

TRACK = "0.500000\t1.250000\talexa snr_db=10 room=shoebox\n2.000000\t2.000000\tdoor bell\n"


def test_written_labels_are_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TRACK)
    labels = read_labels(path, seconds=3)
    assert labels == [
        Label(0.5, 1.25, "alexa snr_db=10 room=shoebox"),
        Label(2.0, 2.0, "door bell"),
    ]
    write_labels(tmp_path / "b.txt", labels)
    assert (tmp_path / "b.txt").read_text() == TRACK


def test_name_and_conditions_of_a_text():
    label = Label(0, 1, label_text("door bell", {"snr_db": -5, "file": "my take 3"}))
    assert label.text == "door bell snr_db=-5 file=my_take_3"
    assert label.name == "door bell"
    assert label.conditions == {"snr_db": "-5", "file": "my_take_3"}


def test_frequency_lines_and_empty_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeff0.5\t1\tbird\n\\\t1000\t2000\n\n", encoding="utf-8")
    assert read_labels(path) == [Label(0.5, 1, "bird")]


def test_labels_lie_beside_the_sound():
    assert label_path("a/b.take1.flac").name == "b.take1.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5\t2,5\ta\n", r"a\.txt: line 1: is no label"),
        ("1.5\n", "is no label"),
        ("1\tnan\ta\n", "its start must not be negative nor after its end"),
        ("2\t1\ta\n", "from 2.* to 1.* s, its start must not be negative nor after its end"),
        ("-1\t1\ta\n", "must not be negative"),
        ("1\tinf\ta\n", "must not be negative nor after its end"),
        ("1\t11\ta\n", r"ends at 11\.000 s, after the sound file's end at 10\.000 s"),
        ("2\t3\ta\n1\t1.5\ta\n", "line 2: the label starts at 1.000 s, before the one above"),
        ("1\t3\ta\n2\t4\ta x=1\n", "line 2: .* within another 'a' that ends at 3.000 s"),
        ("1\t2\ta\xff", "is not a text file"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RtconvError, match=message):
        read_labels(path, seconds=10)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.text("0123456789.-e\t\n\\ =anif\u2028\r").map(str.encode))
def test_any_bytes_are_labels_or_one_sentence(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    try:
        labels = read_labels(path, seconds=10)
    except RtconvError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
        return
    write_labels(tmp_path / "b.txt", labels)
    again = read_labels(tmp_path / "b.txt", seconds=10)
    assert [label.text for label in again] == [label.text for label in labels]


def test_different_sounds_may_overlap(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1\t3\ta\n2\t4\tb\n")
    assert [label.name for label in read_labels(path)] == ["a", "b"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RtconvError, match=r"none\.txt: cannot be read \(No such file"):
        read_labels(tmp_path / "none.txt")
