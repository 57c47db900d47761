"""Reports of a worker reach the driver whole, once, and in order."""

from rl_empathy.observability.reports import Follower, append_report


def test_a_follower_gives_each_whole_line_once_and_waits_for_a_torn_one(tmp_path):
    path = tmp_path / "reports.jsonl"
    follower = Follower(path)
    assert list(follower.new()) == [], "the file is yet to come"
    append_report(path, 1, {"base/loss": 2.0})
    append_report(path, 2, {"base/loss": 1.5})
    with path.open("a") as file:
        file.write('{"step": 3, "base')
    assert [report["step"] for report in follower.new()] == [1, 2]
    assert list(follower.new()) == []
    with path.open("a") as file:
        file.write('/loss": 1.25}\n')
    assert list(follower.new()) == [{"step": 3, "base/loss": 1.25}]


def test_a_line_that_a_kill_tore_is_passed_over(tmp_path):
    path = tmp_path / "reports.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo{"step": 2}\n{"step": 3}\n')
    assert [report["step"] for report in Follower(path).new()] == [1, 3]
