"""Data files in the browser: uploads that survive a lost connection, findings, corrected files, what a model reads."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.studio.browsing import Browsing
from tests.studio.serving import StudioService
from tests.test_files import jsonl

SCRIPT = "<img src=x onerror=window.hacked=1>"
PART = 4 * 1024**2


def large(parts: int) -> bytes:
    """So many parts and a bit."""
    line = (
        b'{"messages": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "'
        + b"a" * 50_000
        + b'"}]}\n'
    )
    return b"".join(line % number for number in range(parts * PART // 50_000 + 1))


def choose(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def saved(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_file_is_uploaded_checked_and_listed_without_a_reload(
    studio: StudioService, page: Page, tmp_path: Path
) -> None:
    page.goto("/studio/files")
    choose(page, saved(tmp_path, "first-upload.jsonl", jsonl(20)))
    row = page.get_by_role("row").filter(has_text="first-upload.jsonl")
    expect(row).to_contain_text("Ready")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("first-upload.jsonl")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    assert Path(download.value.path()).read_bytes() == jsonl(20)


def test_a_lost_connection_goes_on_by_itself_and_sends_nothing_twice(
    studio: StudioService, page: Page, browsing: Browsing, tmp_path: Path
) -> None:
    browsing.complaints.expect("net::ERR", "Failed to load resource")
    sent: list[str] = []
    broken = [True]

    def part(route: Route) -> None:
        if sent and broken[0]:
            route.abort("connectionreset")
        else:
            sent.append(route.request.url)
            route.continue_()

    page.route("**/uploads/*/parts", part)
    content = large(3)
    page.goto("/studio/files")
    choose(page, saved(tmp_path, "cut.jsonl", content))
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    broken[0] = False
    expect(page.get_by_role("row").filter(has_text="cut.jsonl")).to_contain_text("Ready")
    assert len(sent) == 4
    file = studio.azure().files.list().data[0]
    assert studio.azure().files.content(file.id).read() == content


def test_after_a_reload_the_same_file_goes_on_where_it_stopped(
    studio: StudioService, page: Page, browsing: Browsing, tmp_path: Path
) -> None:
    browsing.complaints.expect("net::ERR", "Failed to load resource")
    path, sent, broken = saved(tmp_path, "reload.jsonl", large(2)), [], [True]

    def part(route: Route) -> None:
        if sent and broken[0]:
            route.abort("connectionreset")
        else:
            sent.append(route.request.url)
            route.continue_()

    page.route("**/uploads/*/parts", part)
    page.goto("/studio/files")
    choose(page, path)
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    page.reload()
    expect(page.get_by_text("The upload of reload.jsonl was interrupted")).to_be_visible()
    broken[0] = False
    choose(page, path)
    expect(page.get_by_role("row").filter(has_text="reload.jsonl")).to_contain_text("Ready")
    assert len(sent) == 3 and len(set(sent)) == 1


def test_what_the_api_refuses_is_said_in_its_words(page: Page, browsing: Browsing, tmp_path: Path) -> None:
    browsing.complaints.expect("status of 400")
    page.goto("/studio/files")
    choose(page, saved(tmp_path, "empty.jsonl", b""))
    expect(page.get_by_role("alert")).to_contain_text("bytes has to be the size of the whole file")
    page.get_by_text("From Azure Blob Storage or a web link").click()
    page.get_by_label("File name").fill("linked.jsonl")
    page.get_by_label("Link", exact=True).fill("ftp://example.com/f")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("http", exact=False).filter(has_text="content_url")).to_be_visible()


def test_a_faulty_file_shows_its_places_and_its_corrected_copy_passes(
    studio: StudioService, page: Page, tmp_path: Path
) -> None:
    content = jsonl(12) + b"\n" + jsonl(13)[len(jsonl(12)) : -1] + b",\n" + b'{"messages": broken}\n'
    file = studio.file("faulty.jsonl", content)
    page.goto(f"/studio/files/{file}")
    row = page.get_by_role("row").filter(has_text="invalid_json").filter(has_text="15")
    expect(row.locator("mark")).to_have_text("broken")
    page.get_by_role("button", name="Make a corrected file").click()
    expect(page.get_by_text("Mended places: 2. Lines that only you can mend: 1.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="without the lines").click()
    assert download.value.suggested_filename == "faulty.corrected.jsonl"
    page.goto("/studio/files")
    choose(page, Path(download.value.path()))
    corrected = Path(download.value.path()).read_bytes()
    assert corrected == jsonl(13)
    assert studio.azure().files.retrieve(studio.file("again.jsonl", corrected)).status == "processed"


def test_a_file_s_page_shows_tokens_trained_text_and_lines_of_another_file(studio: StudioService, page: Page) -> None:
    other = jsonl(30)[len(jsonl(20)) :]
    studio.file("validation-overlap.jsonl", other + jsonl(4))
    file = studio.file("tokens.jsonl", jsonl(26))
    page.goto(f"/studio/files/{file}")
    expect(page.get_by_role("img", name="Lengths of the examples")).to_be_visible()
    example = page.get_by_role("article").filter(has=page.get_by_role("heading", name="Line 1", exact=True))
    expect(example.locator(".tunery-text.tunery-trained")).to_have_text("a")
    page.get_by_role("switch", name="As the model reads them").click()
    expect(example.locator(".tunery-text > .tunery-trained").first).to_contain_text("a")
    page.get_by_role("button", name="Further rows").click()
    expect(page.get_by_role("heading", name="Line 6", exact=True)).to_be_visible()
    page.get_by_label("Other file").click()
    page.get_by_role("option", name="validation-overlap.jsonl").click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Examples that stand in both: 10")).to_be_visible()


def test_a_file_is_deleted_after_a_question_and_kept_while_a_job_needs_it(studio: StudioService, page: Page) -> None:
    file = studio.file("needed.jsonl", jsonl(20))
    studio.pull("hold", 1)
    studio.job(file, until=["running"])
    page.goto(f"/studio/files/{file}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("still needs the file")).to_be_visible()
    free = studio.file("free.jsonl", jsonl(20))
    page.goto(f"/studio/files/{free}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page).to_have_url(f"{studio.url}/files")
    expect(page.get_by_role("row").filter(has_text="free.jsonl")).to_have_count(0)


def test_scripts_in_names_and_training_text_stay_text(studio: StudioService, page: Page) -> None:
    line = jsonl(1).replace(b"q0", SCRIPT.encode())
    sound = studio.file(f"{SCRIPT}.jsonl", jsonl(20) + line)
    faulty = studio.file(f"faulty{SCRIPT}.jsonl", jsonl(20) + line.replace(b'"a"', b"{{hacked}}"))
    for path in ("/studio/files", f"/studio/files/{sound}", f"/studio/files/{faulty}"):
        page.goto(path)
        expect(page.get_by_text(SCRIPT, exact=False).first).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.hacked") is None


def test_the_list_is_searched_and_paged_on_the_server(studio: StudioService, page: Page) -> None:
    for number in range(27):
        studio.file(f"many-{number}.jsonl", b"{")
    page.goto("/studio/files")
    page.get_by_label("Search by name or id").fill("MANY-")
    expect(page.get_by_text("1 to 25 of 27")).to_be_visible()
    page.get_by_role("button", name="Further rows").click()
    expect(page.get_by_role("row").filter(has_text="many-0.jsonl")).to_be_visible()
    expect(page).to_have_url(f"{studio.url}/files?search=MANY-")
    page.reload()
    expect(page.get_by_text("1 to 25 of 27")).to_be_visible()


def test_who_may_only_read_finds_uploads_greyed_and_deletion_refused(studio: StudioService, browsing: Browsing) -> None:
    file = studio.file("read-only.jsonl", jsonl(12))
    page: Any = browsing.window(roles=("Cognitive Services OpenAI User",))
    page.goto("/studio/files")
    expect(page.locator("input[type=file]")).to_be_disabled()
    page.goto(f"/studio/files/{file}")
    expect(page.get_by_role("button", name="Delete")).to_be_disabled()
