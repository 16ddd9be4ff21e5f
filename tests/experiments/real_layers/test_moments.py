import torch


def test_statistics_from_dense_moments_are_those_that_the_library_collects(measured):
    for place, candidate in measured.layers:
        found = measured.moments[place].statistics(candidate.factors)
        for name in ("C_z", "gradient_B", "gradient_A", "gram_B", "gram_A"):
            expected = getattr(candidate.statistics, name).to(getattr(found, name))
            torch.testing.assert_close(
                getattr(found, name), expected, rtol=1e-3, atol=1e-7, msg=f"{place} {name}"
            )
        torch.testing.assert_close(found.U, candidate.statistics.U, rtol=1e-3, atol=1e-9)
