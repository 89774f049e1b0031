"""Two values of a setting: runs in folders of their own, and their comparison."""

from benchmark.protocols.vary import concerns

ONE = ("emoji", "--seeds", "1 2")
VARY = ("--vary", "TRAINER.ALIGN.BETA=0,1")


def test_the_values_of_a_key_are_compared(checkout):
    done = checkout.base2new(*ONE, *VARY, fake={"emoji": "answers"})
    lines = [line.split("  ")[0] for line in done.stdout.splitlines()]
    names = ["ALIGN, BETA 0", "ALIGN, BETA 1"]
    assert [name for name in lines if name in (*names, "MaPLe", "CoOp", "ZeroshotCLIP")] == [
        "ZeroshotCLIP", "CoOp", "MaPLe", *names, names[1],
    ]  # fmt: skip
    assert "ALIGN, BETA 0 minus each other on test images" in done.stdout
    place = "base2new/train_base/emoji/shots_16/ALIGN/emoji+TRAINER.ALIGN.BETA=0/seed2"
    (call,) = [call for call in checkout.calls() if call["folder"].endswith(place)]
    assert call["opts"]["TRAINER.ALIGN.BETA"] == "0" and len(checkout.calls()) == 2 + 4 + 4 + 8
    tests = [c for c in checkout.calls() if "test_new" in c["folder"] and "BETA=1" in c["folder"]]
    assert tests and all("BETA=1" in call["model_dir"] for call in tests)
    checkout.base2new(*ONE, *VARY)
    assert len(checkout.calls()) == 18  # all are done

    report = [checkout.root / "output", "--compare", "ALIGN, BETA 1"]
    told = checkout.protocol("report", *map(str, report)).stdout
    assert "ALIGN, BETA 1 minus each other" in told and "ALIGN, BETA 0  " in told


def test_nothing_is_compared_where_every_run_has_failed(checkout):
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN", *VARY)
    told = checkout.base2new(*words, fake={"ALIGN/1/base": "error"}, code=1).stdout
    assert "ALIGN, BETA 1  failed" in told and "minus each other" not in told


def test_a_run_with_one_of_the_values_is_the_same_run(checkout):
    """The usual folder has BETA 1 here; its runs are not a third line, nor counted twice."""
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN")
    checkout.base2new(*words)
    checkout.base2new(*words, *VARY)
    told = checkout.protocol("report", str(checkout.output), "--format", "csv").stdout
    assert told.count("\n") == 1 + 2 and told.count("BETA 1,") == told.count("BETA 0,") == 1


def test_several_keys_give_all_choices_and_concern_methods_that_have_them(checkout):
    (checkout.root / "configs/trainers/CoOp/emoji.yaml").write_text("TRAINER: {COOP: {W: 1}}\n")
    more = ("--vary", "OPTIM.LR=0.1,0.2", "--vary", "TRAINER.COOP.W=1,2,3", "--dry-run")
    told = checkout.base2new("emoji", "--seeds", "1", *more).stdout
    assert told.count("# run: ZeroshotCLIP") == 2
    assert told.count("# run: ALIGN on emoji, LR 0.1, seed 1, base") == 1
    assert told.count("# run: ALIGN") == 2 * 2 and told.count("# run: CoOp") == 2 * 2 * 3
    assert "emoji+OPTIM.LR=0.1+TRAINER.COOP.W=3/seed1" in told


def test_tests_concern_methods_that_learn_nothing(checkout):
    file = checkout.root / "configs/trainers/ZeroshotCLIP/emoji.yaml"
    wanted = {"TEST.ATTACK_EPS": True, "OPTIM.LR": False}
    assert {key: concerns(key, "ZeroshotCLIP", file) for key in wanted} == wanted


def test_lists_and_keys_in_lower_case(checkout):
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN", "--dry-run")
    told = checkout.base2new(*words, "--vary", "OPTIM.STEPSIZE=[1],[2]").stdout
    assert told.count("# run: ALIGN on emoji, STEPSIZE [1], ") == 2
    told = checkout.base2new(*words, "--vary", "topk=1,2").stdout
    assert told.count("# run: ALIGN on emoji, topk 1, seed 1") == 2


def test_another_value_beside_finished_runs_offers_it(checkout):
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN")
    checkout.base2new(*words)
    told = checkout.base2new(*words, "TRAINER.ALIGN.BETA", "0", code=2).stderr
    assert "(TRAINER.ALIGN.BETA 1.0, not 0)" in told
    assert "compare both values with --vary TRAINER.ALIGN.BETA=1.0,0, choose" in told
