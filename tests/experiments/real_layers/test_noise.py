from experiments.real_layers import noise


def test_no_noise_never_changes_a_choice_and_costs_nothing(measured, monkeypatch):
    monkeypatch.setattr(noise, "SIZES", (0.0, 10.0))
    rows = noise.choices_under_noise(measured)
    still = [row for row in rows if row["noise"] == "0"]
    assert still
    assert all(row["changed"] == 0 and row["predicted_cost"] == 0 for row in still)
    assert any(row["changed"] > 0 for row in rows if row["noise"] == "10")


def test_relative_noise_changes_choices_alike_at_every_magnitude(measured):
    rows = noise.magnitudes_under_noise(measured)
    for row in rows:
        same = [r for r in rows if all(r[k] == row[k] for k in ("depth", "kind", "rule"))]
        assert len({r["relative"] for r in same}) == 1
