"""Statistics and losses on calibration data, with a base model from a folder."""

from dataclasses import replace

import pytest
import torch

from prunedlora import CompressConfig, compress_adapter
from prunedlora.compress.calibration import load_calibration
from prunedlora.compress.modules import compress_modules
from prunedlora.criteria import get_criterion
from prunedlora.errors import NonFiniteError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import base_folder, examples, saved


@pytest.mark.parametrize(
    "criterion", [None, "svd_fisher", "prunedlora2025", "adalora2023", "llmpruner2023", "svd"]
)
def test_with_data_the_held_out_loss_is_that_of_what_was_written(tmp_path, criterion):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a", rank_pattern={"q_proj": 3})
    config = CompressConfig(
        rank=5, criterion=criterion, base=base, data=data, samples=16, device="cpu"
    )
    report = compress_adapter(source, tmp_path / "b", config)
    assert report.settings["criterion"] == (criterion or "svd_fisher")
    for folder, loss in ((source, report.loss_before), (tmp_path / "b", report.loss)):
        again = load_calibration(open_adapter(folder), base, data, 16, device="cpu").loss()
        assert again == pytest.approx(loss, abs=1e-5)
    assert report.loss_before != report.loss


def test_statistics_come_from_calibration_examples_only(tmp_path):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = open_adapter(saved(tmp_path / "a"))
    calibration = load_calibration(source, base, data, 16, device="cpu")
    before = calibration.statistics(get_criterion("svd_kfac"), 0)
    calibration.held_out = []
    after = calibration.statistics(get_criterion("svd_kfac"), 0)
    assert all(torch.equal(before[name].U, after[name].U) for name in before)
    assert before.keys() == {module.name for module in source.modules}


def test_the_moments_are_those_of_the_calibration_examples(tmp_path):
    """C_z against the definition, from hooks of the test's own."""
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    calibration = load_calibration(
        open_adapter(saved(tmp_path / "a")), base, data, 12, device="cpu"
    )
    name = "model.layers.0.self_attn.q_proj"
    seen = []
    layer = calibration.modules[name].layer.lora_A["default"]
    handle = layer.register_forward_hook(lambda m, i, o: seen.append(o.detach().flatten(0, 1)))
    measured = calibration.statistics(get_criterion("svd_kfac"), 0)[name]
    handle.remove()
    z = torch.cat(seen)
    assert len(z) == 9 * 12  # nine of twelve examples, of twelve letters
    torch.testing.assert_close(measured.C_z.float(), z.mT @ z / len(z), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", ["svd_fisher", "kfac", "random"])
def test_modules_of_a_shape_are_reduced_together_and_as_they_are_one_by_one(
    tmp_path, monkeypatch, criterion
):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = open_adapter(saved(tmp_path / "a", rank_pattern={"layers.0.self_attn.q_proj": 5}))
    rule = get_criterion(criterion)
    measured = load_calibration(source, base, data, 16, device="cpu").statistics(rule, 0)
    config = CompressConfig(rank=4, criterion=criterion, base=base, data=data)
    ranks = {module.name: 4 for module in source.modules}
    sizes = []

    def counted(factors, *args, **options):
        sizes.append(len(factors.B) if factors.B.ndim == 3 else 1)
        return rule.reduce(factors, *args, **options)

    monkeypatch.setattr(
        CompressConfig, "rule", property(lambda self: replace(rule, reduce=counted))
    )
    together = list(compress_modules(source, config, measured, ranks))
    groups = {(m.shape_B, m.shape_A) for m in source.modules}
    assert len(sizes) == len(groups) < sum(sizes) == len(source.modules)
    assert [item.module for item in together] == list(source.modules)
    # One by one, since no more than one fits into a stack.
    sizes.clear()
    monkeypatch.setattr("prunedlora.ranks.reduction.STACKED_ON_CPU", 1)
    alone = list(compress_modules(source, config, measured, ranks))
    assert sizes == [1] * len(source.modules)
    for one, other in zip(together, alone, strict=True):
        product, expected = (item.factors.B @ item.factors.A for item in (one, other))
        torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-5)


def test_a_module_whose_numbers_decide_nothing_is_named_among_those_of_its_shape(tmp_path):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = open_adapter(saved(tmp_path / "a"))
    rule = get_criterion("svd_kfac")
    measured = load_calibration(source, base, data, 16, device="cpu").statistics(rule, 0)
    config = CompressConfig(rank=4, criterion="svd_kfac", base=base, data=data)
    bad = source.modules[-1].name
    measured[bad] = replace(measured[bad], U=measured[bad].U * float("nan"))
    ranks = {module.name: 4 for module in source.modules}
    with pytest.raises(NonFiniteError, match=bad):
        list(compress_modules(source, config, measured, ranks))


def test_refined_factors_are_nearer_and_the_adapter_stays_as_it_was(tmp_path):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = open_adapter(saved(tmp_path / "a"))
    calibration = load_calibration(source, base, data, 16, device="cpu")
    config = CompressConfig(rank=1, base=base, data=data, criterion="svd")
    ranks = {module.name: 1 for module in source.modules}
    cut = {c.module.name: c.factors for c in compress_modules(source, config, {}, ranks)}
    before = {name: (m.B.clone(), m.A.clone()) for name, m in calibration.modules.items()}
    flags = [p.requires_grad for p in calibration.model.parameters()]
    new, found = calibration.refined(cut, 20)
    assert found.after < found.before
    assert {(f.B.shape[1], f.A.shape[0]) for f in new.values()} == {(1, 1)}
    for name, module in calibration.modules.items():
        assert torch.equal(module.B, before[name][0])
        assert torch.equal(module.A, before[name][1])
    assert [p.requires_grad for p in calibration.model.parameters()] == flags


def test_a_refined_adapter_is_written_with_its_losses_and_never_worse_than_its_cut(tmp_path):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a")
    plain = CompressConfig(rank=1, base=base, data=data, samples=16, device="cpu")
    cut = compress_adapter(source, tmp_path / "cut", plain)
    report = compress_adapter(source, tmp_path / "b", replace(plain, refine=20))
    assert report.loss_cut == pytest.approx(cut.loss)
    assert report.loss <= report.loss_cut
    again = load_calibration(open_adapter(tmp_path / "b"), base, data, 16, device="cpu").loss()
    assert again == pytest.approx(report.loss, abs=1e-5)
    assert report.settings["refine"] == 20
