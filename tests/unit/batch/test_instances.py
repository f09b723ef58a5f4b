"""Lists of instances in all the forms they come in."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from verinet.batch.instances import Shard, existing, fingerprint, read_instances
from verinet.errors import UsageError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_rows_are_numbered_and_named_by_their_folder(tmp_path):
    path = write(
        tmp_path / "acas" / "instances.csv", "onnx/a.onnx,vnnlib/p.vnnlib,116\n\n onnx/b.onnx , q.vnnlib,2.5\n"
    )
    first, second = read_instances(path)
    assert (first.number, first.family, first.network, first.prop, first.timeout) == (
        1, "acas", "onnx/a.onnx", "vnnlib/p.vnnlib", 116.0,
    )  # fmt: skip
    assert (second.number, second.network, second.timeout) == (2, "onnx/b.onnx", 2.5)
    assert second.property_file() == (tmp_path / "acas" / "q.vnnlib").absolute()


def test_a_header_is_skipped_and_a_given_timeout_replaces_the_others(tmp_path):
    path = write(tmp_path / "list.csv", "onnx,vnnlib,timeout\na.onnx,p.vnnlib,116\nb.onnx,p.vnnlib\n")
    assert [i.timeout for i in read_instances(path)] == [116.0, 300.0]
    assert [i.timeout for i in read_instances(path, timeout=7.0)] == [7.0, 7.0]


def test_a_packed_list_and_packed_files(tmp_path):
    (tmp_path / "instances.csv.gz").write_bytes(gzip.compress(b"a.onnx,p.vnnlib.gz,3\n"))
    (tmp_path / "a.onnx.gz").touch()
    (tmp_path / "p.vnnlib").touch()
    (one,) = read_instances(tmp_path)
    assert one.network_files() == (("", tmp_path / "a.onnx.gz"),)
    assert one.property_file() == tmp_path / "p.vnnlib"
    assert existing(tmp_path, "neither.onnx") == tmp_path / "neither.onnx"


def test_a_folder_of_families_with_versions(tmp_path):
    write(tmp_path / "bench" / "b" / "1.0" / "instances.csv", "x.onnx,1.vnnlib,1\n")
    write(tmp_path / "bench" / "a" / "2.0" / "instances.csv", "y.onnx,2.vnnlib,1\ny.onnx,3.vnnlib,1\n")
    found = read_instances(tmp_path / "bench")
    assert [(i.number, i.family, i.prop) for i in found] == [
        (1, "a/2.0", "2.vnnlib"),
        (2, "a/2.0", "3.vnnlib"),
        (3, "b/1.0", "1.vnnlib"),
    ]


def test_text_of_several_networks_passes_through_untouched(tmp_path):
    text = "[('f', 'nets/a.onnx'), ('g', 'nets/b.onnx')]"
    path = write(tmp_path / "instances.csv", f'"{text}",q.vnnlib,100\n')
    (one,) = read_instances(path)
    assert one.network == text and one.several_networks
    assert one.network_files() == (("f", tmp_path / "nets/a.onnx"), ("g", tmp_path / "nets/b.onnx"))


def test_a_malformed_list_of_networks_is_named(tmp_path):
    path = write(tmp_path / "instances.csv", "\"[('f' 'a.onnx')]\",q.vnnlib,1\n")
    with pytest.raises(UsageError, match="list of networks is malformed"):
        read_instances(path)[0].network_files()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("only-one-cell\n", "a row is onnx,vnnlib,timeout"),
        ("a.onnx,p.vnnlib,-1\n", "above 0"),
        ("a.onnx,p.vnnlib,nan\n", "above 0"),
        ("a.onnx,p.vnnlib,soon\n", "above 0"),
        ("", "no instances"),
    ],
)
def test_bad_lists_are_refused_with_their_place(tmp_path, text, message):
    path = write(tmp_path / "instances.csv", text)
    with pytest.raises(UsageError, match=message) as caught:
        read_instances(path)
    assert str(path) in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_instances(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match=r"holds no instances\.csv"):
        read_instances(tmp_path)


def test_shards_are_disjoint_and_complete(tmp_path):
    path = write(tmp_path / "instances.csv", "".join(f"a.onnx,{n}.vnnlib,1\n" for n in range(10)))
    everything = read_instances(path)
    parts = [Shard.parse(f"{i}/3").take(everything) for i in (1, 2, 3)]
    assert sorted(i.number for part in parts for i in part) == list(range(1, 11))
    assert [len(part) for part in parts] == [4, 3, 3]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/3", "1/3/5"])
def test_impossible_shards(text):
    with pytest.raises(UsageError, match="a shard is i/n"):
        Shard.parse(text)


def test_the_fingerprint_notices_every_change(tmp_path):
    path = write(tmp_path / "instances.csv", "a.onnx,p.vnnlib,1\nb.onnx,p.vnnlib,1\n")
    before = fingerprint(read_instances(path))
    assert fingerprint(read_instances(path)) == before
    for text in (
        "b.onnx,p.vnnlib,1\na.onnx,p.vnnlib,1\n",
        "a.onnx,p.vnnlib,1\n",
        "a.onnx,p.vnnlib,2\nb.onnx,p.vnnlib,1\n",
    ):
        path.write_text(text)
        assert fingerprint(read_instances(path)) != before
