"""Which runs are done, and which again."""

import shutil
from dataclasses import replace

from experiments.running.runner import Runner
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import load_preset
from theory.records import write_atomically


def test_what_is_truncated_is_made_again_with_what_it_is_made_from(tmp_path, monkeypatch):
    runner, done = Runner(load_preset("smoke"), False, 1), []
    runner.folder, runner.artifacts = tmp_path / "results", tmp_path / "artifacts"

    def do(run):
        done.append(run.key)
        write_atomically(runner.file(run), '{"result": {}}')
        (runner.artifacts / run.key).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(runner, "_run", do)
    svd = RunConfig("tiny", "arithmetic", "truncate", 8, 4, "svd")
    other = replace(svd, criterion="para2026")
    runner.results([svd])
    assert done == [svd.source.key, svd.key]
    shutil.rmtree(runner.artifacts)  # results alone, as in a fresh clone
    runner.results([svd])
    assert len(done) == 2
    runner.results([svd, other])
    assert done[2] == svd.source.key
    assert set(done[3:]) == {svd.key, other.key}
    runner.file(svd.source).unlink()
    runner.results([svd.source, svd])
    assert done[5:] == [svd.source.key, svd.key]
