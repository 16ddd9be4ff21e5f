"""The header of a new file says what the new file is."""

import hashlib
import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from prunedlora import CompressConfig, compress_adapter
from tests.adapters_on_disk import kohya


def behind_the_header(data):
    return data[8 + int.from_bytes(data[:8], "little") :]


def compressed(tmp_path, header, **wish):
    """The header after compression, and the new file."""
    file = tmp_path / "a.safetensors"
    save_file(load_file(kohya(file)), file, header)
    out = tmp_path / "b.safetensors"
    compress_adapter(file, out, CompressConfig(**(wish or {"rank": 2})))
    with safe_open(out, "pt") as opened:
        return opened.metadata(), out


def test_hashes_are_those_of_the_new_tensors(tmp_path):
    old = {"sshs_model_hash": "ab", "sshs_legacy_hash": "cd", "modelspec.hash_sha256": "0xab"}
    old |= {"ss_network_dim": "4", "mine": "kept"}
    header, out = compressed(tmp_path, old)
    digest = hashlib.sha256(behind_the_header(out.read_bytes())).hexdigest()
    assert header["sshs_model_hash"] == digest
    assert header["modelspec.hash_sha256"] == "0x" + digest
    # As sd-scripts computes it: 64 kB from the first MB on, of a file with its own metadata only.
    own = {key: value for key, value in header.items() if key.startswith("ss_")}
    data = save(load_file(out), own)
    assert header["sshs_legacy_hash"] == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert header["mine"] == "kept"


def test_a_hash_that_was_not_there_is_not_added(tmp_path):
    header, _ = compressed(tmp_path, {"mine": "kept"})
    assert header.keys() == {"format", "mine", "prunedlora"}


@pytest.mark.parametrize("comment", ["None", "my own"])
def test_what_sd_scripts_says_of_ranks_is_put_right(tmp_path, comment):
    args = {"conv_dim": "4", "conv_alpha": "1", "algo": "lora", "block_dims": "4,4"}
    old = {
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_network_args": json.dumps(args),
        "ss_training_comment": comment,
    }
    header, _ = compressed(tmp_path, old)
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("2", "2")
    assert json.loads(header["ss_network_args"]) == {
        "conv_dim": "2",
        "conv_alpha": "2",
        "algo": "lora",
    }
    remark = "rank lowered from 4 to 2 by prunedlora"
    expected = remark if comment == "None" else f"{remark}; my own"
    assert header["ss_training_comment"] == expected
