"""What is said while runs are done."""

from experiments.running.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_runs_are_counted_and_the_time_that_is_left_follows_what_they_took():
    said: list[str] = []
    clock = Clock()
    progress = Progress(1, said.append, clock)
    progress.expect({"svd_seed0_aaa": 120.0, "svd_seed1_bbb": 120.0, "svd_seed2_ccc": 120.0})
    progress.begin("svd_seed0_aaa")
    clock.now = 240.0
    progress.end("svd_seed0_aaa")
    progress.begin("svd_seed1_bbb")
    assert said == [
        "run 1 of 3: svd_seed0; about 6 minutes left",
        "run 2 of 3: svd_seed1; about 8 minutes left",
    ]


def test_workers_share_what_is_left_and_unknown_runs_take_as_long_as_others():
    said: list[str] = []
    progress = Progress(2, said.append, Clock())
    progress.expect({"a_x": 300.0, "b_x": None})
    progress.begin("a_x")
    progress.begin("c_x")  # asked for by a search, expected by nobody
    assert said == ["run 1 of 2: a; about 5 minutes left", "run 2 of 3: c; about 6 minutes left"]


def test_nothing_is_said_of_time_where_nothing_is_known():
    said: list[str] = []
    Progress(1, said.append, Clock()).begin("a_x")
    assert said == ["run 1 of 1: a"]


def test_a_run_that_is_begun_again_keeps_its_number():
    said: list[str] = []
    progress = Progress(1, said.append, Clock())
    progress.expect({"a_x": None, "b_x": None})
    for name in ("a_x", "b_x", "a_x"):
        progress.begin(name)
    assert [line.split(":")[0] for line in said] == ["run 1 of 2", "run 2 of 2", "run 1 of 2"]
