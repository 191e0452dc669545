# SPDX-License-Identifier: Apache-2.0
import asyncio
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.sources import PolicyDirectory, SourceError, SourcesError
from appliance.sources.policy_directory import AT_ONCE
from rules.policy import LoadResult, Resource, ResourceError, load_documents
from rules.policy.model import Metadata, TierSpec


def item(name: str, value: str, file: str, line: int) -> Resource:
    """A tier; its label says which version it is."""
    return Resource("Tier", Metadata(name, "", {"value": value}, {}), TierSpec(), file, line)


def problem(
    message: str, file: str, line: int, kind: str = "", name: str = "", field: str | None = None
) -> ResourceError:
    return ResourceError(message, file=file, line=line, field=field, kind=kind, name=name)


def result(resources: Sequence[Resource], errors: Sequence[ResourceError]) -> LoadResult:
    return LoadResult(tuple(resources), tuple(errors), (), ())


def load(text: str, file: str) -> LoadResult:
    """One resource per line: "name value"; "name !" is an invalid one, "!!" a line of which nothing can be known."""
    items, errors = [], []
    for line, content in enumerate(text.splitlines(), 1):
        name, _, value = content.partition(" ")
        if content == "!!":
            errors.append(problem("broken", file, line))
        elif value == "!":
            errors.append(problem("invalid", file, line, "Tier", name, "spec.order"))
        else:
            items.append(item(name, value, file, line))
    return result(items, errors)


def values(source: PolicyDirectory) -> dict[str, str]:
    found = asyncio.run(source.resync()).all()
    return {resource.name: resource.metadata.labels["value"] for resource in found}


