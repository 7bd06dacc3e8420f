"""Every reference case is a test, or is said to wait for its model."""

from pathlib import Path

from conftest import BESIDE, CASES, ONLY_BESIDE

TESTS = Path(__file__).resolve().parents[1]
WAITING = {
    "dawid_skene_anaesthetist": "observers with error rates of their own",
}


def names(folder):
    return sorted(path.stem for path in folder.glob("*.json"))


def test_every_case_is_read():
    written = "".join(path.read_text() for path in TESTS.rglob("test_*.py") if path.name != Path(__file__).name)
    unread = {name for name in {*names(CASES), *ONLY_BESIDE} if f'"{name}' not in written}
    assert unread == set(WAITING)


def test_the_repository_has_all_but_four():
    assert not set(names(CASES)) & set(ONLY_BESIDE)
    if BESIDE.is_dir():
        assert {*names(CASES), *ONLY_BESIDE} == set(names(BESIDE))
        for name in names(CASES):
            assert (CASES / f"{name}.json").read_bytes() == (BESIDE / f"{name}.json").read_bytes()
