from experiments.tasks import TASKS

TASK = TASKS["human_eval"]


def test_the_canonical_solutions_pass_and_a_wrong_one_does_not():
    for example in TASK.test(20):
        body = TASK.read_answer(example.target)
        assert TASK.judge(body, example), example.prompt
        assert not TASK.judge("    return None", example)


def test_splits_are_disjoint_and_functions_are_whole():
    test, validation, train = TASK.test(164), TASK.validation(100), TASK.train(1_000, seed=0)
    assert (len(test), len(validation), len(train)) == (164, 100, 1_000)
    prompts = {e.prompt for e in train}
    assert prompts.isdisjoint(e.prompt for e in test + validation)
    assert len(prompts) == 1_000
    names = {e.prompt.removeprefix("def ").partition("(")[0] for e in train + validation}
    assert names.isdisjoint(e.prompt.rsplit("def ", 1)[1].partition("(")[0] for e in test)
    for e in train[:200]:
        compile(e.prompt + e.target, "function", "exec")
        assert e.target.startswith("    ")
    assert TASK.train(50, seed=0) == train[:50] != TASK.train(50, seed=1)
    assert not TASK.judge("    pass", validation[0])