def test_invalid_document_keeps_the_earlier_version_and_the_others_change(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one 1\ntwo 1\nthree 1")
    source = PolicyDirectory([tmp_path], load)
    assert values(source) == {"one": "1", "two": "1", "three": "1"}
    (tmp_path / "a.yaml").write_text("one !\ntwo 2")
    assert values(source) == {"one": "1", "two": "2"}
    snapshot = asyncio.run(source.snapshot())
    assert snapshot.errors == (SourceError("invalid", str(tmp_path / "a.yaml"), 1, "spec.order"),)
    assert snapshot.kept == (str(tmp_path / "a.yaml"),)
    (tmp_path / "a.yaml").write_text("one !\ntwo !")
    assert values(source) == {"one": "1", "two": "2"}
    (tmp_path / "a.yaml").write_text("two 3")
    assert values(source) == {"two": "3"}
    assert asyncio.run(source.snapshot()).errors == ()


def test_mistyped_kind_keeps_the_resource_of_that_name(tmp_path: Path) -> None:
    def load_typo(text: str, file: str) -> LoadResult:
        return (
            result((), (problem("unknown kind", file, 1, "Teir", "one", "kind"),)) if "!" in text else load(text, file)
        )

    (tmp_path / "a.yaml").write_text("one 1\ntwo 1")
    source = PolicyDirectory([tmp_path], load_typo)
    values(source)
    (tmp_path / "a.yaml").write_text("one !")
    assert values(source) == {"one": "1"}


def test_namespaced_resource_is_kept_by_its_full_name(tmp_path: Path) -> None:
    endpoint = """
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: s, namespace: lab, labels: {value: "1"}}
spec: {nets: [10.0.0.1/32]}
"""
    (tmp_path / "a.yaml").write_text(endpoint)
    source = PolicyDirectory([tmp_path], load_documents)
    assert values(source) == {"s": "1"}
    (tmp_path / "a.yaml").write_text(endpoint.replace("/32", "/33"))
    assert values(source) == {"s": "1"}


def test_error_that_names_no_resource_keeps_all_earlier_ones_of_that_file_only(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one 1\ntwo 1")
    (tmp_path / "b.yaml").write_text("three 1")
    source = PolicyDirectory([tmp_path], load)
    values(source)
    (tmp_path / "a.yaml").write_text("one 2\n!!")
    (tmp_path / "b.yaml").unlink()
    assert values(source) == {"one": "2", "two": "1"}


def test_document_that_stops_being_utf8_stays_in_force(tmp_path: Path) -> None:
    tier = "---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: %s, labels: {value: '%s'}}\n"
    (tmp_path / "a.yml").write_text(tier % ("one", 1) + tier % ("two", 1))
    source = PolicyDirectory([tmp_path], load_documents)
    values(source)
    (tmp_path / "a.yml").write_bytes((tier % ("one", "\udcff") + tier % ("two", 2)).encode(errors="surrogateescape"))
    assert values(source) == {"one": "1", "two": "2"}
    (error,) = asyncio.run(source.snapshot()).errors
    assert (error.line, error.message) == (4, "not UTF-8")


def test_file_that_becomes_too_large_is_not_read_and_stays_in_force(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one 1")
    source = PolicyDirectory([tmp_path], load)
    assert values(source) == {"one": "1"}
    with (tmp_path / "a.yaml").open("r+b") as file:
        file.truncate(1 << 40)  # more than there is memory
    assert values(source) == {"one": "1"}
    assert "larger than 16 MiB" in str(asyncio.run(source.snapshot()).errors[0])


def test_invalid_new_resource_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one !")
    assert values(PolicyDirectory([tmp_path], load)) == {}


def test_second_definition_is_an_error_and_the_first_stays(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one 1")
    (tmp_path / "b.yaml").write_text("one 2")
    source = PolicyDirectory([tmp_path], load)
    assert values(source) == {"one": "1"}
    assert "already defined in" in str(asyncio.run(source.snapshot()).errors[0])


def test_resource_that_moved_to_another_file_wins_over_the_kept_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one 1")
    source = PolicyDirectory([tmp_path], load)
    values(source)
    (tmp_path / "a.yaml").write_text("!!")
    (tmp_path / "b.yaml").write_text("one 2")
    assert values(source) == {"one": "2"}


def test_other_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    for name in (".a.yaml", "a.txt", "a.yaml.swp"):
        (tmp_path / name).write_text("one 1")
    assert values(PolicyDirectory([tmp_path], load)) == {}


def test_missing_directory_is_an_error_only_when_required(tmp_path: Path) -> None:
    with pytest.raises(SourcesError, match="does not exist"):
        asyncio.run(PolicyDirectory([tmp_path / "none"], load, required=True).snapshot())
    assert asyncio.run(PolicyDirectory([tmp_path / "none"], load).snapshot()).items == {}


def watched(source: PolicyDirectory, steps: list[tuple[Callable[[], object], dict[str, str]]]) -> None:
    """After each step, the watch tells the expected state within five seconds."""

    async def dialogue() -> None:
        seen: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def follow() -> None:
            async for snapshot in source.watch():
                seen.put_nowait({found.name: found.metadata.labels["value"] for found in snapshot.all()})

        await source.snapshot()
        task = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        for act, expected in steps:
            act()
            state: dict[str, str] = {}
            async with asyncio.timeout(5):
                while state != expected:
                    state = await seen.get()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(dialogue())


def test_watch_tells_writes_replacements_and_removals(tmp_path: Path) -> None:
    def replace() -> None:
        (tmp_path / "new").write_text("one 2")
        (tmp_path / "new").replace(tmp_path / "a.yaml")

    watched(
        PolicyDirectory([tmp_path], load),
        [
            (lambda: (tmp_path / "a.yaml").write_text("one 1"), {"one": "1"}),
            (replace, {"one": "2"}),
            (lambda: (tmp_path / "a.yaml").unlink(), {}),
        ],
    )


def test_watch_finds_a_directory_that_appears_and_one_that_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "policy.d"

    def make(value: str) -> None:
        folder.mkdir()
        (folder / "a.yaml").write_text(f"one {value}")

    def swap() -> None:
        folder.rename(tmp_path / "old")
        make("2")

    watched(
        PolicyDirectory([folder], load),
        [
            (lambda: make("1"), {"one": "1"}),
            (swap, {"one": "2"}),
            (lambda: (folder / "a.yaml").write_text("one 3"), {"one": "3"}),
        ],
    )


Content = st.lists(st.sampled_from(["one 1", "one 2", "two 1", "three 1", "four 1", "one !", "!!"]), max_size=3)
Edit = st.tuples(st.sampled_from(["a.yaml", "b.yaml", "c.yaml"]), st.none() | Content)


@settings(deadline=None)  # it reads files, in threads
@given(st.lists(Edit, max_size=12))
def test_a_look_at_the_changed_files_finds_what_a_look_at_all_finds(edits: list[tuple[str, list[str] | None]]) -> None:
    async def dialogue(directory: Path) -> None:
        some, every = (PolicyDirectory([directory], load) for _ in range(2))
        await some.snapshot()
        await every.snapshot()
        for name, content in edits:
            path = directory / name
            if content is None:
                path.unlink(missing_ok=True)
            else:
                fresh = directory / "new"  # another inode each time: the clock may be too coarse to tell versions apart
                fresh.write_text("\n".join(content))
                fresh.replace(path)
            one = await some._refresh(everything=False, paths=frozenset({path}))
            all_of_it = await every.resync()
            assert (one.all(), one.errors, one.kept) == (all_of_it.all(), all_of_it.errors, all_of_it.kept)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(dialogue(Path(folder)))


@pytest.mark.parametrize(
    ("changed", "inline"),
    [({"small.yaml": "one 2"}, True), ({"gone.yaml": None}, True),
     ({"large.yaml": "two 2\n" + "#" * AT_ONCE}, False), ({"small.yaml": "one 2", "other.yaml": "three 1"}, False)],
    ids=["small", "gone", "large", "several"],
)  # fmt: skip
def test_one_small_file_is_read_without_a_thread(
    tmp_path: Path, changed: dict[str, str | None], inline: bool
) -> None:
    """Which may wake up milliseconds later."""
    readers: list[int] = []

    def noted(text: str, file: str) -> LoadResult:
        readers.append(threading.get_ident())
        return load(text.partition("#")[0], file)

    async def dialogue() -> None:
        source = PolicyDirectory([tmp_path], noted)
        await source.snapshot()
        readers.clear()
        for name, content in changed.items():
            if content is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_text(content)
        found = await source._refresh(everything=False, paths=frozenset(tmp_path / name for name in changed))
        own = threading.get_ident()
        assert all((reader == own) is inline for reader in readers)
        assert len(readers) == sum(content is not None for content in changed.values())
        expected = {"small.yaml": "one 1", "gone.yaml": "four 1"} | changed
        assert {resource.name for resource in found.all()} == {text.split()[0] for text in expected.values() if text}

    (tmp_path / "small.yaml").write_text("one 1")
    (tmp_path / "gone.yaml").write_text("four 1")
    asyncio.run(dialogue())
