import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields

import pytest
import torch
from safetensors.torch import load_file

from prunedlora import compress_adapter, inspect_adapter
from prunedlora.cli.commands import parse
from prunedlora.cli.entry import main
from prunedlora.compress.config import CompressConfig
from prunedlora.optional import installed_version
from tests.adapters_on_disk import base_folder, configured, kohya, loha, saved, tuned_folder
from tests.paths import ROOT

COMMANDS = ("compress", "merge", "extract", "inspect", "verify", "bench")


def run(capsys, *arguments):
    """Exit status and what was printed."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    code, out = stopped.value.code, capsys.readouterr()
    return (0 if code is None else code), out.out, out.err


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_every_help_shows_an_example_that_works_as_typed(tmp_path, monkeypatch, capsys, command):
    status, text, _ = run(capsys, *command, "--help")
    assert status == 0
    example = re.search(r"^Example: prunedlora (.*)$", text, re.MULTILINE).group(1)
    assert not command or example.split()[0] == command[0]
    saved(tmp_path / "my-adapter", r=32)
    saved(tmp_path / "other-adapter", r=4, seed=5)
    loha(tmp_path / "loha.safetensors")
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, *shlex.split(example))
    assert status == 0
    assert out


def test_the_documented_commands_work_as_typed(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/files/formats.md").read_text()
    lines = re.findall(r"^prunedlora (.*?)(?:\s+#.*)?$", page, re.MULTILINE)
    assert {line.split()[0] for line in lines} == {*COMMANDS}
    saved(tmp_path / "my-adapter", r=32)
    saved(tmp_path / "other-adapter", r=4, seed=5)
    configured(tmp_path / "trained", init_lora_weights="pissa")
    saved(tmp_path / "initial", seed=5)
    loha(tmp_path / "loha.safetensors")
    kohya(tmp_path / "style.safetensors", rank=32)
    kohya(tmp_path / "other.safetensors", rank=8)
    base_folder(tmp_path / "my-model")
    tuned_folder(tmp_path / "tuned-model")
    (tmp_path / "examples.jsonl").write_text('{"prompt": "abc", "completion": "def"}\n' * 12)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        status, _, err = run(capsys, *shlex.split(line))
        assert status == 0, f"{line}: {err}"


def test_the_module_is_the_command(tmp_path, capsys):
    status, out, _ = run(capsys, "verify", str(saved(tmp_path / "a")), "--json")
    assert status == 0
    assert json.loads(out)["passed"] is True
    command = [sys.executable, "-m", "prunedlora", "verify", str(tmp_path / "b")]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 1
    assert out.stderr.startswith("error: ")
    assert "Traceback" not in out.stderr


def test_the_command_does_what_the_function_does(tmp_path, capsys):
    source = saved(tmp_path / "a")
    status, out, _ = run(
        capsys,
        "compress",
        str(source),
        str(tmp_path / "b"),
        "--energy",
        "0.9",
        "--layout",
        "ragged",
    )
    assert status == 0
    report = compress_adapter(source, tmp_path / "c", CompressConfig(energy=0.9, layout="ragged"))
    weights = "adapter_model.safetensors"
    assert inspect_adapter(tmp_path / "b").modules == inspect_adapter(tmp_path / "c").modules
    assert (tmp_path / "b" / weights).stat().st_size == report.bytes_after
    assert f"{report.relative_error:.4g}" in out


def test_sizes_and_shares(tmp_path, capsys):
    source = str(saved(tmp_path / "a"))
    status, _, _ = run(capsys, "compress", source, str(tmp_path / "b"), "--size", "20KB")
    assert status == 0
    assert (tmp_path / "b" / "adapter_model.safetensors").stat().st_size <= 20_000
    huge = "9" * 400
    for option, value in (
        ("--size", "big"),
        ("--max-loss-increase", "much"),
        ("--size", "-1MB"),
        ("--size", huge),
    ):
        status, _, err = run(capsys, "compress", source, str(tmp_path / "c"), f"{option}={value}")
        assert status == 2
        assert "not a valid" in err
    assert not (tmp_path / "c").exists()


def test_inspection_as_json_and_as_a_picture(tmp_path, capsys):
    source = str(saved(tmp_path / "a"))
    status, out, _ = run(capsys, "inspect", source, "--json", "--picture", str(tmp_path / "x.png"))
    assert status == 0
    assert len(json.loads(out)["modules"]) == 6
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    status, _, err = run(capsys, "inspect", source, "--picture", str(tmp_path / "x.png"))
    assert status == 1
    assert "exists already" in err


def test_a_failed_check_is_a_status_that_is_not_zero(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    source = saved(tmp_path / "a")
    file = source / "adapter_model.safetensors"
    save_file(
        {k: t * ("lora_A" in k) for k, t in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    status, out, _ = run(capsys, "verify", str(source))
    assert status == 1
    assert "FAILED" in out


def test_verify_shows_who_applies_which_scaling(tmp_path, capsys):
    source = saved(tmp_path / "a", alpha_pattern={"q_proj": 3})
    status, out, _ = run(capsys, "verify", str(source))
    assert status == 0
    rows = {
        line.split()[0]: line
        for line in out.splitlines()
        if line.split()[:1] in (["PEFT"], ["vLLM"], ["llama.cpp"])
    }
    assert "2 modules" in rows["vLLM"]
    assert "2 modules" in rows["llama.cpp"]
    assert "modules  " not in rows["PEFT"]
    assert "Readers disagree" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "subcommand"),
        (("nothing",), "nothing"),
        (("compress", "a", "--rank", "1"), "behind it OUT"),
        (("compress", "a", "b", "--rank", "x"), "--rank"),
        (("compress", "a", "b", "--scope", "all"), "--scope"),
        (("compress", "a", "b", "--rank", "1", "--options", "damping"), "write damping=0.1"),
        (("compress", "a", "b", "--rank", "1", "--options", "x=1", "x=2"), "given twice"),
        (("compress", "a", "b"), "error: name exactly one of rank, energy"),
        (("compress", "a", "b", "--rank", "1", "--size", "1MB"), "got rank and size"),
        (
            ("compress", "a", "b", "--rank", "1", "--options", "damping=0.1"),
            "error: svd has no option damping",
        ),
        (("compress", "a", "b", "--rank", "0"), "error: rank must be at least 1"),
    ],
)
def test_a_bad_command_line_is_explained_and_its_status_is_2(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_every_setting_can_be_given(tmp_path):
    """The command line has no list of settings of its own that could lag behind."""
    base = tmp_path / "model"
    given = {
        "energy": ("--energy", "0.5"),
        "cumulative": ("--cumulative", "0.5"),
        "ratio": ("--ratio", "5"),
        "knee": ("--knee", "1"),
        "max_loss_increase": ("--max-loss-increase", "1%"),
        "rank": ("--rank", "3"),
        "size": ("--size", "20MB"),
        "criterion": ("--criterion", "svd_kfac"),
        "options": ("--options", "damping=0.1"),
        "base": ("--base", str(base)),
        "data": ("--data", "examples.jsonl"),
        "samples": ("--samples", "8"),
        "refine": ("--refine", "5"),
        "scope": ("--scope", "global"),
        "layout": ("--layout", "padded"),
        "reader": ("--for", "sglang"),
        "dtype": ("--dtype", "bf16"),
        "device": ("--device", "cpu"),
        "zero_modules": ("--zero-modules", "exclude"),
        "seed": ("--seed", "7"),
        "round_to": ("--round-to", "3"),
    }
    alone = {"conv_rank", "relative_to"}  # they do not go with all others
    assert given.keys() | alone == {f.name for f in fields(CompressConfig)}
    pair = parse(["compress", "a", "b", "--rank", "4", "--conv-rank", "2"]).config
    assert (pair.rank, pair.conv_rank) == (4, 2)
    relative = ["--scope", "global", "--relative-to", "my-model"]
    assert parse(["compress", "a", "b", "--rank", "4", *relative]).config.relative_to == "my-model"
    targets = ("energy", "cumulative", "ratio", "knee", "max_loss_increase", "rank", "size")
    others = [word for name, words in given.items() if name not in targets for word in words]
    values = {"energy": 0.5, "cumulative": 0.5, "ratio": 5.0, "knee": 1.0}
    values |= {"max_loss_increase": 0.01, "rank": 3, "size": 20_000_000}
    for target in targets:
        command = parse(["compress", "my-adapter", "out", *given[target], *others])
        assert command.paths == ("my-adapter", "out")
        assert asdict(command.config) == {
            **dict.fromkeys(targets),
            target: values[target],
            **{
                "criterion": "svd_kfac",
                "options": {"damping": 0.1},
                "base": str(base),
                "data": "examples.jsonl",
            },
            **{
                "samples": 8,
                "refine": 5,
                "scope": "global",
                "layout": "padded",
                "reader": "sglang",
                "dtype": "bf16",
                "device": "cpu",
            },
            **{"zero_modules": "exclude", "seed": 7, "round_to": 3},
            **dict.fromkeys(alone),
        }


def test_several_adapters_go_into_a_folder_and_one_that_fails_stops_no_other(tmp_path, capsys):
    files = [
        kohya(tmp_path / f"{name}.safetensors", rank=rank) for name, rank in (("a8", 8), ("b4", 4))
    ]
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(files[0].read_bytes()[:-1])
    out = tmp_path / "out"
    arguments = [str(files[0]), str(damaged), str(files[1]), str(out), "--rank", "2", "--verbose"]
    status, text, _ = run(capsys, "compress", *arguments)
    assert status == 1
    lines = [line for line in text.splitlines() if "safetensors: " in line]
    assert [line.partition(":")[0] for line in lines] == [
        "a8.safetensors",
        "damaged.safetensors",
        "b4.safetensors",
    ]
    assert "error: safetensors cannot read" in lines[1]
    assert "relative change" in lines[0]
    assert text.count("lora_unet_conv1") == 2  # a table for each
    for file in files:
        compress_adapter(file, tmp_path / "alone.safetensors", CompressConfig(rank=2))
        a, b = load_file(tmp_path / "alone.safetensors"), load_file(out / file.name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
        (tmp_path / "alone.safetensors").unlink()
        (tmp_path / "alone.pruning_report.json").unlink()
    status, _, err = run(capsys, "compress", str(files[0]), str(files[0]), str(out), "--rank", "2")
    assert status == 2
    assert "2 adapters are called a8.safetensors" in err
    status, _, err = run(capsys, "compress", *map(str, files), str(files[0]), "--rank", "2")
    assert status == 1
    assert "is a file" in err


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused(tmp_path, capsys, device):
    source = str(saved(tmp_path / "a"))
    out = str(tmp_path / "b")
    status, _, err = run(capsys, "compress", source, out, "--rank", "2", "--device", device)
    assert status == 2
    assert "cannot be used here" in err
    assert not (tmp_path / "b").exists()


def test_a_process_that_is_ended_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def write_tensors(tensors, file, metadata):
        file.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("prunedlora.compress.output.write_tensors", write_tensors)
    before = signal.getsignal(signal.SIGTERM)
    source = str(saved(tmp_path / "a"))
    status, _, err = run(capsys, "compress", source, str(tmp_path / "b"), "--rank", "2")
    assert status == 130
    assert "interrupted" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_options_reach_the_criterion(tmp_path, capsys):
    source = str(saved(tmp_path / "a"))
    base_folder(tmp_path / "model")
    data = tmp_path / "examples.jsonl"
    data.write_text('{"prompt": "abc", "completion": "def"}\n' * 12)
    on_data = ("--base", str(tmp_path / "model"), "--data", str(data), "--criterion", "svd_kfac")
    weights = []
    for damping in ("0.01", "1.0"):
        out = tmp_path / damping
        status, _, err = run(
            capsys,
            "compress",
            source,
            str(out),
            "--rank",
            "2",
            *on_data,
            "--options",
            f"damping={damping}",
        )
        assert status == 0, err
        report = json.loads((out / "pruning_report.json").read_text())
        assert report["settings"]["options"] == {"damping": float(damping)}
        weights.append((out / "adapter_model.safetensors").read_bytes())
    assert weights[0] != weights[1]


def test_the_version_is_printed(capsys):
    status, out, _ = run(capsys, "--version")
    assert (status, out) == (0, f"prunedlora {installed_version()}\n")


def test_a_command_without_tyro_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    status, _, err = run(capsys, "inspect", "a")
    assert (status, err) == (1, 'error: this needs tyro: pip install "prunedlora[cli]"\n')


def shell(command, **environment):
    """A command line in a process of its own, through a shell: its status and what it complained of."""
    done = subprocess.run(
        command.replace("prunedlora", f"{sys.executable} -m prunedlora"),
        shell=True,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_that_lacks_letters_shows_others(tmp_path, encoding):
    status, complaint = shell(
        f"prunedlora inspect {saved(tmp_path / 'a')}", PYTHONIOENCODING=encoding
    )
    assert (status, complaint) == (0, "")


def test_whoever_stops_reading_stops_it_quietly(tmp_path):
    source = saved(tmp_path / "a")
    _, complaint = shell(f"prunedlora inspect {source} --json | true")
    assert complaint == ""


def test_an_output_that_is_full_or_closed_is_one_line(tmp_path):
    source = saved(tmp_path / "a")
    for target in ("> /dev/full", ">&-"):
        status, complaint = shell(f"prunedlora inspect {source} {target}")
        assert status == 1
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1


@pytest.mark.parametrize("name", ["p.xyz", "p", "p.safetensors"])
def test_a_picture_of_no_known_kind_is_refused_before_anything_is_read(capsys, name):
    status, out, err = run(capsys, "inspect", "nowhere", "--picture", name)
    assert status == 2
    assert out == ""
    assert "use one of" in err
