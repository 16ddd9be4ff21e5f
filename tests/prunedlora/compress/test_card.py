import pytest
import yaml

from prunedlora import CompressConfig, compress_adapter
from tests.adapters_on_disk import configured, saved


def test_the_card_of_the_adapter_is_kept_and_says_what_was_done(tmp_path):
    source = saved(tmp_path / "a")
    (source / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    card = (tmp_path / "b" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n\n# Mine\n\n## Compression\n")
    assert "- rank: 8 before, 2 now, in 6 modules" in card
    assert f"{report.bytes_after} now" in card
    # Once more: how it is loaded is said once.
    compress_adapter(tmp_path / "b", tmp_path / "c", CompressConfig(rank=1))
    again = (tmp_path / "c" / "README.md").read_text()
    assert again.count("## Compression") == 2
    assert again.count("PeftModel.from_pretrained") == 1


@pytest.mark.parametrize("base", ["org/model", 'a: "b" #\n- c', "", None, 5])
def test_without_a_card_there_is_one_whose_head_is_valid(tmp_path, base):
    source = configured(tmp_path / "a", base_model_name_or_path=base)
    (source / "README.md").unlink()
    (source / "README.md").symlink_to("/etc/hostname")  # not of this folder
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    _, head, text = (tmp_path / "b" / "README.md").read_text().split("---\n")
    known = base if isinstance(base, str) and base else None
    assert yaml.safe_load(head) == {
        **({"base_model": known} if known else {}),
        "library_name": "peft",
        "tags": ["lora"],
    }
    assert text.startswith("\n# a\n\n## Compression")
