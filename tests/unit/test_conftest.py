"""What holds for every test of ours is held: leaks fail the test that leaks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tracekit import guard

CONFTEST = Path(__file__).parents[1] / "conftest.py"
REAL = CONFTEST.with_name("real") / "conftest.py"


def run(pytester: pytest.Pytester, program: str) -> pytest.RunResult:
    """The program's tests under our conftest, and the report of one that fails at its end."""
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyfile(program)
    return pytester.runpytest_inprocess("-p", "no:randomly", "--strict-markers")


def test_a_context_that_is_left_current_fails_its_test_and_no_other(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        from opentelemetry import context

        def test_leaks():
            context.attach(context.set_value("who", "a test"))

        def test_after_it():
            assert context.get_value("who") is None
        """,
    )

    done.assert_outcomes(passed=2, errors=1)
    done.stdout.fnmatch_lines(
        ["E *the test leaves a context current: {'who': 'a test'}", "ERROR *::test_leaks*"]
    )


def test_a_thread_of_ours_that_is_left_fails_its_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    monkeypatch.setattr(threading, "told_to_stop", stop.wait, raising=False)
    program = """
        import threading
        import conftest

        conftest._GRACE_S = 0

        def test_leaks():
            for name in ("tracekit-left", "somebody's"):
                threading.Thread(target=threading.told_to_stop, name=name, daemon=True).start()
    """

    done = run(pytester, program)
    stop.set()

    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["E *the test leaves threads behind: tracekit-left"])


SKIPS = """
        import pytest

        @pytest.mark.{marker}
        def test_that_begins():
            pytest.skip("nothing is there")

        @pytest.mark.{marker}
        @pytest.mark.skipif(True, reason="nothing is there")
        def test_that_does_not():
            pass

        @pytest.mark.{marker}
        @pytest.mark.xfail(reason="known")
        def test_that_fails_as_it_is_known_to():
            raise ValueError
    """


@pytest.mark.parametrize(
    ("marker", "servers", "outcomes"),
    [
        ("real", "", {"failed": 1, "errors": 1, "xfailed": 1}),
        ("server", "required", {"failed": 1, "errors": 1, "xfailed": 1}),
        ("server", "", {"skipped": 2, "xfailed": 1}),
        ("shield", "required", {"skipped": 2, "xfailed": 1}),
    ],
)
def test_a_test_that_is_to_run_fails_where_it_is_skipped(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    marker: str,
    servers: str,
    outcomes: dict[str, int],
) -> None:
    monkeypatch.setenv("TEST_SERVERS", servers)

    done = run(pytester, SKIPS.format(marker=marker))

    done.assert_outcomes(**outcomes)
    if "failed" in outcomes:
        done.stdout.fnmatch_lines(["*it is to run, and was skipped:*nothing is there*"])


def test_a_file_of_tests_that_are_to_run_fails_where_it_is_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.mkpydir("servers")  # not as ours, which may be imported already
    (folder / "conftest.py").write_text(REAL.read_text(encoding="utf-8"))
    (folder / "test_all.py").write_text("import pytest; pytest.importorskip('no_such_module')\n")
    monkeypatch.setenv("TEST_SERVERS", "required")

    done = run(pytester, "def test_of_another_file(): pass")

    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*it is to run, and was skipped:*no_such_module*"])


def test_the_shield_raises_in_our_tests() -> None:
    with pytest.raises(LookupError), guard.shielded("a test"):
        raise LookupError


@pytest.mark.shield
def test_the_shield_swallows_where_a_test_is_about_it() -> None:
    assert guard.dropped() == {}
    with guard.shielded("a test"):
        raise LookupError

    assert guard.dropped() == {"internal": 1}
