"""Which parts are measured, and which are read from what was measured before."""

import pytest

from experiments.real_layers import __main__ as command
from experiments.real_layers.settings import SETTINGS


@pytest.fixture
def measured(monkeypatch):
    """Names of the parts in the order in which they are measured, on no model."""
    names = []

    def part(name):
        return lambda model: names.append(name) or name

    monkeypatch.setattr(command, "load", lambda *arguments, **settings: None)
    monkeypatch.setattr(command, "PARTS", {name: part(name) for name in ("spectra", "noise")})
    monkeypatch.setattr(command, "losses", part("loss"))
    monkeypatch.setattr(command, "scaled_prices", lambda model, m: names.append(m) or m)
    return names


def test_a_part_is_measured_once_and_the_others_are_kept(measured, tmp_path):
    def measure(*parts, fresh=False):
        return command.measure(SETTINGS["minilm"], tmp_path, tmp_path, parts, fresh=fresh)

    assert set(measure("spectra")) == {"loss", "spectra"}
    assert set(measure("noise")) == {"loss", "spectra", "noise"}
    assert measured == ["loss", "spectra", "noise"]
    whole = measure("spectra", "scaled_prices")
    assert set(whole) == {"loss", "spectra", "noise", "scaled_prices_0.5", "scaled_prices_2"}
    assert measured[3:] == [0.5, 2.0]
    measure("noise", fresh=True)
    assert measured[5:] == ["loss", "noise"]
