"""Skipping, resuming, failing and running side by side, with toy commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.miniature.job.runner import Runner
from examples.miniature.job.stage import Stage, content_digest, stage_key
from src.common.errors import UserError
from src.common.paths import REPO_ROOT


def shell(name: str, script: str, after: tuple[str, ...] = (), *outputs: str, **extra: object) -> Stage:
    paths = tuple(Path(output) for output in outputs)
    return Stage(name, f"stage {name}", ("bash", "-c", script), after, outputs=paths, **extra)  # type: ignore[arg-type]


def counted(name: str, after: tuple[str, ...] = ()) -> Stage:
    """A stage that adds a line to NAME.runs and makes NAME.out."""
    return shell(name, f"echo run >> {name}.runs; echo {name} > {name}.out", after, f"{name}.out")


def runs(folder: Path, name: str) -> int:
    path = folder / f"{name}.runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "job", cwd=tmp_path, cores=2)


def test_runs_once_then_skips_and_keeps_the_seconds(runner: Runner, tmp_path: Path) -> None:
    stages = [shell("a", "sleep 0.2; touch a.out; echo run >> a.runs", (), "a.out"), counted("b", ("a",))]
    first = runner.run(stages)
    second = runner.run(stages)
    assert (runs(tmp_path, "a"), runs(tmp_path, "b")) == (1, 1)
    assert first["a"].seconds == second["a"].seconds and (first["a"].seconds or 0) >= 0.2
    assert (tmp_path / "job" / "logs" / "a.log").read_text().startswith("$ bash -c")


def test_changed_command_runs_again_with_all_that_follows(runner: Runner, tmp_path: Path) -> None:
    last, other = counted("c", ("b",)), counted("other")
    runner.run([counted("a"), counted("b", ("a",)), last, other])
    changed = shell("a", "echo run >> a.runs; echo new > a.out", (), "a.out")
    runner.run([changed, counted("b", ("a",)), last, other])
    assert [runs(tmp_path, name) for name in ("a", "b", "c", "other")] == [2, 2, 2, 1]


def test_changed_file_runs_again(runner: Runner, tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    stage = Stage("a", "a", ("bash", "-c", "echo run >> a.runs"), files=(Path("source.txt"),))
    for text in ("one", "one", "two"):
        source.write_text(text)
        runner.run([stage])
    assert runs(tmp_path, "a") == 2


def test_missing_output_runs_again(runner: Runner, tmp_path: Path) -> None:
    runner.run([counted("a")])
    (tmp_path / "a.out").unlink()
    runner.run([counted("a")])
    assert runs(tmp_path, "a") == 2


def test_force_runs_all_again(runner: Runner, tmp_path: Path) -> None:
    for force in (False, True):
        runner.run([counted("a"), counted("b", ("a",))], force=force)
    assert (runs(tmp_path, "a"), runs(tmp_path, "b")) == (2, 2)


def test_failure_is_one_message_with_the_end_of_the_log(runner: Runner, tmp_path: Path) -> None:
    stages = [counted("a"), shell("bad", "for i in $(seq 50); do echo line $i; done; echo boom >&2; exit 7", ("a",))]
    with pytest.raises(UserError) as caught:
        runner.run([*stages, counted("never", ("bad",))])
    message = str(caught.value)
    assert "stage 'bad' failed with exit code 7" in message and "boom" in message and "line 50" in message
    assert "line 10\n" not in message and "bad.log" in message
    assert runs(tmp_path, "never") == 0


def test_after_a_failure_the_job_goes_on_where_it_stopped(runner: Runner, tmp_path: Path) -> None:
    stages = [counted("a"), shell("b", "test -e allowed && touch b.out", ("a",), "b.out"), counted("c", ("b",))]
    with pytest.raises(UserError, match="stage 'b'"):
        runner.run(stages)
    (tmp_path / "allowed").touch()
    runner.run(stages)
    assert (runs(tmp_path, "a"), runs(tmp_path, "c")) == (1, 1)


def test_interrupted_work_is_kept_but_stale_work_is_removed(runner: Runner, tmp_path: Path) -> None:
    script = "mkdir -p work; ls work | wc -l > seen; touch work/part; test -e allowed"
    with pytest.raises(UserError):
        runner.run([shell("a", script, (), "work")])
    (tmp_path / "allowed").touch()
    runner.run([shell("a", script, (), "work")])
    assert (tmp_path / "seen").read_text().strip() == "1", "the same work finds what the interrupted run left"
    runner.run([shell("a", script + "; true", (), "work")])
    assert (tmp_path / "seen").read_text().strip() == "0", "other work starts from nothing"


def test_success_without_the_promised_output_is_an_error(runner: Runner) -> None:
    with pytest.raises(UserError, match="did not write a.out"):
        runner.run([shell("a", "true", (), "a.out")])


def test_a_command_that_does_not_exist_is_one_message(runner: Runner) -> None:
    with pytest.raises(UserError, match="stage 'a' cannot start"):
        runner.run([Stage("a", "a", ("no-such-program-here",))])


def test_only_needs_what_comes_before(runner: Runner, tmp_path: Path) -> None:
    stages = [counted("a"), counted("b", ("a",))]
    with pytest.raises(UserError, match="needs 'a', which is not done"):
        runner.run_one(stages, "b")
    with pytest.raises(UserError, match="unknown stage 'x'; known: a, b"):
        runner.run_one(stages, "x")
    runner.run_one(stages, "a")
    runner.run_one(stages, "b")
    runner.run(stages)
    assert (runs(tmp_path, "a"), runs(tmp_path, "b")) == (1, 1)


def test_independent_stages_run_side_by_side_within_the_cores(tmp_path: Path) -> None:
    wait = "for i in $(seq 100); do test -e {other} && exit 0; sleep 0.05; done; exit 1"
    pair = [
        shell("a", "touch a.here; " + wait.format(other="b.here")),
        shell("b", "touch b.here; " + wait.format(other="a.here")),
    ]
    Runner(tmp_path / "two", tmp_path, cores=2).run(pair)
    log = "date +%s.%N >> times; sleep 0.3; date +%s.%N >> times"
    Runner(tmp_path / "one", tmp_path, cores=1).run([shell("c", log), shell("d", log)])
    times = [float(line) for line in (tmp_path / "times").read_text().splitlines()]
    assert times == sorted(times) and times[2] >= times[1]


def test_a_failure_ends_what_runs_beside_it(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "job", tmp_path, cores=2)
    stages = [shell("long", "echo $$ > pid; sleep 60"), shell("bad", "sleep 0.5; exit 1")]
    began = time.monotonic()
    with pytest.raises(UserError, match="stage 'bad'"):
        runner.run(stages)
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_stages_must_differ_in_name_and_stand_in_order(runner: Runner) -> None:
    with pytest.raises(UserError, match="two stages are named"):
        runner.run([counted("a"), counted("a")])
    with pytest.raises(UserError, match="must come before"):
        runner.run([counted("b", ("a",)), counted("a")])


def test_key_depends_on_command_environment_and_inputs(tmp_path: Path) -> None:
    stage = Stage("a", "a", ("x",), after=("b",))
    key = stage_key(stage, {"b": "1"}, tmp_path)
    assert key == stage_key(stage, {"b": "1", "unrelated": "2"}, tmp_path)
    assert key != stage_key(stage, {"b": "2"}, tmp_path)
    assert key != stage_key(Stage("a", "a", ("x",), after=("b",), env={"A": "1"}), {"b": "1"}, tmp_path)


def test_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = content_digest(folder)
    (folder / "a").rename(folder / "b")
    assert content_digest(folder) != first
    assert content_digest(tmp_path / "nothing") is None


def test_shown_command_can_be_pasted() -> None:
    stage = Stage("a", "a", ("python", "x.py", "names={a:b}"), env={"ROOT": "some dir"})
    assert stage.shown == "ROOT='some dir' python x.py 'names={a:b}'"


def test_ending_the_driver_ends_its_commands(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from examples.miniature.job.runner import Runner; "
        "from examples.miniature.job.stage import Stage; signal.signal(signal.SIGTERM, signal.default_int_handler); "
        f"Runner(Path({str(tmp_path)!r}) / 'job', Path({str(tmp_path)!r}))"
        ".run([Stage('a', 'a', ('bash', '-c', 'echo $$ > pid; sleep 60'))])"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=REPO_ROOT, stderr=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    for _ in range(200):
        if pid.exists() and pid.read_text().strip():
            break
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
